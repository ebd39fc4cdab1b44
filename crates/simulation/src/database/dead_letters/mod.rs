//! Dead letters of the consumer: [`held`] is the owner's side, [`settle`] that of an operator's command.

mod held;
mod list;
mod settle;

use std::collections::BTreeSet;

use domain::Position;
use storage::inbox::Stream;
use storage::inbox::dead_letters::Stored;

use super::Database;
use super::hash;
use super::locks::Mode;
use super::mutation::Mutation;
use super::rows::{DeadLetterKey, DeadLetterRow};
use super::transaction::{Failure, Statement};

impl Statement<'_> {
    /// By partition and offset.
    fn letters(
        &self,
        group: &str,
        topic: &str,
    ) -> impl Iterator<Item = (&DeadLetterKey, &DeadLetterRow)> {
        let key = |partition, offset| (group.to_owned(), topic.to_owned(), partition, offset);
        let range = key(i32::MIN, i64::MIN)..=key(i32::MAX, i64::MAX);
        self.tables.dead_letters.scan(self.view(), range)
    }

    fn lock_inbox_keys(
        &mut self,
        (group, topic): (&str, &str),
        keys: &[&[u8]],
        mode: Mode,
    ) -> Result<(), Failure> {
        if self.has(Mutation::NoKeyLocks) {
            return Ok(());
        }
        let keys = keys.iter();
        let locks: BTreeSet<i64> = keys.map(|key| hash::inbox_key(group, topic, key)).collect();
        for lock in locks {
            self.writer.lock(lock, mode)?;
        }
        Ok(())
    }
}

fn letter_key(stream: &Stream, offset: i64) -> DeadLetterKey {
    let (group, topic) = (stream.group.clone(), stream.topic.clone());
    (group, topic, stream.partition, offset)
}

fn position_key(group: &str, position: &Position) -> DeadLetterKey {
    let topic = position.topic.clone();
    (group.to_owned(), topic, position.partition, position.offset)
}

fn storable(reason: &str) -> String {
    reason.replace('\0', "\u{fffd}")
}

fn stored(((_, _, partition, offset), row): (&DeadLetterKey, &DeadLetterRow)) -> Stored {
    let letter = row.letter.clone();
    let (header_names, header_values) = letter.headers.into_iter().unzip();
    Stored {
        partition: *partition,
        offset: *offset,
        key: letter.key,
        value: letter.value,
        header_names,
        header_values,
        omitted_bytes: letter.omitted_bytes,
        cause: letter.cause,
        held_at: Database::time(row.held_at),
    }
}
