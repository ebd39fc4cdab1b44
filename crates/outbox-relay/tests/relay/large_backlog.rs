//! A backlog of many times the memory that the relay may take.

use local_stack::testing::Spawned;
use messaging::PartitionReader;

use crate::own_kafka::OwnKafka;
use crate::process::BINARY;
use crate::soak::alone;
use crate::support::{Fixture, PARTITIONS};

const EVENTS: i32 = 10_000;
/// Postgres keeps the rows of a statement in a temporary file, as large as they are.
const IN_ONE_STATEMENT: i32 = 500;
const BYTES: i32 = 1_000_000;
/// As for a tenth of them in `memory.rs`.
const BOUND: u64 = 128 * 1024 * 1024;

/// One of `make soak`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn p10_ten_thousand_events_of_a_megabyte_do_not_fill_memory() {
    let _alone = alone().await;
    // Ten gigabytes of one letter take little room, also in a Kafka that compresses what it stores.
    let kafka = OwnKafka::start_with(&[("compression.type", "zstd")]).await;
    let fixture = Fixture::on(&kafka.brokers).await;
    fixture.write_sized(&[("k0", BYTES)]).await;
    // Copied as it is stored: to compress each anew would take as long as to send it.
    let mut first = 2;
    while first <= EVENTS {
        let last = EVENTS.min(first + IN_ONE_STATEMENT - 1);
        fixture
            .sql
            .execute(
                "insert into outbox_event (event_id, topic, key, event_type, payload)
                 select gen_random_uuid(), topic, 'k' || n % 300, event_type, payload
                 from outbox_event, generate_series($1::int, $2::int) n where id = 1",
                &[&first, &last],
            )
            .await
            .unwrap();
        first = last + 1;
    }
    let relay = Spawned::start(BINARY, &["run"], fixture.variables());
    fixture.until_published(EVENTS.into()).await;
    let peak = relay.peak_memory();
    println!("{} MiB at most", peak / 1024 / 1024);
    assert!(peak < BOUND, "{peak} bytes");
    let places = "select count(distinct (kafka_partition, kafka_offset)) from outbox_published";
    let places = fixture.number(places).await;
    let mut records = 0;
    for partition in 0..PARTITIONS {
        let mut reader = PartitionReader::new(fixture.cluster.clone(), &fixture.topic, partition);
        records += reader.latest().await.unwrap();
    }
    assert_eq!((places, records), (EVENTS.into(), EVENTS.into()));
}
