//! What operators do: at any moment, and at the end, when everything is to be put right.

use std::collections::BTreeSet;
use std::time::Duration;

use domain::Position;
use order_consumer::ports::InboxFactory;
use order_consumer::redrive::{Decision, decide};
use rand::RngExt;
use rand::seq::IndexedRandom;
use storage::StorageError;
use storage::inbox::Stream;
use storage::inbox::dead_letters::Cause;
use storage::outbox::{HoldCause, ReplayBounds, TopicKey};
use uuid::Uuid;

use crate::check::Kind;
use crate::database::Connection;
use crate::ports::{SimInboxes, statement};
use crate::processes::{GROUP, registry};
use crate::world::Host;

const LIMITS: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(10));

/// Decisions on dead letters that an operator takes in one go.
const DECISIONS: usize = 200;

/// One command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Of the relay: all dead letters, or one key.
    Redrive,
    Discard,
    /// A range of ids.
    Replay,
    /// Of the consumer: one dead letter.
    Retry,
    GiveUp,
    /// A partition from its beginning.
    Reset,
}

/// An operator at a terminal.
#[derive(Clone)]
pub struct Operator {
    pub host: Host,
}

impl Operator {
    /// Runs a command on something chosen at random. Whether it works is not its concern.
    pub async fn run(&self, command: Command) {
        let outcome = match command {
            Command::Redrive => {
                let keys = self.dead_keys();
                let one = keys.choose(&mut self.host.sim.world().random).cloned();
                match one {
                    Some(key) => self.redrive(vec![key]).await,
                    None => return,
                }
            }
            Command::Discard => {
                let keys = self.dead_keys();
                let one = keys.choose(&mut self.host.sim.world().random).cloned();
                match one {
                    Some(key) => self.discard(vec![key]).await,
                    None => return,
                }
            }
            Command::Replay => self.replay().await,
            Command::Retry | Command::GiveUp => {
                let positions = self.dead_records();
                let one = positions.choose(&mut self.host.sim.world().random).cloned();
                let Some((position, event)) = one else { return };
                let decision = match command {
                    Command::GiveUp => Decision::Discard,
                    _ => Decision::Redrive,
                };
                self.decide(position, event, decision).await;
                return;
            }
            Command::Reset => {
                let streams: Vec<_> = self.streams().into_iter().map(|(s, ..)| s).collect();
                let one = streams.choose(&mut self.host.sim.world().random).cloned();
                match one {
                    Some(stream) => self.reset(stream).await,
                    None => return,
                }
            }
        };
        self.host.note(|| format!("{command:?}: {outcome:?}"));
    }

    /// Puts right what only an operator can: dead letters, and partitions that are no more what they
    /// were.
    pub async fn put_right(&self) {
        let keys: Vec<TopicKey> = self.dead_keys();
        if !keys.is_empty() {
            let _ = self.redrive(keys).await;
        }
        // Behind each there may be another one of its key.
        for _ in 0..DECISIONS {
            let Some((position, event)) = self.dead_records().into_iter().next() else {
                break;
            };
            let unreadable = event.is_none_or(|event| {
                let world = self.host.sim.world();
                world.oracle.kind(event.as_u128()) == Some(Kind::Unreadable)
            });
            // Also before it is discarded: a record of another partition may be in front of it.
            self.decide(position.clone(), event, Decision::Redrive)
                .await;
            if unreadable {
                self.decide(position, event, Decision::Discard).await;
            }
        }
        for (stream, lost) in self.streams() {
            if lost {
                let _ = self.reset(stream).await;
            }
        }
    }

    fn dead_keys(&self) -> Vec<TopicKey> {
        let world = self.host.sim.world();
        let dead = world.database.held();
        let dead = dead.filter(|(_, row)| row.cause == HoldCause::Dead && row.blocks());
        let keys: BTreeSet<(String, String)> = dead
            .map(|(_, row)| (row.topic.clone(), row.key.clone()))
            .collect();
        let key = |(topic, key)| TopicKey { topic, key };
        keys.into_iter().map(key).collect()
    }

    async fn redrive(&self, keys: Vec<TopicKey>) -> Result<(), StorageError> {
        statement(&self.host, LIMITS, move |conn| conn.redrive(&keys)).await?;
        Ok(())
    }

