//! An answer of Kafka that reaches a relay long after its work has gone to another.

use local_stack::testing::{Fault, KafkaProxy, Spawned, eventually};

use crate::commands::told;
use crate::process::BINARY;
use crate::support::{Fixture, PATIENCE};

const UNWRITABLE: i32 = 2;

impl Fixture {
    async fn records_of(&self, partition: i32) -> usize {
        self.records().await[&partition].len()
    }

    async fn until_records(&self, partition: i32, count: usize) {
        eventually(&format!("{count} records"), PATIENCE, async || {
            (self.records_of(partition).await == count).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p9_what_an_old_owner_hears_late_does_not_undo_a_replay() {
    let fixture = Fixture::new().await;
    let of_first = KafkaProxy::start(&fixture.brokers).await;
    let of_second = KafkaProxy::start(&fixture.brokers).await;
    let partition = fixture.in_requests(UNWRITABLE);
    let start = |proxy: &KafkaProxy| {
        let mut variables = fixture.variables();
        variables.push(("KAFKA_BROKERS", proxy.brokers()));
        Spawned::start(BINARY, &["run"], variables)
    };
    let first = start(&of_first);
    fixture.write_to_partition(0, 1).await;
    fixture.until_published(1).await;
    of_first.set(&partition, Some(Fault::Refuse));
    fixture.write_to_partition(UNWRITABLE, 1).await;
    fixture.until("unavailable", 1).await;
    // It tries whether the partition works, and Kafka takes the event.
    of_first.set(&partition, Some(Fault::LateAnswer));
    fixture.until_records(UNWRITABLE, 1).await;
    first.pause();

    let second = start(&of_second);
    fixture.until("published", 2).await;
    fixture.until_records(UNWRITABLE, 2).await;
    of_second.set(&partition, Some(Fault::Refuse));
    fixture.write_to_partition(0, 1).await;
    fixture.until("published", 3).await;
    assert_eq!(
        told(&fixture, "replay --from-id 2 --to-id 2").await,
        (0, "replayed 1 event\n".to_owned())
    );
    fixture.until("unavailable", 1).await;

    of_first.set(&partition, None);
    first.resume();
    fixture.until_shared_by(2).await;
    of_second.set(&partition, None);
    fixture.assert_progress(&[&first, &second], &[]).await;
    // Of the first relay, of the second, and of the replay.
    let records = fixture.records_of(UNWRITABLE).await;
    assert!(records >= 3, "{records} records: the replay was undone");
}
