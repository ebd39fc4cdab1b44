//! P11, progress: once a partition's causes are gone its events flow again, without a restart, and
//! never pause for long until none is left.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use local_stack::testing::{Spawned, eventually};
use messaging::partition_of;

use crate::support::{Fixture, PARTITIONS, PATIENCE};

/// No event of a healthy partition waits for longer than this without one that gets through. An
/// abandoned request without idempotence may take 35 s of it.
pub(crate) const PAUSES_AT_MOST: Duration = Duration::from_mins(1);
/// A look at all that waits is no small thing for a busy Postgres.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Events that go back to pending at once while their partition is being tested, at most.
const TESTED_AT_ONCE: i64 = 100;

/// What waits and is not dead nor blocked, by topic and partition.
type Waiting = BTreeMap<(String, i32), PartitionWaiting>;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct PartitionWaiting {
    events: i64,
    first: i64,
}

impl Fixture {
    /// P11, from now on: everything written so far gets out, but for the events of partitions that
    /// are still broken, and no partition pauses for longer than [`PAUSES_AT_MOST`] before that.
    /// Then every relay is ready, unless something is broken still.
    pub(crate) async fn assert_progress(&self, relays: &[&Spawned], broken: &[(&str, i32)]) {
        let written = "select coalesce(max(id), 0) from outbox_event";
        let last = self.number(written).await;
        let begun = Instant::now();
        let mut waiting = Waiting::new();
        let mut since: BTreeMap<(String, i32), Instant> = BTreeMap::new();
        let mut longest = Duration::ZERO;
        loop {
            let mut now = self.waiting_until(last).await;
            now.retain(|(topic, partition), _| !broken.contains(&(topic.as_str(), *partition)));
            if now.is_empty() {
                break;
            }
            for (partition, there) in &now {
                // Fewer wait than before: some got through. Moves between states change nothing.
                let flows = waiting
                    .get(partition)
                    .is_none_or(|before| there.events < before.events);
                let looked = Instant::now();
                let paused = match since.get(partition) {
                    Some(since) if !flows => looked - *since,
                    _ => {
                        since.insert(partition.clone(), looked);
                        Duration::ZERO
                    }
                };
                longest = longest.max(paused);
                if paused > PAUSES_AT_MOST {
                    self.fail_for_a_pause(relays, partition, *there, paused)
                        .await;
                }
            }
            waiting = now;
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        println!(
            "all out after {:?}, longest pause {longest:?}",
            begun.elapsed()
        );
        if broken.is_empty() {
            for relay in relays {
                self.until_ready_again(relay).await;
            }
        }
    }

    /// Events up to `last` that wait for their partition or to be read.
    async fn waiting_until(&self, last: i64) -> Waiting {
        let keys = "select topic, key, count(*), min(id) from outbox
                    where state in ('pending', 'unavailable') and id <= $1 group by topic, key";
        let keys = self.sql.query(keys, &[&last]).await.unwrap();
        let mut waiting = Waiting::new();
        for row in keys {
            let key: String = row.get(1);
            let partition = (row.get(0), partition_of(key.as_bytes(), PARTITIONS));
            let first: i64 = row.get(3);
            let there = waiting
                .entry(partition)
                .or_insert(PartitionWaiting { events: 0, first });
            there.events += row.get::<_, i64>(2);
            there.first = there.first.min(first);
        }
        waiting
    }

    async fn fail_for_a_pause(
        &self,
        relays: &[&Spawned],
        (topic, partition): &(String, i32),
        there: PartitionWaiting,
        paused: Duration,
    ) -> ! {
        let PartitionWaiting { events, first } = there;
        let state = "select state from outbox where id = $1";
        let state: String = self.sql.query_one(state, &[&first]).await.unwrap().get(0);
        let mut reports = Vec::new();
        for (number, relay) in (1..).zip(relays) {
            let (status, report) = readiness(relay.ops_address(PATIENCE).await).await;
            reports.push(format!("relay {number}: /readyz {status} {report}"));
            eprintln!("relay {number}:\n{}", relay.log());
        }
        panic!(
            "{events} events of {topic}/{partition} wait, the first of them {first} ({state}), and \
             none got through for {paused:?}\n{}",
            reports.join("\n")
        );
    }

    async fn until_ready_again(&self, relay: &Spawned) {
        let ops = relay.ops_address(PATIENCE).await;
        eventually("it to be ready, as nothing waits", PATIENCE, async || {
            (readiness(ops).await.0 == 200).then_some(())
        })
        .await;
    }

    /// Waits until this many events are unavailable, but for those that are out to test whether
    /// their partition works again.
    pub(crate) async fn until_unavailable(&self, events: i64) {
        let what = format!("{events} unavailable events");
        eventually(&what, Duration::from_mins(2), async || {
            (self.count("unavailable").await >= events - TESTED_AT_ONCE.min(events / 2))
                .then_some(())
        })
        .await;
    }

    /// This many keys of one partition, `0..` under a prefix.
    pub(crate) fn keys_of(prefix: &str, partition: i32, count: usize) -> Vec<String> {
        let keys = (0..).map(|n: u32| format!("{prefix}{n}"));
        keys.filter(|key| partition_of(key.as_bytes(), PARTITIONS) == partition)
            .take(count)
            .collect()
    }

    /// The same, of one slot.
    pub(crate) async fn keys_of_slot(
        &self,
        partition: i32,
        slot: i16,
        count: usize,
    ) -> Vec<String> {
        let keys = Self::keys_of("k", partition, 64 * count.max(8));
        let rows = "select key from unnest($1::text[]) with ordinality k(key, place)
                    where hashtextextended(key, 0) & 31 = $2::smallint order by place";
        let rows = self.sql.query(rows, &[&keys, &slot]).await.unwrap();
        let keys: Vec<String> = rows.iter().take(count).map(|row| row.get(0)).collect();
        assert_eq!(keys.len(), count, "more keys are needed to choose from");
        keys
    }

    /// A partition of the fixture's topic as a produce request names it: the topic, one partition,
    /// its number.
    pub(crate) fn in_requests(&self, partition: i32) -> String {
        let number: String = partition
            .to_be_bytes()
            .into_iter()
            .map(char::from)
            .collect();
        format!("{}\0\0\0\u{1}{number}", self.topic)
    }

    /// Inserts this many events for one partition, over keys of all slots.
    pub(crate) async fn write_to_partition(&self, partition: i32, events: i32) {
        let keys = Self::keys_of("any", partition, 200);
        self.write_over(&keys, events, 10).await;
    }

    /// Inserts `events` events of these keys in turn, with payloads of `bytes`.
    pub(crate) async fn write_over(&self, keys: &[String], events: i32, bytes: i32) {
        self.sql
            .execute(
                "insert into outbox_event (event_id, topic, key, event_type, payload)
                 select gen_random_uuid(), $1, ($2::text[])[1 + n % cardinality($2::text[])], 'T',
                        to_json(repeat('x', $4))
                 from generate_series(0, $3 - 1) n",
                &[&self.topic, &keys, &events, &bytes],
            )
            .await
            .unwrap();
    }
}

/// Status and body of `/readyz`.
pub(crate) async fn readiness(ops: SocketAddr) -> (u16, String) {
    let answer = reqwest::get(format!("http://{ops}/readyz")).await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}
