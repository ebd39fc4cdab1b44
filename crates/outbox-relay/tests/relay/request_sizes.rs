//! Requests as Kafka gets them: small or large, never of the sizes that wait on loopback.

use std::ops::Range;

use local_stack::testing::{KafkaProxy, Spawned};

use crate::process::BINARY;
use crate::support::Fixture;

/// A request of such a size waits for a delayed acknowledgement (see `chunk.rs`).
const SLOW: Range<usize> = 8_000..66_000;

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_many_records_are_small_or_large_whatever_the_size_of_their_events() {
    let fixture = Fixture::new().await;
    let proxy = KafkaProxy::start(&fixture.brokers).await;
    let mut variables = fixture.variables();
    variables.push(("KAFKA_BROKERS", proxy.brokers()));
    let _relay = Spawned::start(BINARY, &["run"], variables);
    let keys: Vec<String> = (0..6_000).map(|n| format!("k{}", n % 300)).collect();
    let mut written = 0;
    // A record of any of these is small by itself.
    for size in [1, 60, 150, 700, 2_500, 6_000] {
        for events in [60, 400, 1_500, 6_000] {
            let events: Vec<(&str, i32)> = keys[..events.min(12_000_000 / size)]
                .iter()
                .map(|key| (key.as_str(), i32::try_from(size).unwrap()))
                .collect();
            fixture.write_sized(&events).await;
            written += i64::try_from(events.len()).unwrap();
            fixture.until("published", written).await;
        }
    }
    let sizes = proxy.produced();
    let slow: Vec<_> = sizes.iter().filter(|size| SLOW.contains(*size)).collect();
    let large = sizes.iter().filter(|size| **size >= SLOW.end).count();
    println!("{} requests, {large} of them large", sizes.len());
    assert!(slow.is_empty(), "{slow:?}");
    assert!(large > 20 && sizes.len() > large + 20, "{sizes:?}");
}
