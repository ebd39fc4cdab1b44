//! A relay that stands still for a little longer than its own clock gives it, but not for so long
//! that Postgres presumes it dead: nobody else takes its slots.

use std::time::Duration;

use local_stack::testing::Spawned;

use crate::process::BINARY;
use crate::support::{Fixture, assert_in_order};
use crate::topic_operations::limit_messages;

const TTL: Duration = Duration::from_secs(1);
const EVENTS: i32 = 60_000;
const EVENT_BYTES: i32 = 300;
/// The topic takes requests as small as this, so that a slot's read becomes many of them.
const MESSAGE_BYTES: i32 = 20_000;
const FREEZES: usize = 12;

#[tokio::test(flavor = "multi_thread")]
async fn p3_p4_a_lease_that_lapses_and_is_renewed_lets_nothing_overtake() {
    let fixture = Fixture::new().await;
    limit_messages(&fixture.brokers, &fixture.topic, MESSAGE_BYTES).await;
    let mut variables = fixture.variables();
    variables.retain(|(name, _)| *name != "LEASE_TTL");
    variables.push(("LEASE_TTL", "1s".to_owned()));
    // Still dozens of requests, and a busy machine reads them within two thirds of a second.
    variables.push(("RELAY__BATCH_EVENTS_PER_SLOT", "128".to_owned()));
    let keys = Fixture::keys_of("k", 0, 64);
    fixture.write_over(&keys, EVENTS, EVENT_BYTES).await;
    let relay = Spawned::start(BINARY, &["run"], variables);
    let mut freezes = 0;
    while freezes < FREEZES && fixture.count("published").await < i64::from(EVENTS) * 9 / 10 {
        fixture.until_more_are_published(1_000).await;
        relay.pause();
        // The length is the point: a relay gives up after 0.8 of the time, Postgres after all of it,
        // both counted from the latest beat.
        tokio::time::sleep(TTL * 17 / 20).await;
        relay.resume();
        freezes += 1;
    }
    assert!(
        freezes > FREEZES / 2,
        "all were out after {freezes} freezes"
    );
    fixture.assert_progress(&[&relay], &[]).await;
    let (by_key, copies) = fixture.published_by_key().await;
    println!("{copies} copies after {freezes} freezes");
    let violations: usize = by_key
        .values()
        .map(|ids| ids.windows(2).filter(|pair| pair[0] > pair[1]).count())
        .sum();
    assert_eq!(
        violations, 0,
        "places where an event overtook one of its key"
    );
    assert_in_order(&by_key);
    let published: usize = by_key.values().map(Vec::len).sum();
    assert_eq!(i32::try_from(published).unwrap(), EVENTS);
    // P4: what was out, or acknowledged and not yet recorded, when a lease was lost.
    let in_a_request = usize::try_from(MESSAGE_BYTES / EVENT_BYTES).unwrap();
    assert!(copies <= freezes * 4 * in_a_request, "{copies} copies");
}
