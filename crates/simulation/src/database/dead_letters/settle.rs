//! The command's side: reading what a key holds, and settling it.

use std::collections::BTreeSet;

use domain::Position;
use storage::inbox::dead_letters::{Amount, Cause, DeadLetter, Ending, Stored};

use super::{position_key, storable, stored};
use crate::database::Connection;
use crate::database::error::DatabaseError;
use crate::database::locks::Mode;
use crate::database::rows::{DeadLetterKey, DeadLetterRow};
use crate::database::transaction::{Failure, Statement};

impl Connection<'_> {
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
}

impl Statement<'_> {
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

fn value_bytes(letter: &DeadLetter) -> i64 {
    let bytes = letter.value.as_ref().map_or(0, Vec::len);
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
