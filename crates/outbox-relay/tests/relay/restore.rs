//! A dump of a live database, restored into a new cluster, with a relay on the copy.
//!
//! What `pg_dump` and `pg_restore` do, done here by hand: all tables by COPY from one snapshot, no
//! trigger fires while they are loaded, sequences are set. A full restore makes the triggers last,
//! so it needs nothing; a data-only restore into a schema that exists needs `--disable-triggers`:
//! without it the trigger on `outbox_event` queues everything ever written, which collides with
//! the load of `outbox_pending` and, where that is ignored, publishes everything again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use domain::EventId;
use futures::{SinkExt, TryStreamExt};
use local_stack::testing::{Spawned, eventually};
use messaging::envelope;
use storage::outbox::{redrive, verify};
use storage::{Database, Session};
use tokio_postgres::Client;

use crate::own_postgres::OwnPostgres;
use crate::support::{Fixture, PATIENCE, assert_in_order};

const BINARY: &str = env!("CARGO_BIN_EXE_outbox-relay");
const TOO_LARGE: i32 = 1_200_000;

/// All that is in a schema that was just migrated, as docs/operations.md says.
const FILLED_BY_MIGRATIONS: &str = "truncate outbox_sample_hash, __diesel_schema_migrations";

/// The contents of a database at one moment.
struct Dump {
    tables: Vec<(String, Vec<u8>)>,
    sequences: Vec<(String, i64)>,
    /// The state of each event.
    states: BTreeMap<i64, String>,
}

