//! What other producers may write, by mistake or on purpose: it is held for itself, or it stops its
//! partition until somebody decides, and never anything else.

use std::io::Write;
use std::time::Duration;

use diesel_async::SimpleAsyncConnection;
use domain::{OrderCreated, Position, Received};
use futures::future::BoxFuture;
use local_stack::testing::{RawBatch, RawRecord, detour};
use messaging::OutgoingRecord;
use order_consumer::adapters::postgres::PostgresInbox;
use order_consumer::handlers::{Handler, HandlerError, ProductSales};
use order_consumer::partition::PartitionContext;
use order_consumer::partition::{PartitionConsumer, Step, StepError};
use order_consumer::redrive::{Decision, decide};
use service::CancellationToken;
use storage::inbox::{self, Stream};
use storage::{Connection, Database, Session, StorageError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::servers::{Private, TOPIC};
use crate::support::{Fixture, GROUP, PATIENCE, drain, next_of_key, order};

const UNPACKED: i16 = 0;
const LZ4: i16 = 3;
const ZSTD: i16 = 4;

/// No order, and nothing that says what it is.
fn nonsense(offset_delta: i64, value: &[u8]) -> RawRecord<'_> {
    RawRecord {
        offset_delta,
        value,
        ..RawRecord::default()
    }
}

fn body(records: &[RawRecord<'_>]) -> Vec<u8> {
    let mut body = Vec::new();
    for record in records {
        record.put(&mut body);
    }
    body
}

/// A record as it is, with another header instead of one of its own.
fn with_header<'a>(
    record: &'a OutgoingRecord,
    name: &'a str,
    value: Option<&'a [u8]>,
) -> RawRecord<'a> {
    let mut headers: Vec<_> = record.headers.iter().collect();
    headers.retain(|(own, _)| *own != name);
    let headers = headers.into_iter();
    let headers = headers.map(|(name, value)| (name.as_bytes(), Some(value.as_slice())));
    RawRecord {
        key: Some(&record.key),
        value: record.value.as_deref().unwrap(),
        headers: headers.chain([(name.as_bytes(), value)]).collect(),
        ..RawRecord::default()
    }
}

impl Fixture {
    async fn append(&self, compression: i16, count: i32, body: &[u8]) {
        let place = (self.topic.as_str(), 0);
        let batch = RawBatch::new(compression, count, body);
        batch.produce(&self.brokers, place).await;
    }

    fn stream(&self) -> Stream {
        Stream {
            group: GROUP.to_owned(),
            topic: self.topic.clone(),
            partition: 0,
        }
    }

    pub(crate) async fn reset(&self, next_offset: i64) {
        let mut conn = self
            .database
            .connect(&Session::request("test"))
            .await
            .unwrap();
        let stream = self.stream();
        inbox::reset(&mut conn, &stream, next_offset, None)
            .await
            .unwrap();
    }
}

const LARGE: usize = 15_000_000;
const LARGER: usize = 20_000_000;
const RECORDS: i64 = 40;
/// Two records are in hand or fetched ahead, some times over on their way to Postgres. All of them
/// have 600 MB.
const BOUND: u64 = 320 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn p10_what_kafka_has_packed_a_thousandfold_does_not_fill_memory() {
    let private = Private::new().await;
    let sizes = (0..RECORDS).map(|_| LARGE).chain([LARGER]);
    for size in sizes {
        let zeros = vec![0; size];
        let packed = zstd::encode_all(&body(&[nonsense(0, &zeros)])[..], 0).unwrap();
        let batch = RawBatch::new(ZSTD, 1, &packed);
        batch.produce(&private.brokers, (TOPIC, 0)).await;
    }
    private.produce(0, vec![order("P-1", 1)]).await;
    let consumer = private.start();
    private.until_sold(1).await;
    let peak = consumer.peak_memory();
    println!("{} MiB at most", peak / 1024 / 1024);
    assert!(peak < BOUND, "{peak} bytes");
    let sql = private.sql().await.unwrap();
    let held = format!(
        "select count(*) filter (where octet_length(value) = {LARGE}),
                count(*) filter (where value is null and omitted_bytes > {LARGER})
         from inbox_dead_letter where cause = 'dead'"
    );
    let row = sql.query_one(&held, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (RECORDS, 1));
}

