//! Events for topics that cannot be, and for many that may not be.

use std::time::{Duration, Instant};

use local_stack::testing::admin::request;
use local_stack::testing::{Spawned, delete_topic, eventually, unique_topic};
use messaging::ErrorKind;

use crate::acls::{Operation, Resource};
use crate::own_kafka::OwnKafka;
use crate::process::BINARY;
use crate::support::{Fixture, PATIENCE};

const METADATA: i16 = 3;

/// What Kafka would make for whoever asks, and what it would not.
const INTERNAL: [&str; 4] = [
    "__consumer_offsets",
    "__transaction_state",
    "__share_group_state",
    "__cluster_metadata",
];

impl Fixture {
    /// One event for each of these topics, of a key of its own.
    async fn write_to(&self, topics: &[String]) {
        self.sql
            .execute(
                "insert into outbox_event (event_id, topic, key, event_type, payload)
                 select gen_random_uuid(), topic, 'k' || n, 'T', '{}'
                 from unnest($1::text[]) with ordinality t(topic, n) order by n",
                &[&topics],
            )
            .await
            .unwrap();
    }

    async fn redrive(&self) {
        self.sql
            .batch_execute(
                "with moved as (delete from outbox_held returning slot, id)
                 insert into outbox_pending select slot, id, 1 from moved",
            )
            .await
            .unwrap();
    }
}

/// Whether the broker has it, be it internal.
async fn exists(brokers: &str, topic: &str) -> bool {
    let all = (-1_i32).to_be_bytes();
    let answer = request(brokers, (METADATA, 1), &all).await;
    let topic = topic.as_bytes();
    answer.windows(topic.len()).any(|part| part == topic)
}

#[tokio::test(flavor = "multi_thread")]
async fn p8_topics_that_kafka_keeps_for_itself_are_never_made_and_their_events_are_dead() {
    // It would not survive that they are.
    let kafka = OwnKafka::start().await;
    let fixture = Fixture::on(&kafka.brokers).await;
    fixture.write_to(&INTERNAL.map(str::to_owned)).await;
    // A name like theirs is nobody's but its owner's.
    let heartbeat = format!("__debezium-heartbeat.{}", unique_topic("x"));
    let others = [heartbeat, fixture.topic.clone()];
    fixture.write_to(&others).await;
    let mut stepped = fixture.relay(10);
    let metrics = stepped.metrics.clone();
    stepped
        .step_until("four dead and two published", |_| {
            metrics.holds.dead.get() == 4 && metrics.published.get() == 2
        })
        .await;
    for internal in INTERNAL {
        assert!(!exists(&kafka.brokers, internal).await, "{internal}");
        let made = fixture.cluster.ensure_topic(internal, 1, 1).await;
        assert_eq!(made.unwrap_err().kind(), ErrorKind::Impossible);
        assert!(!exists(&kafka.brokers, internal).await, "{internal}");
    }
    for other in others {
        assert!(exists(&kafka.brokers, &other).await, "{other}");
    }
    let told = "select count(*) from outbox_held where cause = 'dead'
                and error like '%one of Kafka''s own%'";
    assert_eq!(fixture.number(told).await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn p8_beside_thousands_of_names_that_no_topic_can_have_good_events_flow() {
    const WRONG: usize = 5_000;
    /// One request for each name takes longer.
    const BOUND: Duration = Duration::from_secs(15);
    let fixture = Fixture::new().await;
    let wrong: Vec<String> = (0..WRONG).map(|n| format!("no topic {n}")).collect();
    fixture.write_to(&wrong).await;
    // Behind the others in each slot, and more than one read brings.
    fixture.write_to(&vec![fixture.topic.clone(); 100]).await;
    let mut stepped = fixture.relay(10);
    let begun = Instant::now();
    let metrics = stepped.metrics.clone();
    stepped
        .step_until("all to be published", |_| metrics.published.get() == 100)
        .await;
    let took = begun.elapsed();
    println!("published after {took:?}");
    assert!(took < BOUND, "{took:?}");
    stepped.drain(&fixture).await;
    assert_eq!(fixture.count("dead").await, i64::try_from(WRONG).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn p8_a_name_that_collides_is_free_again_when_the_other_topic_is_gone() {
    let mut fixture = Fixture::new().await;
    let name = unique_topic("collides");
    // To Kafka's metrics they are the same.
    let (taken, wanted) = (format!("{name}.x"), format!("{name}_x"));
    assert!(fixture.cluster.ensure_topic(&taken, 1, 1).await.unwrap());
    fixture.topic = wanted;
    let _relay = Spawned::start(BINARY, &["run"], fixture.variables());
    fixture.write(&["a"]).await;
    fixture.until("dead", 1).await;
    let error = "select count(*) from outbox_held where error like '%collides%'";
    assert_eq!(fixture.number(error).await, 1);
    assert!(delete_topic(&fixture.brokers, &taken).await);
    // What Kafka said is believed for 20 s.
    eventually("a redrive to help", PATIENCE * 2, async || {
        fixture.redrive().await;
        (fixture.count("published").await == 1).then_some(())
    })
    .await;
}

/// On one thread, as where there is one processor: nobody makes room while topics are asked for.
#[tokio::test]
async fn p8_beside_many_topics_that_may_not_be_created_others_are() {
    let kafka = OwnKafka::with_rights().await;
    let fixture = Fixture::on(&kafka.brokers).await;
    let refused: Vec<String> = (0..60).map(|_| unique_topic("refused")).collect();
    kafka.refuse(Resource::Cluster, Operation::Create).await;
    for topic in &refused {
        kafka
            .refuse(Resource::Topic(topic), Operation::Create)
            .await;
    }
    fixture.write_to(&refused).await;
    let mut stepped = fixture.relay(100);
    // Of them all it is known that they cannot be had now: they are set aside.
    fixture.write(&["a"]).await;
    let held = stepped.metrics.holds.unavailable.clone();
    stepped
        .step_until("all to be set aside", |_| held.get() == 60)
        .await;
    let good: Vec<String> = (0..5).map(|_| unique_topic("good")).collect();
    fixture.write_to(&good).await;
    let published = stepped.metrics.published.clone();
    stepped
        .step_until("the good ones", |_| published.get() == 6)
        .await;
    assert_eq!(fixture.count("dead").await, 0);
}
