//! A database with a connection of ours and one for the test's own SQL.

use std::time::Duration;

use domain::{Content, EventId, NewEvent, Slot};
use local_stack::testing::TestDatabase;
use storage::outbox::{BatchLimits, PendingEvent, Settled, read_pending};
use storage::{Connection, Database, Session};
use tokio_postgres::Client;

pub(crate) const TTL: Duration = Duration::from_secs(10);

pub(crate) struct Fixture {
    pub(crate) database: Database,
    pub(crate) sql: Client,
    /// Dropped last: it takes the database with it.
    pub(crate) test: TestDatabase,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        let test = TestDatabase::create().await;
        Self {
            database: test.url().parse().unwrap(),
            sql: test.connect().await,
            test,
        }
    }

    pub(crate) async fn connect(&self) -> Connection {
        let session = Session::leased("test", TTL).with_index_plans();
        self.database.connect(&session).await.unwrap()
    }

    /// The first column of the only row.
    pub(crate) async fn number(&self, query: &str) -> i64 {
        self.sql.query_one(query, &[]).await.unwrap().get(0)
    }

    pub(crate) async fn text(&self, query: &str) -> String {
        self.sql.query_one(query, &[]).await.unwrap().get(0)
    }

    pub(crate) async fn run(&self, statements: &str) {
        self.sql.batch_execute(statements).await.unwrap();
    }
}

pub(crate) fn event(key: &str) -> NewEvent {
    NewEvent {
        event_id: EventId::generate(),
        topic: "t".to_owned(),
        key: key.to_owned(),
        event_type: "T".to_owned(),
        schema_version: 1,
        source: None,
        content: Some(Content::json("{}".to_owned())),
        headers: [("traceparent".to_owned(), "00-1".to_owned())].into(),
    }
}

/// Of events that name none.
pub(crate) const SOURCE: &str = "/test";

pub(crate) const PLENTY: BatchLimits = BatchLimits {
    events: 1_000,
    bytes: 1_000_000,
    total_bytes: 100_000_000,
    event_bytes: 100_000_000,
};

pub(crate) async fn read_all(conn: &mut Connection) -> Vec<PendingEvent> {
    let slots: Vec<Slot> = Slot::all().collect();
    read_pending(conn, &slots, PLENTY, SOURCE)
        .await
        .unwrap()
        .events
}

pub(crate) fn settled(pending: &PendingEvent, offset: i64) -> Settled {
    Settled {
        slot: pending.slot,
        id: pending.id,
        version: pending.version,
        partition: 0,
        offset,
    }
}