/// A way to Postgres where every request takes a while longer.
async fn slow_way(url: &str, delay: Duration) -> Database {
    let url = detour(url, move |client, server| async move {
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let requests = async {
            let mut bytes = vec![0; 1 << 20];
            while let Ok(length @ 1..) = from_client.read(&mut bytes).await {
                tokio::time::sleep(delay).await;
                to_server.write_all(&bytes[..length]).await?;
            }
            to_server.shutdown().await
        };
        let answers = tokio::io::copy(&mut from_server, &mut to_client);
        let _ = tokio::join!(requests, answers);
    });
    url.await.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn p8_a_flood_of_nonsense_passes_where_postgres_is_far_away() {
    const FLOOD: i32 = 2_500;
    let fixture = Fixture::new().await;
    let (_keeper, leases) = fixture.owner().await;
    let flood: Vec<_> = (0..FLOOD.into())
        .map(|delta| nonsense(delta, b"{}"))
        .collect();
    fixture.append(UNPACKED, FLOOD, &body(&flood)).await;
    fixture.produce(0, vec![order("P-1", 1)]).await;
    let (context, metrics) = fixture.context(0, &leases);
    let mut consumer = PartitionConsumer::new(PartitionContext {
        inbox: Box::new(PostgresInbox::new(
            slow_way(fixture.test.url(), Duration::from_millis(4)).await,
            Session::leased("test", Duration::from_secs(10)),
        )),
        ..context
    });
    // One by one they would take longer than a transaction may.
    let new = timeout(Duration::from_secs(9), drain(&mut consumer)).await;
    assert_eq!(new.unwrap(), 1);
    assert_eq!(metrics.dead.get(), u64::try_from(FLOOD).unwrap());
}

/// Takes its time for each event.
struct Slow;

impl Handler<OrderCreated> for Slow {
    fn name(&self) -> &'static str {
        "slow"
    }

    fn apply<'a>(
        &'a self,
        conn: &'a mut Connection,
        events: &'a [Received<&'a OrderCreated>],
    ) -> BoxFuture<'a, Result<(), HandlerError>> {
        Box::pin(async move {
            for _ in events {
                let slept = conn.batch_execute("select pg_sleep(0.01)").await;
                slept.map_err(StorageError::from)?;
            }
            Ok(())
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_too_slow_for_what_was_fetched_get_less_at_once() {
    let fixture = Fixture::new().await;
    let (_keeper, leases) = fixture.owner().await;
    fixture
        .produce(0, (0..300).map(|_| order("P-1", 1)).collect())
        .await;
    let (context, metrics) = fixture.context(0, &leases);
    let mut consumer = PartitionConsumer::new(PartitionContext {
        // A transaction may take two thirds of it.
        inbox: fixture.inbox(Session::leased("test", Duration::from_millis(1_500))),
        registry: fixture.registry(vec![Box::new(Slow)]),
        ..context
    });
    let all = async {
        let mut new = 0;
        while new < 300 {
            match consumer.step(&CancellationToken::new()).await {
                Ok(Step::Applied(applied)) => new += applied.new,
                Ok(_) | Err(StepError::Storage(_)) => {}
                Err(other) => panic!("{other}"),
            }
        }
        new
    };
    assert_eq!(timeout(PATIENCE, all).await.unwrap(), 300);
    assert_eq!((metrics.retries.get(), metrics.dead.get()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn p8_records_that_claim_each_others_place_are_held_each_in_its_own() {
    let fixture = Fixture::new().await;
    let (_keeper, leases) = fixture.owner().await;
    let (mut consumer, metrics) = fixture.consumer(0, &leases);
    for deltas in [[0, 0], [0, 5], [-5, 1]] {
        let records = deltas.map(|delta| nonsense(delta, b"{}"));
        fixture.append(UNPACKED, 2, &body(&records)).await;
    }
    fixture.produce(0, vec![order("P-1", 1)]).await;
    assert_eq!(drain(&mut consumer).await, 1);
    let held =
        "select string_agg(\"offset\"::text, ' ' order by \"offset\") from inbox_dead_letter";
    assert_eq!(fixture.text(held).await, "0 1 2 3 4 5");
    assert_eq!(metrics.dead.get(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packer_that_reckons_wrong_is_read_as_by_others() {
    let fixture = Fixture::new().await;
    let (_keeper, leases) = fixture.owner().await;
    let (mut consumer, _) = fixture.consumer(0, &leases);
    let good = order("P-1", 1);
    // Neither brokers nor Java clients look at the checksum that LZ4 has of its own.
    let packing = lz4::EncoderBuilder::new()
        .checksum(lz4::ContentChecksum::ChecksumEnabled)
        .block_mode(lz4::BlockMode::Independent)
        .build(Vec::new());
    let mut packing = packing.unwrap();
    let records = body(&[with_header(&good, "none", None)]);
    packing.write_all(&records).unwrap();
    let (mut packed, finished) = packing.finish();
    finished.unwrap();
    *packed.last_mut().unwrap() ^= 1;
    fixture.append(LZ4, 1, &packed).await;
    assert_eq!(drain(&mut consumer).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_is_noticed_where_nothing_comes() {
    let fixture = Fixture::new().await;
    let (_keeper, leases) = fixture.owner().await;
    let (mut consumer, metrics) = fixture.consumer(0, &leases);
    fixture
        .produce(0, (0..3).map(|_| order("P-1", 1)).collect())
        .await;
    assert_eq!(drain(&mut consumer).await, 3);
    fixture.reset(0).await;
    let fenced =
        async { while consumer.step(&CancellationToken::new()).await.unwrap() != Step::Fenced {} };
    timeout(Duration::from_secs(15), fenced).await.unwrap();
    assert_eq!(drain(&mut consumer).await, 0);
    assert_eq!(metrics.duplicates.get(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_the_same_only_with_the_same_headers() {
    let fixture = Fixture::new().await;
    let (_keeper, leases) = fixture.owner().await;
    let (mut consumer, metrics) = fixture.consumer(0, &leases);
    let good = order("P-1", 1);
    let unnamed = with_header(&good, "ce_id", None);
    fixture.append(UNPACKED, 1, &body(&[unnamed])).await;
    assert_eq!(drain(&mut consumer).await, 0);
    let settle = "update inbox_dead_letter set settled_at = now(), settled_as = 'discarded'";
    fixture.sql.batch_execute(settle).await.unwrap();
    // Delivered again it is passed over.
    fixture.reset(0).await;
    fixture.produce(0, vec![order("P-2", 1)]).await;
    let (mut consumer, _) = fixture.consumer(0, &leases);
    assert_eq!(drain(&mut consumer).await, 1);
    assert_eq!(metrics.dead.get(), 1);

    // The topic is made anew, and its producer has learnt to name events.
    let before = fixture.topic.clone();
    let mut fixture = fixture;
    fixture.topic = local_stack::testing::unique_topic("anew");
    let ensured = fixture.cluster.ensure_topic(&fixture.topic, 2, 1);
    ensured.await.unwrap();
    let hand_over = format!(
        "update inbox_dead_letter set topic = '{}' where topic = '{before}'",
        fixture.topic
    );
    fixture.sql.batch_execute(&hand_over).await.unwrap();
    fixture.produce(0, vec![good]).await;
    let (_keeper, leases) = fixture.owner().await;
    let (mut consumer, _) = fixture.consumer(0, &leases);
    assert_eq!(drain(&mut consumer).await, 1);
    assert_eq!(fixture.sales("P-1").await, (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_as_good_as_it_came_also_with_headers_that_say_nothing() {
    let fixture = Fixture::new().await;
    let (_keeper, leases) = fixture.owner().await;
    let (mut consumer, _) = fixture.consumer(0, &leases);
    let mut broken = order("P-1", 1);
    broken.value = Some(b"{".to_vec());
    let behind = next_of_key(&broken, "P-1", 1);
    fixture.produce(0, vec![broken]).await;
    let timeless = with_header(&behind, "ce_time", None);
    fixture.append(UNPACKED, 1, &body(&[timeless])).await;
    assert_eq!(drain(&mut consumer).await, 0);
    let session = Session::long_running("test");
    let mut inbox = fixture.inbox(session);
    let first = Position {
        topic: fixture.topic.clone(),
        partition: 0,
        offset: 0,
    };
    let registry = fixture.registry(vec![Box::new(ProductSales)]);
    let decided = decide(
        &mut *inbox,
        GROUP,
        &first,
        Decision::Discard,
        &registry,
        false,
    )
    .await;
    assert_eq!(decided.unwrap().applied, 1);
    assert_eq!(fixture.sales("P-1").await, (1, 1));
}