impl Dump {
    async fn take(sql: &mut Client) -> Self {
        let snapshot = sql
            .build_transaction()
            .isolation_level(tokio_postgres::IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await
            .unwrap();
        let rows = "select tablename::text from pg_tables where schemaname = current_schema()";
        let mut tables = Vec::new();
        for row in snapshot.query(rows, &[]).await.unwrap() {
            let table: String = row.get(0);
            let copy = format!("copy {table} to stdout");
            let chunks = snapshot.copy_out(&copy).await.unwrap();
            let chunks: Vec<_> = Box::pin(chunks).try_collect().await.unwrap();
            tables.push((table, chunks.concat()));
        }
        let sequences = "select sequencename::text, last_value from pg_sequences
                         where schemaname = current_schema() and last_value is not null";
        let sequences = snapshot.query(sequences, &[]).await.unwrap();
        let states = states(&snapshot).await;
        snapshot.commit().await.unwrap();
        Self {
            tables,
            sequences: sequences.iter().map(|r| (r.get(0), r.get(1))).collect(),
            states,
        }
    }

    async fn load(&self, sql: &Client) {
        let run = async |statement: String| sql.batch_execute(&statement).await.unwrap();
        run("begin; set local session_replication_role = replica".to_owned()).await;
        run(FILLED_BY_MIGRATIONS.to_owned()).await;
        for (table, rows) in &self.tables {
            let copy = format!("copy {table} from stdin");
            let mut sink = Box::pin(sql.copy_in(&copy).await.unwrap());
            sink.send(std::io::Cursor::new(rows.clone())).await.unwrap();
            sink.close().await.unwrap();
        }
        for (sequence, value) in &self.sequences {
            run(format!("select setval('{sequence}', {value})")).await;
        }
        run("commit".to_owned()).await;
    }

    fn ids(&self, state: &str) -> Vec<i64> {
        let of_state = self.states.iter().filter(|(_, s)| *s == state);
        of_state.map(|(id, _)| *id).collect()
    }
}

async fn states(sql: &impl tokio_postgres::GenericClient) -> BTreeMap<i64, String> {
    let rows = sql.query("select id, state from outbox", &[]).await;
    rows.unwrap().iter().map(|r| (r.get(0), r.get(1))).collect()
}

/// Writes one event a few milliseconds after the other until told to stop.
async fn keep_writing(fixture: &Fixture, stop: &AtomicBool) {
    let sql = fixture.database.connect().await;
    let mut number = 0_u32;
    while !stop.load(Ordering::SeqCst) {
        number += 1;
        let key = match number % 20 {
            13 => "bad".to_owned(),
            other => format!("k{}", other % 9),
        };
        sql.execute(
            "insert into outbox_event (event_id, topic, key, event_type, payload)
             values (gen_random_uuid(), $1, $2, 'T', '{}')",
            &[&fixture.topic, &key],
        )
        .await
        .unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Where each event lies in Kafka, in the order of its records, and the first occurrences by key.
async fn in_kafka(
    fixture: &Fixture,
    copy: &Client,
) -> (HashMap<i64, Vec<(i32, i64)>>, HashMap<String, Vec<i64>>) {
    let rows = "select event_id::text, id, key from outbox_event";
    let rows = copy.query(rows, &[]).await.unwrap();
    let known: HashMap<EventId, (i64, String)> = rows
        .iter()
        .map(|r| {
            let event_id = r.get::<_, &str>(0).parse().unwrap();
            (event_id, (r.get(1), r.get(2)))
        })
        .collect();
    let mut places: HashMap<i64, Vec<(i32, i64)>> = HashMap::new();
    let mut by_key: HashMap<String, Vec<i64>> = HashMap::new();
    for (partition, records) in fixture.records().await {
        for record in records {
            let event_id = envelope::decode(&record).unwrap().event_id;
            // What was written after the dump is not in the copy.
            let Some((id, key)) = known.get(&event_id) else {
                continue;
            };
            let seen = places.entry(*id).or_default();
            if seen.is_empty() {
                by_key.entry(key.clone()).or_default().push(*id);
            }
            seen.push((partition, record.offset));
        }
    }
    (places, by_key)
}

/// What the dump says was published is in Kafka once, what was pending got there, what was behind
/// did not, and everything lies where the copy says.
async fn assert_nothing_lost_nothing_twice(
    dump: &Dump,
    fixture: &Fixture,
    copy: &Client,
    bad: &HashSet<i64>,
) {
    let (places, by_key) = in_kafka(fixture, copy).await;
    assert_in_order(&by_key);
    for id in dump.ids("published") {
        assert_eq!(places[&id].len(), 1, "event {id} was published again");
    }
    for id in dump.ids("pending") {
        let lost = !places.contains_key(&id) && !bad.contains(&id);
        assert!(!lost, "event {id} is lost");
    }
    for id in dump.ids("blocked") {
        assert!(!places.contains_key(&id), "event {id} overtook a dead one");
    }
    let recorded = "select id, kafka_partition, kafka_offset from outbox_published";
    for row in copy.query(recorded, &[]).await.unwrap() {
        let place = (row.get(1), row.get(2));
        assert!(places[&row.get::<_, i64>(0)].contains(&place));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p9_a_dump_of_a_live_database_restored_elsewhere_loses_and_republishes_nothing() {
    let (fixture, cluster) = tokio::join!(Fixture::new(), OwnPostgres::start());
    let fixture = Arc::new(fixture);
    fixture
        .write_sized(&[("bad", 1), ("bad", TOO_LARGE), ("bad", 1), ("good", 1)])
        .await;
    let mut relay = Spawned::start(BINARY, &["run"], fixture.variables());
    fixture.until("dead", 1).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (fixture, stop) = (Arc::clone(&fixture), Arc::clone(&stop));
        tokio::spawn(async move { keep_writing(&fixture, &stop).await })
    };

    let mut sql = fixture.database.connect().await;
    let dump = eventually("a dump with some of everything", PATIENCE, async || {
        let dump = Dump::take(&mut sql).await;
        let enough = dump.ids("published").len() > 200
            && dump.ids("blocked").len() > 3
            && !dump.ids("pending").is_empty();
        enough.then_some(dump)
    })
    .await;
    stop.store(true, Ordering::SeqCst);
    writer.await.unwrap();
    relay.kill();
    assert_eq!(relay.exit_code(PATIENCE).await, None);

    let restored = cluster.database().await;
    let database: Database = restored.url().parse().unwrap();
    let copy = restored.connect().await;
    dump.load(&copy).await;
    assert_eq!(states(&copy).await, dump.states);
    let mut conn = database
        .connect(&Session::long_running("test"))
        .await
        .unwrap();
    assert_eq!(verify(&mut conn, 10).await.unwrap().offenders, []);

    // The copy is worked on, and written to.
    let mut variables = fixture.variables();
    variables[0] = ("DATABASE_URL", restored.url().to_owned());
    let mut relay = Spawned::start(BINARY, &["run"], variables);
    let highest = *dump.states.last_key_value().unwrap().0;
    for key in ["bad", "k1"] {
        let written: i64 = copy
            .query_one(
                "insert into outbox_event (event_id, topic, key, event_type, payload)
                 values (gen_random_uuid(), $1, $2, 'T', '{}') returning id",
                &[&fixture.topic, &key],
            )
            .await
            .unwrap()
            .get(0);
        assert!(written > highest, "{written} is an id of the past");
    }
    eventually("the copy's relay to be through", PATIENCE, async || {
        let pending = copy.query_one("select count(*) from outbox_pending", &[]);
        let pending: i64 = pending.await.unwrap().get(0);
        (pending == 0).then_some(())
    })
    .await;
    let now = states(&copy).await;
    let bad = copy.query("select id from outbox_event where key = 'bad'", &[]);
    let bad: HashSet<i64> = bad.await.unwrap().iter().map(|r| r.get(0)).collect();
    for (id, before) in &dump.states {
        let expected = match before.as_str() {
            "pending" if bad.contains(id) => "blocked",
            "pending" => "published",
            other => other,
        };
        assert_eq!(now[id], expected, "event {id} was {before}");
    }
    assert_nothing_lost_nothing_twice(&dump, &fixture, &copy, &bad).await;

    // What was held is let go on the copy, and follows in order.
    copy.batch_execute("update outbox_event set payload = '{}' where id = 2")
        .await
        .unwrap();
    let held = storage::outbox::TopicKey {
        topic: fixture.topic.clone(),
        key: "bad".to_owned(),
    };
    let redriven = redrive(&mut conn, &[held]).await.unwrap();
    assert!(redriven.dead == 1 && redriven.blocked > 4, "{redriven:?}");
    eventually("all to be published", PATIENCE, async || {
        let all = states(&copy).await;
        all.values().all(|state| state == "published").then_some(())
    })
    .await;
    let (places, by_key) = in_kafka(&fixture, &copy).await;
    assert_in_order(&by_key);
    assert_eq!(places.len(), states(&copy).await.len());
    relay.terminate();
    assert_eq!(relay.exit_code(PATIENCE).await, Some(0));
}
