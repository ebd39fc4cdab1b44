//! Dead letters of the consumer: the owner's side and the commands'.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use domain::Position;
use storage::inbox::Stream;
use storage::inbox::dead_letters::{
    Amount, Cause, Counts, DeadLetter, Ending, Filter, Listed, Stored,
};

use super::error::DatabaseError;
use super::hash;
use super::locks::Mode;
use super::mutation::Mutation;
use super::rows::{DeadLetterKey, DeadLetterRow};
use super::transaction::{Failure, Scope, Statement};
use super::{Connection, Database};

impl Connection<'_> {
    /// As `storage::inbox::dead_letters::held_keys`.
    ///
    /// # Errors
    /// Any [`DatabaseError`].
    pub fn held_keys(
        &mut self,
        stream: &Stream,
        keys: &[&[u8]],
    ) -> Result<HashSet<Vec<u8>>, DatabaseError> {
        self.call("held_keys", Scope::Statements, |call| {
            let seen = call.step(|statement| Ok(statement.held_keys(stream, keys)))?;
            if seen.is_empty() {
                return Ok(HashSet::new());
            }
            let seen: Vec<&[u8]> = seen.iter().map(Vec::as_slice).collect();
            let topic = (stream.group.as_str(), stream.topic.as_str());
            call.step(|statement| statement.lock_inbox_keys(topic, &seen, Mode::Shared))?;
            let held = call.step(|statement| Ok(statement.held_keys(stream, &seen)))?;
            Ok(held.into_iter().collect())
        })
    }

    /// As `storage::inbox::dead_letters::held_before`.
    ///
    /// # Errors
    /// [`DatabaseError::Aborted`].
    pub fn held_before(
        &mut self,
        stream: &Stream,
        (first, last): (i64, i64),
    ) -> Result<Vec<Stored>, DatabaseError> {
        self.run(|statement| {
            let key = |offset| letter_key(stream, offset);
            let letters = &statement.tables.dead_letters;
            let rows = letters.scan(statement.view(), key(first)..=key(last.max(first)));
            Ok(rows.map(stored).collect())
        })
    }

    /// As `storage::inbox::dead_letters::hold`.
    ///
    /// # Errors
    /// Any [`DatabaseError`].
    pub fn hold_dead_letters(
        &mut self,
        stream: &Stream,
        letters: &[DeadLetter],
    ) -> Result<Option<i64>, DatabaseError> {
        if letters.is_empty() {
            return Ok(None);
        }
        self.run(|statement| statement.hold_dead_letters(stream, letters))
    }

    /// As `storage::inbox::dead_letters::lock_key`.
    ///
    /// # Errors
    /// Any [`DatabaseError`].
    pub fn lock_key(&mut self, group: &str, topic: &str, key: &[u8]) -> Result<(), DatabaseError> {
        self.run(|statement| statement.lock_inbox_keys((group, topic), &[key], Mode::Exclusive))
    }

    /// As `storage::inbox::dead_letters::unsettled_of_key`.
    ///
    /// # Errors
    /// [`DatabaseError::Aborted`].
    pub fn unsettled_of_key(
        &mut self,
        group: &str,
        topic: &str,
        key: &[u8],
        amount: Amount,
    ) -> Result<Vec<Stored>, DatabaseError> {
        self.run(|statement| {
            let mut bytes = 0;
            let rows = statement.letters(group, topic);
            let of_key = rows
                .filter(|(_, row)| row.settled.is_none() && row.letter.key.as_deref() == Some(key));
            let within = of_key
                .take(usize::try_from(amount.records).unwrap_or(0))
                .take_while(|(_, row)| {
                    let before = bytes;
                    bytes += value_bytes(&row.letter);
                    before < amount.bytes
                });
            Ok(within.map(stored).collect())
        })
    }

    /// As `storage::inbox::dead_letters::unsettled_without_key`.
    ///
    /// # Errors
    /// Any [`DatabaseError`].
    pub fn unsettled_without_key(
        &mut self,
        group: &str,
        position: &Position,
    ) -> Result<Option<Stored>, DatabaseError> {
        let key = position_key(group, position);
        let wanted = |row: &DeadLetterRow| row.settled.is_none() && row.letter.key.is_none();
        self.run(|statement| {
            let letters = &statement.tables.dead_letters;
            if !letters.get(statement.view(), &key).is_some_and(wanted) {
                return Ok(None);
            }
            let row = letters.lock(&mut statement.writer, &key, Mode::Exclusive)?;
            Ok(row.filter(wanted).map(|row| stored((&key, &row))))
        })
    }

    /// As `storage::inbox::dead_letters::key_of`.
    ///
    /// # Errors
    /// [`DatabaseError::Aborted`].
    pub fn key_of(
        &mut self,
        group: &str,
        position: &Position,
    ) -> Result<Option<Option<Vec<u8>>>, DatabaseError> {
        let key = position_key(group, position);
        self.run(|statement| {
            let row = statement.tables.dead_letters.get(statement.view(), &key);
            let unsettled = row.filter(|row| row.settled.is_none());
            Ok(unsettled.map(|row| row.letter.key.clone()))
        })
    }

    /// As `storage::inbox::dead_letters::unsettled_keys`.
    ///
    /// # Errors
    /// [`DatabaseError::Aborted`].
    pub fn unsettled_keys(
        &mut self,
        group: &str,
        topic: &str,
    ) -> Result<Vec<Position>, DatabaseError> {
        self.run(|statement| {
            let mut seen = BTreeSet::new();
            let rows = statement.letters(group, topic);
            let unsettled = rows.filter(|(_, row)| row.settled.is_none());
            let first = unsettled.filter(|(_, row)| match &row.letter.key {
                Some(key) => seen.insert(key.clone()),
                None => true,
            });
            Ok(first
                .map(|((_, _, partition, offset), _)| Position {
                    topic: topic.to_owned(),
                    partition: *partition,
                    offset: *offset,
                })
                .collect())
        })
    }

    /// As `storage::inbox::dead_letters::settle`.
    ///
    /// # Errors
    /// Any [`DatabaseError`].
    pub fn settle_dead_letters(
        &mut self,
        group: &str,
        topic: &str,
        places: &[(i32, i64)],
        ending: Ending,
    ) -> Result<(), DatabaseError> {
        self.run(|statement| {
            let settled = Some((statement.began, ending));
            for (partition, offset) in places {
                let key = (group.to_owned(), topic.to_owned(), *partition, *offset);
                let unsettled = |row: &DeadLetterRow| row.settled.is_none();
                let settle = |row| DeadLetterRow { settled, ..row };
                statement.update_letter(&key, unsettled, settle)?;
            }
            Ok(())
        })
    }

    /// As `storage::inbox::dead_letters::rejected`.
    ///
    /// # Errors
    /// Any [`DatabaseError`].
    pub fn rejected(
        &mut self,
        group: &str,
        position: &Position,
        reason: &str,
    ) -> Result<(), DatabaseError> {
        let reject = |row: DeadLetterRow| DeadLetterRow {
            letter: DeadLetter {
                cause: Cause::Dead,
                reason: storable(reason),
                attempts: row.letter.attempts + 1,
                ..row.letter
            },
            ..row
        };
        let key = position_key(group, position);
        self.run(|statement| statement.update_letter(&key, |_| true, reject))
    }

    /// As `storage::inbox::dead_letters::list`.
    ///
    /// # Errors
    /// [`DatabaseError::Aborted`].
    pub fn list(
        &mut self,
        group: &str,
        topic: &str,
        filter: Filter,
    ) -> Result<Vec<Listed>, DatabaseError> {
        self.run(|statement| {
            let rows = statement.letters(group, topic);
            let wanted = rows.filter(|(_, row)| filter.settled || row.settled.is_none());
            let most = usize::try_from(filter.limit).unwrap_or(0);
            Ok(wanted.take(most).map(listed).collect())
        })
    }

    /// As `storage::inbox::dead_letters::counts`.
    ///
    /// # Errors
    /// [`DatabaseError::Aborted`].
    pub fn counts(&mut self, group: &str, topic: &str) -> Result<Vec<Counts>, DatabaseError> {
        self.run(|statement| {
            let mut counts: BTreeMap<i32, Counts> = BTreeMap::new();
            let rows = statement.letters(group, topic);
            for ((_, _, partition, _), row) in rows.filter(|(_, row)| row.settled.is_none()) {
                let of = counts.entry(*partition).or_insert(Counts {
                    partition: *partition,
                    ..Counts::default()
                });
                match row.letter.cause {
                    Cause::Dead => of.dead += 1,
                    Cause::Blocked => of.blocked += 1,
                }
            }
            Ok(counts.into_values().collect())
        })
    }
}

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

    fn held_keys(&self, stream: &Stream, keys: &[&[u8]]) -> Vec<Vec<u8>> {
        let rows = self.letters(&stream.group, &stream.topic);
        let held = rows.filter(|(_, row)| row.holds_key());
        let held: BTreeSet<&[u8]> = held
            .filter_map(|(_, row)| row.letter.key.as_deref())
            .collect();
        let keys: BTreeSet<&[u8]> = keys.iter().copied().collect();
        held.intersection(&keys).map(|key| key.to_vec()).collect()
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

    fn hold_dead_letters(
        &mut self,
        stream: &Stream,
        letters: &[DeadLetter],
    ) -> Result<Option<i64>, Failure> {
        let mut ordered: Vec<&DeadLetter> = letters.iter().collect();
        ordered.sort_unstable_by_key(|letter| letter.offset);
        let mut taken = BTreeSet::new();
        for letter in ordered {
            let key = letter_key(stream, letter.offset);
            let row = DeadLetterRow {
                letter: DeadLetter {
                    reason: storable(&letter.reason),
                    ..letter.clone()
                },
                held_at: self.began,
                settled: None,
            };
            let replace = |old: DeadLetterRow| old.settled.is_some().then(|| row.clone());
            let table = &mut self.tables.dead_letters;
            if !table.upsert(&mut self.writer, &key, &row, replace)? {
                taken.insert(letter.offset);
            }
        }
        let mut offsets = letters.iter().map(|letter| letter.offset);
        Ok(offsets.find(|offset| taken.contains(offset)))
    }

    fn update_letter(
        &mut self,
        key: &DeadLetterKey,
        wanted: impl Fn(&DeadLetterRow) -> bool,
        changed: impl Fn(DeadLetterRow) -> DeadLetterRow,
    ) -> Result<(), Failure> {
        let letters = &mut self.tables.dead_letters;
        if letters.get(self.writer.view, key).is_some_and(&wanted) {
            let row = letters.lock(&mut self.writer, key, Mode::Exclusive)?;
            if let Some(row) = row.filter(wanted) {
                letters.update(&mut self.writer, key, changed(row))?;
            }
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

fn value_bytes(letter: &DeadLetter) -> i64 {
    let bytes = letter.value.as_ref().map_or(0, Vec::len);
    i64::try_from(bytes).unwrap_or(i64::MAX)
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

fn listed(((_, _, partition, offset), row): (&DeadLetterKey, &DeadLetterRow)) -> Listed {
    let letter = row.letter.clone();
    Listed {
        partition: *partition,
        offset: *offset,
        event_id: letter.event_id,
        key: letter.key,
        value_bytes: letter
            .value
            .map(|value| value.len().try_into().unwrap_or(i32::MAX)),
        cause: letter.cause,
        reason: letter.reason,
        attempts: letter.attempts,
        held_at: Database::time(row.held_at),
        settled_at: row.settled.map(|(at, _)| Database::time(at)),
        settled_as: row.settled.map(|(_, ending)| ending),
    }
}
