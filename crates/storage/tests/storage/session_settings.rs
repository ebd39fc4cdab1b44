//! What sessions rely on, whatever the role and the database are set to.

use std::time::Duration;

use diesel::sql_types::Text;
use diesel::{QueryableByName, sql_query};
use diesel_async::RunQueryDsl;
use local_stack::testing::eventually;
use storage::inbox::Stream;
use storage::inbox::dead_letters::held_keys;
use storage::lease::{MemberId, claim, ensure_units, renew};
use storage::outbox::{Destination, Hold, HoldCause, append, hold};
use storage::{Connection, Session};

use crate::support::{Fixture, TTL, event, read_all};

const PATIENCE: Duration = Duration::from_secs(20);

/// Set for everybody else of this database.
const HOSTILE: [(&str, &str); 8] = [
    ("default_transaction_isolation", "'repeatable read'"),
    ("idle_session_timeout", "'100ms'"),
    ("lock_timeout", "'1ms'"),
    ("statement_timeout", "'1ms'"),
    ("idle_in_transaction_session_timeout", "'1ms'"),
    ("enable_indexscan", "off"),
    ("enable_nestloop", "off"),
    ("application_name", "'x'"),
];

impl Fixture {
    async fn set_all(&self, settings: &[(&str, &str)]) {
        let name = self.text("select current_database()::text").await;
        for (setting, value) in settings {
            self.run(&format!("alter database {name} set {setting} = {value}"))
                .await;
        }
    }

    /// Runs until somebody waits for a lock of this database's.
    async fn until_one_waits(&self) {
        let waiting = "select count(*) from pg_locks l join pg_database d on d.oid = l.database
                       where not l.granted and l.locktype = 'advisory'
                         and d.datname = current_database()";
        eventually("one who waits for the lock", PATIENCE, async || {
            (self.number(waiting).await > 0).then_some(())
        })
        .await;
    }
}

async fn shown(conn: &mut Connection, setting: &str) -> String {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Text)]
        value: String,
    }
    let query = format!("select current_setting('{setting}') as value");
    let row: Row = sql_query(query).get_result(conn).await.unwrap();
    row.value
}

#[tokio::test]
async fn sessions_set_what_they_rely_on() {
    let fixture = Fixture::new().await;
    fixture.set_all(&HOSTILE).await;
    for session in [
        Session::request("test"),
        Session::leased("test", TTL).with_index_plans(),
        Session::long_running("test").with_index_plans(),
    ] {
        let mut conn = fixture.database.connect(&session).await.unwrap();
        for (setting, hostile) in HOSTILE {
            let value = shown(&mut conn, setting).await;
            let exempt = setting.starts_with("enable_") && value == "off";
            assert!(
                value != hostile.trim_matches('\'') && !exempt || is_default(&session, setting),
                "{setting} is {value}"
            );
        }
        let isolation = shown(&mut conn, "transaction_isolation").await;
        assert_eq!(isolation, "read committed");
        assert_eq!(shown(&mut conn, "idle_session_timeout").await, "0");
    }
}

/// The planner's settings matter where index plans are asked for.
fn is_default(session: &Session, setting: &str) -> bool {
    setting.starts_with("enable_") && !format!("{session:?}").contains("IndexOnly")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_behind_a_lock_sees_what_happened_meanwhile() {
    for isolation in ["'repeatable read'", "serializable"] {
        let fixture = Fixture::new().await;
        fixture
            .set_all(&[("default_transaction_isolation", isolation)])
            .await;
        let mut conn = fixture.connect().await;
        append(&mut conn, &[event("k"), event("k")]).await.unwrap();
        let pending = read_all(&mut conn).await;
        let second = &pending[1];
        let (slot, me) = (second.slot, MemberId::generate());
        let unit = i32::from(slot.number());
        ensure_units(&mut conn, "outbox", 32).await.unwrap();
        renew(&mut conn, "outbox", me, TTL).await.unwrap();
        let claimed = claim(&mut conn, "outbox", me, &[(unit, 0)]).await.unwrap();
        // The first is dead, and a command is about to re-drive it.
        fixture
            .run(
                "with moved as (delete from outbox_pending where id = 1 returning slot, id)
                 insert into outbox_held (bytes, id, slot, topic, key, cause)
                 select 10, id, slot, 't', 'k', 'dead' from moved",
            )
            .await;
        fixture
            .run(
                "begin;
                 select pg_advisory_xact_lock(hashtextextended('t' || chr(31) || 'k', 7));
                 with moved as (delete from outbox_held returning slot, id)
                 insert into outbox_pending (slot, id, bytes) select slot, id, 1 from moved",
            )
            .await;
        let blocked = Hold {
            slot,
            epoch: claimed[0].epoch,
            id: second.id,
            version: second.version,
            topic: "t".to_owned(),
            key: "k".to_owned(),
            destination: Destination::NOWHERE,
            cause: HoldCause::Blocked,
            error: None,
            attempts: 0,
        };
        let holding = tokio::spawn(async move { hold(&mut conn, "outbox", me, &[blocked]).await });
        let other = Fixture {
            database: fixture.database.clone(),
            sql: fixture.test.connect().await,
            test: fixture.test,
        };
        other.until_one_waits().await;
        fixture.sql.batch_execute("commit").await.unwrap();
        let held = holding.await.unwrap().unwrap();
        assert_eq!(
            held,
            [],
            "{isolation}: held behind one that is held no more"
        );
        assert_eq!(other.number("select count(*) from outbox_held").await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_look_at_held_keys_sees_what_a_command_did() {
    for isolation in ["'repeatable read'", "serializable"] {
        let fixture = Fixture::new().await;
        fixture
            .set_all(&[("default_transaction_isolation", isolation)])
            .await;
        let stream = Stream {
            group: "g".to_owned(),
            topic: "t".to_owned(),
            partition: 0,
        };
        // A command settles the record under all of the group's locks.
        fixture
            .run(
                "insert into inbox_dead_letter (consumer_group, topic, partition, \"offset\", key,
                                                value, cause, reason, attempts)
                 values ('g', 't', 0, 1, 'k', 'v', 'dead', 'r', 1)",
            )
            .await;
        fixture
            .run(
                "begin;
                 select pg_advisory_xact_lock(7597117852321801472 + stripe)
                 from generate_series(0, 63) stripe;
                 update inbox_dead_letter set settled_at = now(), settled_as = 'discarded'",
            )
            .await;
        let mut conn = fixture.connect().await;
        let looking = tokio::spawn(async move {
            diesel_async::AsyncConnection::transaction(&mut conn, async |conn| {
                held_keys(conn, &stream, &[b"k".as_slice()]).await
            })
            .await
        });
        let other = Fixture {
            database: fixture.database.clone(),
            sql: fixture.test.connect().await,
            test: fixture.test,
        };
        other.until_one_waits().await;
        fixture.sql.batch_execute("commit").await.unwrap();
        let held = looking.await.unwrap().unwrap();
        assert!(held.is_empty(), "{isolation}: blocked by nothing");
    }
}
