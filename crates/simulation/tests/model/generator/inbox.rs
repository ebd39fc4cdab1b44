//! Operations on the inbox and on dead letters.

use domain::EventId;
use rand::RngExt;
use storage::inbox::dead_letters::{Cause, Ending};
use storage::inbox::{Progress, Stream};
use uuid::Uuid;

use super::{Generator, leases, streams, topic_id};
use crate::operation::{GROUP, Operation as O, event_id, letter};
use crate::run::ModelRun;

impl Generator {
    pub(super) fn of_inbox(&mut self, run: &ModelRun) -> O {
        let streams = streams();
        let stream = self.pick(&streams).clone();
        let mut offsets = run.database.offsets();
        let at = offsets.find(|((_, topic, partition), _)| {
            *topic == stream.topic && *partition == stream.partition
        });
        let progress = at.map_or_else(Progress::default, |(_, progress)| *progress);
        drop(offsets);
        match self.random.random_range(0..100) {
            0..24 => self.fence(run, stream, progress),
            24..36 => O::RecordUnmet(stream, self.records()),
            36..50 => O::Record(stream, self.records()),
            50..58 => O::FollowCopies(stream, self.records()),
            58..63 => O::Unrecord(self.records().into_iter().map(|(id, _)| id).collect()),
            63..73 => {
                let next = Progress {
                    next_offset: progress.next_offset + self.random.random_range(0..3),
                    last_event_id: self.chance(50).then(|| event_id(1)),
                    topic_id: progress.topic_id,
                };
                O::Advance(stream, next)
            }
            73..83 => {
                let target = (*self.pick(&["a", "b"])).to_owned();
                O::Effect(target, event_id(self.random.random_range(0..12)))
            }
            83..85 => O::Progress(stream),
            85..87 => O::NextOffsets(stream.topic),
            87..88 => O::BeginAt(stream, 1, self.topic_id()),
            88..91 => O::Identify(stream, self.near(progress.next_offset), topic_id(1)),
            91..93 => O::Reset(stream, self.random.random_range(0..6), self.topic_id()),
            _ => O::Sweep(stream.topic, self.age(), self.log_starts()),
        }
    }

    fn fence(&mut self, run: &ModelRun, stream: Stream, progress: Progress) -> O {
        let leases = leases(run, &Stream::lease_scope(GROUP, &stream.topic));
        let lease = leases.iter().find(|(unit, _)| *unit == stream.partition);
        let (owner, epoch) = lease.map_or((None, 0), |(_, row)| (row.owner, row.epoch));
        let expected = self.near(progress.next_offset);
        let topic_id = if self.chance(80) {
            progress.topic_id
        } else {
            self.topic_id()
        };
        O::Fence {
            stream,
            offsets: (expected, expected + self.random.random_range(0..4)),
            topic_id,
            owner: self.most_often(owner),
            epoch: self.near(epoch),
        }
    }

    /// No event twice.
    fn records(&mut self) -> Vec<(EventId, i64)> {
        let count = self.random.random_range(1..4);
        let events = rand::seq::index::sample(&mut self.random, 8, count);
        let events = events.into_iter();
        events
            .map(|n| {
                let id = event_id(u128::try_from(n).expect("small"));
                (id, self.random.random_range(0..8))
            })
            .collect()
    }

    pub(super) fn of_dead_letters(&mut self, run: &ModelRun) -> O {
        let streams = streams();
        let stream = self.pick(&streams).clone();
        let offset = self.random.random_range(0..6);
        let topic = stream.topic.clone();
        match self.random.random_range(0..100) {
            0..25 => {
                let count = self.random.random_range(1..3);
                let offsets = rand::seq::index::sample(&mut self.random, 6, count);
                let letters = offsets.into_iter().map(|offset| {
                    let key = self.letter_key();
                    let cause = *self.pick(&[Cause::Dead, Cause::Blocked]);
                    let offset = i64::try_from(offset).expect("small");
                    letter(offset, key.as_deref(), cause)
                });
                O::HoldLetters(stream, letters.collect())
            }
            25..37 => {
                let keys = ["c0", "c1"].map(|key| key.as_bytes().to_vec());
                O::HeldKeys(stream, keys.to_vec())
            }
            37..42 => O::HeldBefore(stream, (offset, offset + 2)),
            42..50 => O::LockInboxKey(topic, b"c0".to_vec()),
            50..56 => O::UnsettledOfKey(topic, b"c0".to_vec()),
            56..60 => O::UnsettledWithoutKey(stream, offset),
            60..64 => O::KeyOf(stream, offset),
            64..68 => O::UnsettledKeys(topic),
            68..80 => {
                let letters = run.database.dead_letters();
                let mut places: Vec<(i32, i64)> = letters
                    .filter(|((_, of, ..), _)| *of == topic)
                    .map(|((_, _, partition, offset), _)| (*partition, *offset))
                    .collect();
                places.truncate(2);
                places.push((7, 7));
                let ending = *self.pick(&[Ending::Redriven, Ending::Discarded]);
                O::SettleLetters(topic, places, ending)
            }
            80..84 => O::Rejected(stream, offset),
            84..87 => O::ListLetters(topic),
            87..89 => O::CountLetters(topic),
            _ => O::SweepLetters(topic, self.age(), self.log_starts()),
        }
    }

    fn letter_key(&mut self) -> Option<Vec<u8>> {
        let keys = [None, Some("c0"), Some("c0"), Some("c1")];
        self.pick(&keys).map(|key| key.as_bytes().to_vec())
    }

    fn log_starts(&mut self) -> Vec<(i32, i64)> {
        vec![
            (0, self.random.random_range(0..9)),
            (1, self.random.random_range(0..9)),
        ]
    }

    fn topic_id(&mut self) -> Option<Uuid> {
        *self.pick(&[None, Some(topic_id(1)), Some(topic_id(2))])
    }
}
