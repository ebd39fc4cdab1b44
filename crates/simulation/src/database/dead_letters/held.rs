//! The owner's side: which keys are held back, and holding records.

use std::collections::{BTreeSet, HashSet};

use storage::inbox::Stream;
use storage::inbox::dead_letters::{DeadLetter, Stored};

use super::{letter_key, storable, stored};
use crate::database::Connection;
use crate::database::call::Scope;
use crate::database::error::DatabaseError;
use crate::database::locks::Mode;
use crate::database::rows::DeadLetterRow;
use crate::database::transaction::{Failure, Statement};

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
}

impl Statement<'_> {
    fn held_keys(&self, stream: &Stream, keys: &[&[u8]]) -> Vec<Vec<u8>> {
        let rows = self.letters(&stream.group, &stream.topic);
        let held = rows.filter(|(_, row)| row.holds_key());
        let held: BTreeSet<&[u8]> = held
            .filter_map(|(_, row)| row.letter.key.as_deref())
            .collect();
        let keys: BTreeSet<&[u8]> = keys.iter().copied().collect();
        held.intersection(&keys).map(|key| key.to_vec()).collect()
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
}
