//! What an operator sees of dead letters.

use std::collections::BTreeMap;

use storage::inbox::dead_letters::{Cause, Counts, Filter, Listed};

use crate::database::error::DatabaseError;
use crate::database::rows::{DeadLetterKey, DeadLetterRow};
use crate::database::{Connection, Database};

impl Connection<'_> {
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
