//! Which events have been the first of their partition for long. While one has, nothing behind it gets
//! on either.
//!
//! An event is watched until it no longer waits, wherever it lies: those of an open circuit go to
//! pending and back for each test.

use std::collections::HashMap;
use std::time::Duration;

use domain::Slot;
use storage::StorageError;
use storage::lease::MemberId;
use storage::outbox::LowestPending;
use tokio::time::Instant;

use crate::ports::OutboxConnection;
use crate::topics::routing_table::{Route, Topics};

/// Where dead entries make it slow to find the first event of a slot, the other slots have their turn
/// with the next look.
const BUDGET: Duration = Duration::from_secs(3);

/// Where an event is the first.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Queue {
    /// Of all that is pending in the slot.
    Pending,
    /// Of what is unavailable there, of a topic and partition.
    Unavailable(String, i32),
}

#[derive(Debug, Clone)]
struct Watched {
    id: i64,
    topic: String,
    /// `None` where only the topic is known.
    key: Option<String>,
    since: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct FirstWaiting {
    watched: HashMap<(Slot, Queue), Watched>,
    /// Where the next look begins.
    next: usize,
}

impl FirstWaiting {
    /// Looks at the slots that this member answers for.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub(crate) async fn look(
        &mut self,
        conn: &mut dyn OutboxConnection,
        member: MemberId,
    ) -> Result<(), StorageError> {
        let started = Instant::now();
        let slots = conn.slots_to_watch(member).await?;
        let watched = self.watched.iter();
        let watched: Vec<(Slot, i64)> = watched.map(|((slot, _), w)| (*slot, w.id)).collect();
        let waiting = conn.still_waiting(&watched).await?;
        self.watched
            .retain(|(slot, _), w| slots.contains(slot) && waiting.contains(&w.id));
        for _ in 0..slots.len() {
            if started.elapsed() >= BUDGET {
                break;
            }
            let slot = slots[self.next % slots.len()];
            // Also past one that cannot be looked at in time.
            self.next = self.next.wrapping_add(1);
            for group in conn.unavailable_groups(&[slot]).await? {
                let queue = Queue::Unavailable(group.topic.clone(), group.destination.partition);
                self.saw((slot, queue), group.lowest, group.topic, None);
            }
            for first in conn.lowest_pending(&[slot]).await? {
                let LowestPending {
                    slot,
                    id,
                    topic,
                    key,
                } = first;
                self.saw((slot, Queue::Pending), id, topic, Some(key));
            }
        }
        Ok(())
    }

    /// `id` is the first there now. One that was watched goes on being watched, unless this one comes
    /// before it.
    fn saw(&mut self, at: (Slot, Queue), id: i64, topic: String, key: Option<String>) {
        let since = Instant::now();
        let seen = Watched {
            id,
            topic,
            key,
            since,
        };
        self.watched
            .entry(at)
            .and_modify(|watched| {
                if id < watched.id {
                    *watched = seen.clone();
                }
            })
            .or_insert(seen);
    }

    /// The event that was seen to wait for longest, in words, and for how long.
    pub(crate) fn longest(&self, now: Instant, topics: &Topics) -> Option<(Duration, String)> {
        let longest = self.watched.iter().min_by_key(|(_, w)| w.since)?;
        let ((_, queue), Watched { id, topic, key, .. }) = longest;
        let partition = match (queue, key) {
            (Queue::Unavailable(_, partition), _) => Some(*partition).filter(|p| *p >= 0),
            (Queue::Pending, key) => {
                match topics.route(topic, key.as_deref().unwrap_or_default()) {
                    Route::Partition(destination) => Some(destination.partition),
                    Route::Unknown | Route::Impossible(_) => None,
                }
            }
        };
        let name = match partition {
            Some(partition) => format!("event {id} of {topic}/{partition}"),
            None => format!("event {id} of topic {topic}"),
        };
        Some((now.duration_since(longest.1.since), name))
    }
}
