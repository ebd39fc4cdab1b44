//! How much waits, where and since when; and the proof that nothing is lost.

use std::collections::HashSet;

use domain::{EventState, Slot};
use storage::lease::MemberId;
use storage::outbox::{
    Backlog, HeldCounts, HoldCause, LowestPending, Offender, StateAge, Verified,
};

use super::Connection;
use super::error::DatabaseError;
use super::hash::slot;
use super::rows::HeldRow;
use super::transaction::Statement;

impl Connection<'_> {
    /// As `storage::outbox::backlog`.
    ///
    /// # Errors
    /// [`DatabaseError::Aborted`].
    pub fn backlog(&mut self, bound: i64) -> Result<Backlog, DatabaseError> {
        self.run(|statement| {
            let pending = statement.tables.pending.scan(statement.view(), ..);
            Ok(Backlog {
                pending: bounded(pending.count(), bound),
                oldest_seconds: statement.oldest_pending(),
            })
        })
    }

    /// As `storage::outbox::held_counts`.
    ///
    /// # Errors
    /// [`DatabaseError::Aborted`].
    pub fn held_counts(&mut self, bound: i64) -> Result<HeldCounts, DatabaseError> {
        self.run(|statement| {
            let mut counts = HeldCounts::default();
            let rows = statement.tables.held.scan(statement.view(), ..);
            for (_, row) in rows.take(usize::try_from(bound).unwrap_or(0)) {
                match (row.discarded_at, row.cause) {
                    (Some(_), _) => counts.discarded += 1,
                    (None, HoldCause::Dead) => counts.dead += 1,
                    (None, HoldCause::Blocked) => counts.blocked += 1,
                    (None, HoldCause::Unavailable) => counts.unavailable += 1,
                }
            }
            Ok(counts)
        })
    }

    /// As `storage::outbox::lowest_pending`.
    ///
    /// # Errors
    /// [`DatabaseError::Aborted`].
    pub fn lowest_pending(&mut self, slots: &[Slot]) -> Result<Vec<LowestPending>, DatabaseError> {
        self.run(|statement| {
            let lowest = |slot: &Slot| {
                let id = statement.first_pending(slot.number())?;
                let row = statement.tables.events.get(statement.view(), &id)?;
                Some(LowestPending {
                    slot: *slot,
                    id,
                    topic: row.event.topic.clone(),
                    key: row.event.key.clone(),
                })
            };
            Ok(slots.iter().filter_map(lowest).collect())
        })
    }

    /// As `storage::outbox::still_waiting`.
    ///
    /// # Errors
    /// [`DatabaseError::Aborted`].
    pub fn still_waiting(&mut self, events: &[(Slot, i64)]) -> Result<HashSet<i64>, DatabaseError> {
        self.run(|statement| {
            let (tables, view) = (&statement.tables, statement.view());
            let waits = |(slot, id): &&(Slot, i64)| {
                let held = tables.held.get(view, id);
                tables.pending.get(view, &(slot.number(), *id)).is_some()
                    || held.is_some_and(|row| row.cause == HoldCause::Unavailable)
            };
            Ok(events.iter().filter(waits).map(|(_, id)| *id).collect())
        })
    }

    /// As `storage::outbox::slots_to_watch`.
    ///
    /// # Errors
    /// [`DatabaseError::Aborted`].
    pub fn slots_to_watch(
        &mut self,
        scope: &str,
        member: MemberId,
    ) -> Result<Vec<Slot>, DatabaseError> {
        self.run(|statement| {
            let watches = |slot: &Slot| {
                let key = (scope.to_owned(), i32::from(slot.number()));
                let row = statement.tables.leases.get(statement.view(), &key);
                row.is_none_or(|row| row.owner == Some(member) || !statement.is_owned(scope, row))
            };
            Ok(Slot::all().filter(watches).collect())
        })
    }

    /// As `storage::outbox::oldest_by_state`.
    ///
    /// # Errors
    /// [`DatabaseError::Aborted`].
    pub fn oldest_by_state(&mut self) -> Result<Vec<StateAge>, DatabaseError> {
        self.run(|statement| {
            let pending = statement.oldest_pending();
            let held = [
                (EventState::Dead, HoldCause::Dead),
                (EventState::Blocked, HoldCause::Blocked),
                (EventState::Unavailable, HoldCause::Unavailable),
            ];
            let held = held.into_iter().map(|(state, cause)| {
                let mut rows = statement.tables.held.scan(statement.view(), ..);
                let first = rows.find(|(_, row)| row.cause == cause && row.discarded_at.is_none());
                (state, first.and_then(|(id, _)| statement.age(*id)))
            });
            Ok([(EventState::Pending, pending)]
                .into_iter()
                .chain(held)
                .filter_map(|(state, seconds)| {
                    Some(StateAge {
                        state,
                        seconds: seconds?,
                    })
                })
                .collect())
        })
    }

    /// As `storage::outbox::verify`, with a limit that is not reached.
    ///
    /// # Errors
    /// [`DatabaseError::Aborted`].
    pub fn verify(&mut self) -> Result<Verified, DatabaseError> {
        self.run(|statement| {
            let events = statement.tables.events.scan(statement.view(), ..).count();
            Ok(Verified {
                events: i64::try_from(events).unwrap_or(i64::MAX),
                offenders: statement.offenders(),
            })
        })
    }
}

