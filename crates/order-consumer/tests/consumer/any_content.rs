//! An event type whose payload is not JSON, and for which a tombstone is an event.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use diesel_async::SimpleAsyncConnection;
use domain::events::DecodeError;
use domain::{Body, Content, EncodedEvent, EventId, EventType, NewEvent, Received};
use futures::FutureExt;
use futures::future::BoxFuture;
use order_consumer::Registry;
use order_consumer::handlers::{Handler, HandlerError};
use storage::{Connection, StorageError};

use crate::support::{Fixture, drain, record};

/// A picture of a product, or that there is none any more.
enum Picture {
    Shown(Vec<u8>),
    Removed,
}

impl EventType for Picture {
    const TYPE: &'static str = "ProductPicture";
    const TOPIC: &'static str = "product.picture";
    const VERSION: i16 = 1;

    fn decode(event: &EncodedEvent<'_>) -> Result<Self, DecodeError> {
        match (event.payload, event.content_type) {
            (None, None) => Ok(Self::Removed),
            (Some(bytes), Some("image/png")) => Ok(Self::Shown(bytes.to_vec())),
            (_, other) => Err(DecodeError::Encoding {
                event_type: Self::TYPE,
                version: event.schema_version,
                reason: format!("a picture cannot be {other:?}"),
            }),
        }
    }
}

/// Notes what came.
struct Gallery;

impl Handler<Picture> for Gallery {
    fn name(&self) -> &'static str {
        "gallery"
    }

    fn apply<'a>(
        &'a self,
        conn: &'a mut Connection,
        events: &'a [Received<&'a Picture>],
    ) -> BoxFuture<'a, Result<(), HandlerError>> {
        async move {
            for received in events {
                let bytes = match received.event {
                    Picture::Shown(bytes) => {
                        format!("decode('{}', 'base64')", BASE64_STANDARD.encode(bytes))
                    }
                    Picture::Removed => "null".to_owned(),
                };
                conn.batch_execute(&format!("insert into gallery (bytes) values ({bytes})"))
                    .await
                    .map_err(StorageError::from)?;
            }
            Ok(())
        }
        .boxed()
    }
}

fn picture(content: Option<Content>) -> NewEvent {
    NewEvent {
        event_id: EventId::generate(),
        topic: Picture::TOPIC.to_owned(),
        key: "P-1".to_owned(),
        event_type: Picture::TYPE.to_owned(),
        schema_version: Picture::VERSION,
        source: Some("/catalogue".into()),
        content,
        headers: std::collections::BTreeMap::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_and_tombstones_reach_the_handlers_that_take_them() {
    let fixture = Fixture::new().await;
    let (_keeper, leases) = fixture.owner().await;
    let table = "create table gallery (id serial, bytes bytea)";
    fixture.sql.batch_execute(table).await.unwrap();
    let registry =
        Registry::default().register_on::<Picture>(&fixture.topic, vec![Box::new(Gallery)]);
    let (mut consumer, metrics) = fixture.consumer_with(0, &leases, registry);
    let content = |content_type: &'static str, bytes: &[u8]| {
        Some(Content {
            content_type: content_type.into(),
            body: Body::Bytes(bytes.to_vec()),
        })
    };
    let pictures = [
        content("image/png", b"\x89PNG\0\xff"),
        None,
        // Another key: this one cannot be read, and the key of the others goes on.
        content("text/plain", b"a dog"),
        content("image/png", b""),
    ];
    let mut records: Vec<_> = pictures.map(picture).map(record).into();
    records[2].key = b"P-2".to_vec();
    fixture.produce(0, records).await;
    assert_eq!(drain(&mut consumer).await, 3);
    assert_eq!(metrics.dead.get(), 1);
    let shown = "select string_agg(coalesce(bytes::text, 'removed'), ' ' order by id) from gallery";
    assert_eq!(fixture.text(shown).await, "\\x89504e4700ff removed \\x");
    let dead = "select reason from inbox_dead_letter";
    assert_eq!(
        fixture.text(dead).await,
        "invalid ProductPicture, version 1: a picture cannot be Some(\"text/plain\")"
    );
}
