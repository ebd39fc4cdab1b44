//! What the consumer takes in memory, whatever waits.

use messaging::OutgoingRecord;

use crate::servers::Private;
use crate::support::order;

/// Just below what the topic takes.
const LARGE: usize = 1_000_000;
const RECORDS: usize = 300;
/// A record or two of each partition is in hand and as many are fetched ahead, as bytes and as
/// events, beside what the process always takes. The backlog is four times as large.
const BOUND: u64 = 72 * 1024 * 1024;

/// An order in a version that has grown: readers pass over what they do not know.
fn large(number: usize) -> OutgoingRecord {
    let mut record = order(&format!("P-{}", number % 10), 1);
    let mut value = record.value.take().unwrap_or_default();
    value.pop();
    let padding = format!(r#","note":"{}"}}"#, "x".repeat(LARGE - value.len() - 1_000));
    value.extend(padding.bytes());
    record.value = Some(value);
    record
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_a_backlog_of_large_records_does_not_fill_memory() {
    let private = Private::new().await;
    for partition in 0..2 {
        for number in 0..RECORDS / 2 {
            private.produce(partition, vec![large(number)]).await;
        }
    }
    let consumer = private.start();
    private.until_sold(RECORDS.try_into().unwrap()).await;
    let peak = consumer.peak_memory();
    println!("{} MiB at most", peak / 1024 / 1024);
    assert!(peak < BOUND, "{peak} bytes");
}
