//! Partitions and topics that cannot be written, beside others that can.

use std::collections::HashMap;

use local_stack::testing::{Fault, KafkaProxy, Spawned, eventually, unique_topic};

use crate::load::Load;
use crate::metrics_and_readiness::check;
use crate::process::BINARY;
use crate::support::{Fixture, PARTITIONS, PATIENCE, assert_in_order};

impl Fixture {
    /// The same database with another topic, which exists.
    pub(crate) async fn with_another_topic(&mut self) -> String {
        let topic = unique_topic("other");
        let cluster = &self.cluster;
        cluster.ensure_topic(&topic, PARTITIONS, 1).await.unwrap();
        std::mem::replace(&mut self.topic, topic)
    }

    async fn published_by_partition(&self) -> HashMap<i32, i64> {
        let counts = "select kafka_partition, count(*) from outbox_published group by 1";
        let counts = self.sql.query(counts, &[]).await.unwrap();
        counts.iter().map(|row| (row.get(0), row.get(1))).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_an_unwritable_topic_is_set_aside_and_comes_back_in_order() {
    let mut fixture = Fixture::new().await;
    let proxy = KafkaProxy::start(&fixture.brokers).await;
    proxy.set(&fixture.topic, Some(Fault::Refuse));
    let mut variables = fixture.variables();
    variables.push(("KAFKA_BROKERS", proxy.brokers()));
    // So few that those of the topic that works are not read behind those of the other.
    variables.push(("RELAY__BATCH_EVENTS_PER_SLOT", "2".to_owned()));
    let keys: Vec<String> = (0..300).map(|n| format!("k{}", n % 30)).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    fixture.write(&keys).await;
    let unwritable = fixture.with_another_topic().await;
    fixture.write(&keys).await;
    let mut relay = Spawned::start(BINARY, &["run"], variables.clone());

    fixture.until("unavailable", 300).await;
    fixture.until("published", 300).await;
    // What comes later flows here, and is set aside there.
    let writable = std::mem::replace(&mut fixture.topic, unwritable);
    fixture.write(&keys).await;
    let unwritable = std::mem::replace(&mut fixture.topic, writable);
    fixture.write(&keys).await;
    fixture.until("published", 600).await;
    fixture.until("unavailable", 600).await;

    // Its successor finds what was left, and tries before it moves anything.
    relay.kill();
    relay.exit_code(PATIENCE).await;
    let mut relay = Spawned::start(BINARY, &["run"], variables.clone());
    let writable = std::mem::replace(&mut fixture.topic, unwritable);
    fixture.write(&keys).await;
    fixture.until("unavailable", 900).await;

    proxy.set(&fixture.topic, None);
    fixture.until("published", 1_500).await;
    relay.terminate();
    assert_eq!(relay.exit_code(PATIENCE).await, Some(0), "{}", relay.log());
    fixture
        .sql
        .execute("delete from outbox_published using outbox_event e where e.topic = $1 and e.id = outbox_published.id", &[&writable])
        .await
        .unwrap();
    let (by_key, _) = fixture.published_by_key().await;
    assert_eq!(by_key.values().map(Vec::len).sum::<usize>(), 900);
    assert_in_order(&by_key);
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_a_partition_that_cannot_be_written_is_set_aside_and_comes_back_in_order() {
    const UNWRITABLE: i32 = 2;
    let fixture = Fixture::new().await;
    let proxy = KafkaProxy::start(&fixture.brokers).await;
    let mut variables = fixture.variables();
    variables.push(("KAFKA_BROKERS", proxy.brokers()));
    let relay = Spawned::start(BINARY, &["run"], variables);
    let load = Load::start(&fixture).await;
    fixture.until_at_work().await;
    // As a request names it: the topic, one partition, its number.
    let name = format!("{}\0\0\0\u{1}\0\0\0\u{2}", fixture.topic);
    proxy.set(&name, Some(Fault::Refuse));
    eventually("it to be set aside", PATIENCE, async || {
        (fixture.count("unavailable").await > 0).then_some(())
    })
    .await;
    for _ in 0..3 {
        let before = fixture.published_by_partition().await;
        eventually("all others to go on", PATIENCE, async || {
            let now = fixture.published_by_partition().await;
            let grown = |p: &i32| now.get(p) > before.get(p);
            let grown: Vec<i32> = (0..PARTITIONS).filter(grown).collect();
            assert!(!grown.contains(&UNWRITABLE), "{grown:?}");
            (grown.len() == 5).then_some(())
        })
        .await;
    }
    proxy.set(&name, None);
    let copies = fixture.assert_all_arrive_in_order(load).await;
    assert_eq!(copies, 0, "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_was_set_aside_is_no_trouble_once_nothing_waits_for_it() {
    let mut fixture = Fixture::new().await;
    let proxy = KafkaProxy::start(&fixture.brokers).await;
    proxy.set(&fixture.topic, Some(Fault::Refuse));
    let mut variables = fixture.variables();
    variables.push(("KAFKA_BROKERS", proxy.brokers()));
    let relay = Spawned::start(BINARY, &["run"], variables);
    let ops = relay.ops_address(PATIENCE).await;
    fixture.write(&["a"]).await;
    fixture.with_another_topic().await;
    fixture.write(&["a"]).await;
    fixture.until("unavailable", 1).await;
    fixture.until("published", 1).await;
    assert_eq!(check(ops, "kafka").await["ready"], false);
    // As when its slot goes to another relay, which can write there.
    let publish = "with moved as (delete from outbox_held returning id)
                   insert into outbox_published select id, 0, 0 from moved";
    fixture.sql.batch_execute(publish).await.unwrap();
    eventually("it to be ready", PATIENCE, async || {
        (check(ops, "kafka").await["ready"] == true).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_cannot_be_created_is_set_aside_until_it_is_there() {
    let mut fixture = Fixture::new().await;
    let mut variables = fixture.variables();
    // More replicas than there are brokers: no topic can be created.
    variables.push(("KAFKA_REPLICATION_FACTOR", "2".to_owned()));
    let relay = Spawned::start(BINARY, &["run"], variables);
    fixture.write(&["a", "b", "a"]).await;
    fixture.until("published", 3).await;
    fixture.topic = unique_topic("missing");
    fixture.write(&["a", "b", "a", "c"]).await;
    fixture.until("unavailable", 4).await;
    fixture.write(&["a"]).await;
    fixture.until("unavailable", 5).await;
    let cluster = &fixture.cluster;
    cluster
        .ensure_topic(&fixture.topic, PARTITIONS, 1)
        .await
        .unwrap();
    fixture.until("published", 8).await;
    fixture
        .sql
        .batch_execute("delete from outbox_published where id <= 3")
        .await
        .unwrap();
    let (by_key, copies) = fixture.published_by_key().await;
    assert_eq!(by_key["a"], [4, 6, 8]);
    assert_eq!(copies, 0, "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_no_broker_would_read_does_not_keep_its_partition_set_aside() {
    let mut fixture = Fixture::new().await;
    let mut variables = fixture.variables();
    variables.push(("KAFKA_REPLICATION_FACTOR", "2".to_owned()));
    let missing = unique_topic("missing");
    let working = std::mem::replace(&mut fixture.topic, missing);
    // The giant is the first that the partition could be probed with.
    let first =
        "select key from generate_series(1, 999) key where hashtextextended(key::text, 0) & 31 = 0";
    let giant = fixture.sql.query(first, &[]).await.unwrap()[0]
        .get::<_, i32>(0)
        .to_string();
    fixture
        .write_sized(&[(&giant, 110_000_000), (&giant, 10)])
        .await;
    let hold = "with moved as (delete from outbox_pending returning id, slot)
                insert into outbox_held (bytes, id, slot, topic, key, cause)
                select 10, id, slot, topic, key, 'unavailable' from moved join outbox_event using (id)";
    fixture.sql.batch_execute(hold).await.unwrap();
    let keys: Vec<String> = (1_000..1_640).map(|key| key.to_string()).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    fixture.write(&keys).await;
    let missing = std::mem::replace(&mut fixture.topic, working);
    fixture.write(&["a"]).await;
    let relay = Spawned::start(BINARY, &["run"], variables);
    fixture.until("unavailable", 642).await;
    let cluster = &fixture.cluster;
    cluster.ensure_topic(&missing, 1, 1).await.unwrap();
    fixture.until("unavailable", 0).await;
    fixture.until_published(641).await;
    fixture.until("dead", 1).await;
    fixture.until("blocked", 1).await;
    assert!(
        relay.log().contains("bytes, more than 67108864"),
        "{}",
        relay.log()
    );
}
