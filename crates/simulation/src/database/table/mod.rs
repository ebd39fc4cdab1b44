//! A table with versions of rows, so that a statement sees the rows of its snapshot and locks the
//! newest ones, as under `read committed`.

mod journal;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeBounds;

use crate::database::locks::{Mode, Target};
use crate::database::transaction::{Failure, TransactionId};
use crate::database::writer::{View, Writer};

pub(super) use journal::Journal;

/// Which row: the same through all updates, another one for a row that is inserted again.
pub(super) type RowId = u64;

/// Who wrote a version, or ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stamp {
    /// At this step of a transaction that runs.
    Running(TransactionId, u64),
    /// By a transaction with this place in the order of commits.
    Committed(u64),
}

#[derive(Debug, Clone)]
struct Version<R> {
    of: RowId,
    created: Stamp,
    ended: Option<Stamp>,
    row: R,
}

/// What a transaction did to a key, for its end.
#[derive(Debug)]
struct Change<K> {
    step: u64,
    key: K,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Inserted,
    Updated,
    Deleted,
}

/// The committed version of a row.
fn committed<R>(versions: &[Version<R>]) -> Option<&R> {
    let version = versions.iter().rev().find(|version| {
        matches!(version.created, Stamp::Committed(_))
            && !matches!(version.ended, Some(Stamp::Committed(_)))
    })?;
    Some(&version.row)
}

/// Rows by primary key.
#[derive(Debug)]
pub(super) struct Table<K, R> {
    /// Of each key, from the oldest version that somebody may see to the newest.
    rows: BTreeMap<K, Vec<Version<R>>>,
    changes: BTreeMap<TransactionId, Vec<Change<K>>>,
    /// Keys with versions that only old snapshots see.
    old: BTreeSet<K>,
}

impl<K, R> Default for Table<K, R> {
    fn default() -> Self {
        Self {
            rows: BTreeMap::new(),
            changes: BTreeMap::new(),
            old: BTreeSet::new(),
        }
    }
}

impl<R> Version<R> {
    fn is_visible(&self, view: View) -> bool {
        view.sees(self.created) && !self.ended.is_some_and(|ended| view.sees(ended))
    }
}

