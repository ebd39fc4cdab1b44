//! What may be sent as a probe of a partition that was set aside, and what can never be.

use domain::Slot;
use storage::Connection;
use storage::lease::{MemberId, claim, ensure_units, renew};
use storage::outbox::{ProbeLimits, append, bury_unavailable, probe_events, unavailable};

use crate::support::{Fixture, TTL, event, read_all};

const SCOPE: &str = "outbox-relay";
const LIMITS: ProbeLimits = ProbeLimits {
    bytes: 100_000,
    event_bytes: 2_000,
};

/// Events 1 to 6 of key `k`, all held as unavailable, the third larger than what is read; and their
/// slot.
async fn set_aside() -> (Fixture, Connection, Slot) {
    let fixture = Fixture::new().await;
    let mut conn = fixture.connect().await;
    let mut events = ["k"; 6].map(event);
    events[2].payload = format!("\"{}\"", "x".repeat(3_000));
    append(&mut conn, &events).await.unwrap();
    let slot = read_all(&mut conn).await[0].slot;
    fixture
        .run(
            "with moved as (delete from outbox_pending returning id, slot)
             insert into outbox_held (id, slot, topic, key, cause)
             select id, slot, 't', 'k', 'unavailable' from moved",
        )
        .await;
    (fixture, conn, slot)
}

/// The ids of what may be a probe, and whether each was read.
async fn probe(
    conn: &mut Connection,
    slot: Slot,
    ids: &[i64],
    limits: ProbeLimits,
) -> Vec<(i64, bool)> {
    let heads = probe_events(conn, slot, ids, limits).await.unwrap();
    let read = heads
        .into_iter()
        .map(|head| (head.of.id, head.event.is_some()));
    read.collect()
}

#[tokio::test]
async fn a_probe_begins_with_the_first_of_a_key_and_reads_no_giant() {
    let (fixture, mut conn, slot) = set_aside().await;
    let two = [(1, true), (2, true)];
    assert_eq!(probe(&mut conn, slot, &[1, 2], LIMITS).await, two);
    let few = ProbeLimits { bytes: 1, ..LIMITS };
    assert_eq!(probe(&mut conn, slot, &[1, 2], few).await, two[..1]);
    let with_the_giant = [(1, true), (2, true), (3, false), (4, true)];
    assert_eq!(
        probe(&mut conn, slot, &[1, 2, 3, 4], LIMITS).await,
        with_the_giant
    );
    let behind_others = probe(&mut conn, slot, &[2, 4], LIMITS).await;
    assert_eq!(behind_others, [], "one before them was not asked for");

    fixture
        .run("update outbox_held set cause = 'dead' where id = 2")
        .await;
    let before_the_dead = probe(&mut conn, slot, &[1, 2, 3], LIMITS).await;
    assert_eq!(before_the_dead, two[..1]);
    let pending = "insert into outbox_pending select slot, 0, 1 from outbox_held where id = 1";
    fixture.run(pending).await;
    assert_eq!(probe(&mut conn, slot, &[1], LIMITS).await, []);
}

#[tokio::test]
async fn an_unavailable_event_that_can_never_be_produced_is_buried_under_the_lease() {
    let (fixture, mut conn, slot) = set_aside().await;
    let member = MemberId::generate();
    let unit = i32::from(slot.number());
    ensure_units(&mut conn, SCOPE, 32).await.unwrap();
    renew(&mut conn, SCOPE, member, TTL).await.unwrap();
    claim(&mut conn, SCOPE, member, &[(unit, 0)]).await.unwrap();
    let all = unavailable(&mut conn, slot, 0, 10).await.unwrap();
    let giant = &all[2];
    for (epoch, buried) in [(0, false), (1, true), (1, false)] {
        let bury = bury_unavailable(&mut conn, SCOPE, member, (slot, epoch), giant, "too large");
        assert_eq!(bury.await.unwrap(), buried, "epoch {epoch}");
    }
    let dead = "select string_agg(concat_ws(':', id, cause, error, attempts), ' ')
                from outbox_held where cause <> 'unavailable'";
    assert_eq!(fixture.text(dead).await, "3:dead:too large:0");
    let left = unavailable(&mut conn, slot, 0, 10).await.unwrap();
    let left: Vec<_> = left
        .iter()
        .map(|event| (event.id, event.behind_dead))
        .collect();
    assert_eq!(
        left,
        [(1, false), (2, false), (4, true), (5, true), (6, true)]
    );
}
