//! Connections take files, and a process may open few of them.

use local_stack::testing::{Spawned, eventually, unique_topic};

use crate::process::BINARY;
use crate::support::{Fixture, PATIENCE};

/// More than files at first.
const PARTITIONS: usize = 150;
const FEW_FILES: &str = "ulimit -S -n 100";
/// What a relay has open beside connections to write to.
const OTHERS: usize = 60;

#[tokio::test(flavor = "multi_thread")]
async fn p10_more_partitions_than_open_files_at_first_are_written_and_idle_ones_closed() {
    let mut fixture = Fixture::new().await;
    fixture.topic = unique_topic("wide");
    let partitions = i32::try_from(PARTITIONS).unwrap();
    let made = fixture.cluster.ensure_topic(&fixture.topic, partitions, 1);
    assert!(made.await.unwrap());
    let script = format!("{FEW_FILES} && exec {BINARY} run");
    let relay = Spawned::start("/bin/sh", &["-c", &script], fixture.variables());
    // So many that each partition has some.
    let keys: Vec<String> = (0..PARTITIONS * 20).map(|n| format!("k{n}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let events = i64::try_from(keys.len()).unwrap();
    fixture.write(&keys).await;
    fixture.until_published(events).await;
    let used = "select count(distinct kafka_partition) from outbox_published";
    assert_eq!(fixture.number(used).await, i64::from(partitions));
    let open = relay.open_files();
    assert!(open > PARTITIONS, "{open}");

    // A minute later nobody needs them.
    eventually("idle connections to be closed", PATIENCE * 4, async || {
        (relay.open_files() < OTHERS).then_some(())
    })
    .await;
    // The brokers may have had their trouble with a topic that was just made.
    let troubles = || relay.log().matches("cannot produce").count();
    let before = troubles();
    fixture.write(&keys).await;
    fixture.until_published(2 * events).await;
    assert_eq!(troubles(), before, "{}", relay.log());
    assert!(!relay.log().contains("Too many open files"));
}