fn bounded(count: usize, bound: i64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX).min(bound)
}

impl Statement<'_> {
    /// In seconds.
    fn age(&self, id: i64) -> Option<f64> {
        let row = self.tables.events.get(self.view(), &id)?;
        Some(self.now.saturating_sub(row.created_at).as_secs_f64())
    }

    fn oldest_pending(&self) -> Option<f64> {
        let first = Slot::all().filter_map(|slot| self.first_pending(slot.number()));
        first.filter_map(|id| self.age(id)).reduce(f64::max)
    }

    fn offenders(&self) -> Vec<Offender> {
        let (tables, view) = (&self.tables, self.view());
        let event = |id: &i64| tables.events.get(view, id);
        let pending: HashSet<i64> = tables
            .pending
            .scan(view, ..)
            .map(|(key, _)| key.1)
            .collect();
        let mut found: Vec<(i64, &str)> = Vec::new();
        for (id, _) in tables.events.scan(view, ..) {
            let published = tables.published.get(view, id).is_some();
            let held = tables.held.get(view, id).is_some();
            if !(published || held || pending.contains(id)) {
                found.push((*id, "unqueued"));
            }
        }
        for ((of, id), _) in tables.pending.scan(view, ..) {
            if tables.published.get(view, id).is_some() {
                found.push((*id, "pending and published"));
            }
            match event(id) {
                None => found.push((*id, "pending without an event")),
                Some(row) if slot(&row.event.key).number() != *of => {
                    found.push((*id, "pending in a wrong slot"));
                }
                Some(_) => {}
            }
        }
        for (id, _) in tables.published.scan(view, ..) {
            if event(id).is_none() {
                found.push((*id, "published without an event"));
            }
        }
        for (id, row) in tables.held.scan(view, ..) {
            if tables.published.get(view, id).is_some() {
                found.push((*id, "published and held"));
            }
            if pending.contains(id) {
                found.push((*id, "pending and held"));
            }
            self.offending_held(*id, row, &mut found);
        }
        found.sort_unstable();
        let offender = |(id, state): (i64, &str)| Offender {
            id,
            event_id: event(&id).map(|row| row.event.event_id.as_uuid()),
            state: state.to_owned(),
        };
        found.into_iter().map(offender).collect()
    }

    fn offending_held(&self, id: i64, row: &HeldRow, found: &mut Vec<(i64, &'static str)>) {
        match self.tables.events.get(self.view(), &id) {
            None => found.push((id, "held without an event")),
            Some(event) => {
                if slot(&event.event.key).number() != row.slot {
                    found.push((id, "held in a wrong slot"));
                }
                if (&event.event.topic, &event.event.key) != (&row.topic, &row.key) {
                    found.push((id, "held under a wrong key"));
                }
            }
        }
        let blocks =
            |other: &HeldRow| other.blocks() && other.topic == row.topic && other.key == row.key;
        let mut before = self.tables.held.scan(self.view(), ..id);
        if row.cause == HoldCause::Blocked && !before.any(|(_, other)| blocks(other)) {
            found.push((id, "blocked by nothing"));
        }
    }
}