impl<K: Ord + Clone, R: Clone + Send + 'static> Table<K, R> {
    /// The visible rows of a range, ascending.
    pub(super) fn scan(
        &self,
        view: View,
        range: impl RangeBounds<K>,
    ) -> impl Iterator<Item = (&K, &R)> {
        self.rows.range(range).filter_map(move |(key, versions)| {
            let version = versions.iter().rev().find(|v| v.is_visible(view))?;
            Some((key, &version.row))
        })
    }

    pub(super) fn get(&self, view: View, key: &K) -> Option<&R> {
        self.visible(view, key).map(|version| &version.row)
    }

    fn visible(&self, view: View, key: &K) -> Option<&Version<R>> {
        let mut versions = self.rows.get(key)?.iter().rev();
        versions.find(|version| version.is_visible(view))
    }

    /// The row and the transaction of its visible version: `ctid` and `xmin`, of a table whose rows
    /// are never updated.
    pub(super) fn place(&self, view: View, key: &K) -> Option<RowId> {
        self.visible(view, key).map(|version| version.of)
    }

    /// What is committed.
    pub(super) fn committed(&self) -> impl Iterator<Item = (&K, &R)> {
        let rows = self.rows.iter();
        rows.filter_map(|(key, versions)| Some((key, committed(versions)?)))
    }

    /// One row of what is committed.
    pub(super) fn committed_row(&self, key: &K) -> Option<&R> {
        committed(self.rows.get(key)?)
    }

    /// Locks a visible row until the transaction ends, and returns its newest version: what is asked of
    /// it must be asked again. `None` when it is gone.
    pub(super) fn lock(
        &self,
        writer: &mut Writer<'_>,
        key: &K,
        mode: Mode,
    ) -> Result<Option<R>, Failure> {
        let Some(of) = self.place(writer.view, key) else {
            return Ok(None);
        };
        writer.once(|writer| {
            writer.acquire(Target::Row(of), mode)?;
            Ok(self.newest(writer.view, key, of))
        })
    }

    /// The same, `skip locked`: also `None` when somebody else has it.
    pub(super) fn try_lock(&self, writer: &mut Writer<'_>, key: &K) -> Result<Option<R>, Failure> {
        let Some(of) = self.place(writer.view, key) else {
            return Ok(None);
        };
        writer.once(|writer| {
            let taken = writer.acquire_free(Target::Row(of))?;
            Ok(taken.then(|| self.newest(writer.view, key, of)).flatten())
        })
    }

    /// Inserts a row, or gives the one that is there, seen or not, the version that `conflict` makes of
    /// it: `on conflict do update`. False when it makes none.
    pub(super) fn upsert(
        &mut self,
        writer: &mut Writer<'_>,
        key: &K,
        row: &R,
        conflict: impl Fn(R) -> Option<R>,
    ) -> Result<bool, Failure> {
        while !self.insert(writer, key.clone(), row.clone())? {
            if let Some(met) = self.lock_met(writer, key)? {
                return match conflict(met) {
                    Some(changed) => self.update(writer, key, changed).map(|()| true),
                    None => Ok(false),
                };
            }
        }
        Ok(true)
    }

    /// Locks the row of a key that [`Table::insert`] met. `None` when it is gone: to be inserted then.
    fn lock_met(&self, writer: &mut Writer<'_>, key: &K) -> Result<Option<R>, Failure> {
        writer.once(|writer| {
            let met = self.rows.get(key).and_then(|versions| versions.last());
            let Some(of) = met.map(|version| version.of) else {
                return Ok(None);
            };
            writer.acquire(Target::Row(of), Mode::Exclusive)?;
            Ok(self.newest(writer.view, key, of))
        })
    }

    /// Of a row that is locked, so that nobody else is changing it.
    fn newest(&self, view: View, key: &K, of: RowId) -> Option<R> {
        let version = self.rows.get(key)?.last()?;
        let ended = match version.ended {
            None => false,
            Some(Stamp::Committed(_)) => true,
            Some(Stamp::Running(transaction, _)) => transaction == view.transaction,
        };
        (version.of == of && !ended).then(|| version.row.clone())
    }

    /// Inserts a row; false when the key is there, for whoever looks. Waits for those who are about to
    /// write or to delete it.
    pub(super) fn insert(
        &mut self,
        writer: &mut Writer<'_>,
        key: K,
        row: R,
    ) -> Result<bool, Failure> {
        writer.once(|writer| {
            let me = writer.view.transaction;
            if let Some(last) = self.rows.get(&key).and_then(|versions| versions.last()) {
                match (last.created, last.ended) {
                    (_, Some(Stamp::Running(other, _))) | (Stamp::Running(other, _), None)
                        if other != me =>
                    {
                        return Err(Failure::Wait([other].into()));
                    }
                    (_, None) => return Ok(false),
                    (_, Some(_)) => {}
                }
            }
            let of = writer.next_row();
            let created = self.note(writer, key.clone(), Kind::Inserted);
            self.rows.entry(key).or_default().push(Version {
                of,
                created,
                ended: None,
                row,
            });
            Ok(true)
        })
    }

    /// Gives a row that is locked a new version.
    pub(super) fn update(
        &mut self,
        writer: &mut Writer<'_>,
        key: &K,
        row: R,
    ) -> Result<(), Failure> {
        writer.once(|writer| {
            let created = self.note(writer, key.clone(), Kind::Updated);
            let versions = self.rows.get_mut(key).expect("a locked row is there");
            let last = versions.last_mut().expect("a key has versions");
            last.ended = Some(created);
            let of = last.of;
            versions.push(Version {
                of,
                created,
                ended: None,
                row,
            });
            Ok(())
        })
    }

    /// Deletes a row that is locked.
    pub(super) fn delete(&mut self, writer: &mut Writer<'_>, key: &K) -> Result<(), Failure> {
        writer.once(|writer| {
            let ended = self.note(writer, key.clone(), Kind::Deleted);
            let versions = self.rows.get_mut(key).expect("a locked row is there");
            let last = versions.last_mut().expect("a key has versions");
            last.ended = Some(ended);
            Ok(())
        })
    }

    fn note(&mut self, writer: &mut Writer<'_>, key: K, kind: Kind) -> Stamp {
        let (transaction, step) = (writer.view.transaction, writer.next_step());
        let changes = self.changes.entry(transaction).or_default();
        changes.push(Change { step, key, kind });
        Stamp::Running(transaction, step)
    }
}