    async fn discard(&self, keys: Vec<TopicKey>) -> Result<(), StorageError> {
        statement(&self.host, LIMITS, move |conn| conn.discard(&keys, None)).await?;
        Ok(())
    }

    async fn replay(&self) -> Result<(), StorageError> {
        let ids = {
            let world = &mut *self.host.sim.world();
            let published: Vec<i64> = world.database.published().map(|(id, _)| *id).collect();
            let Some(from) = published.choose(&mut world.random).copied() else {
                return Ok(());
            };
            let to = from + world.random.random_range(0..20);
            let ids: BTreeSet<i64> = (from..=to).collect();
            // Before it is done: nobody may learn that it was.
            world.oracle.may_be_replayed(&ids);
            (from, to)
        };
        let bounds = ReplayBounds {
            from_id: Some(ids.0),
            to_id: Some(ids.1),
            ..ReplayBounds::default()
        };
        let (mut published, sim) = (None, self.host.sim.clone());
        let replay = move |conn: &mut Connection<'_>| {
            let before = published.get_or_insert_with(|| published_ids(conn));
            conn.replay(&bounds, None, 1_000)?;
            let after = published_ids(conn);
            let replayed: Vec<i64> = before.difference(&after).copied().collect();
            Ok((replayed, sim.now()))
        };
        let (replayed, at) = statement(&self.host, LIMITS, replay).await?;
        self.host.sim.world().oracle.replayed(&replayed, at);
        Ok(())
    }

    /// Records that are dead, with their events where these are known.
    fn dead_records(&self) -> Vec<(Position, Option<Uuid>)> {
        let world = self.host.sim.world();
        let dead = world.database.dead_letters();
        let dead = dead.filter(|(_, row)| row.settled.is_none() && row.letter.cause == Cause::Dead);
        dead.map(|((_, topic, partition, offset), row)| {
            let position = Position {
                topic: topic.clone(),
                partition: *partition,
                offset: *offset,
            };
            (position, row.letter.event_id)
        })
        .collect()
    }

    async fn decide(&self, position: Position, event: Option<Uuid>, decision: Decision) {
        let discards = matches!(decision, Decision::Discard);
        if let Some(event) = event.filter(|_| discards) {
            self.host.sim.world().oracle.gave_up(event);
        }
        let inboxes = SimInboxes {
            host: self.host.clone(),
        };
        let mut inbox = inboxes.background();
        let registry = registry();
        let deciding = decide(inbox.as_mut(), GROUP, &position, decision, &registry, false);
        let outcome = tokio::time::timeout(Duration::from_secs(10), deciding).await;
        self.host
            .note(|| format!("decides on {position:?}: {outcome:?}"));
    }

    /// The partitions that the group has a place in, and whether that place is gone.
    fn streams(&self) -> Vec<(Stream, bool)> {
        let world = self.host.sim.world();
        let offsets = world.database.offsets();
        let streams = offsets.filter_map(|((group, topic, partition), progress)| {
            let known = world.kafka.topics.get(topic)?;
            let log = known.partitions.get(usize::try_from(*partition).ok()?)?;
            let another = progress.topic_id.is_some_and(|id| id != known.id);
            let range = log.log_start..=log.end();
            let stream = Stream {
                group: group.clone(),
                topic: topic.clone(),
                partition: *partition,
            };
            Some((stream, another || !range.contains(&progress.next_offset)))
        });
        streams.collect()
    }

    async fn reset(&self, stream: Stream) -> Result<(), StorageError> {
        let (offset, id) = {
            let world = &mut *self.host.sim.world();
            let id = world.kafka.topics.get(&stream.topic).map(|topic| topic.id);
            let log = world.kafka.partition(&stream.topic, stream.partition);
            let Ok(log) = log else { return Ok(()) };
            (log.log_start, id)
        };
        self.host.note(|| format!("resets {stream:?} to {offset}"));
        statement(&self.host, LIMITS, move |conn| {
            conn.reset(&stream, offset, id)
        })
        .await
    }
}

fn published_ids(conn: &Connection<'_>) -> BTreeSet<i64> {
    let published = conn.database().published();
    published.map(|(id, _)| *id).collect()
}
