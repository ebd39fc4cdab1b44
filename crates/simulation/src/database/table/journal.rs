//! The end of transactions, and of row versions that nobody sees any more.

use super::{Kind, Stamp, Table, TransactionId, Version};

impl<K: Ord + Clone, R> Table<K, R> {
    /// Removes the versions of a key that no snapshot from `horizon` on sees; true when none of those
    /// that are left is old.
    fn prune(&mut self, key: &K, horizon: u64) -> bool {
        let Some(versions) = self.rows.get_mut(key) else {
            return true;
        };
        versions.retain(
            |version| !matches!(version.ended, Some(Stamp::Committed(commit)) if commit <= horizon),
        );
        let old = |version: &Version<R>| matches!(version.ended, Some(Stamp::Committed(_)));
        let clean = !versions.iter().any(old);
        if versions.is_empty() {
            self.rows.remove(key);
        }
        clean
    }
}

/// The end of transactions, the same for every table.
pub(in crate::database) trait Journal {
    /// Makes what a transaction did the `commit`th commit. Nobody looks at what was before `horizon`.
    fn commit(&mut self, transaction: TransactionId, commit: u64, horizon: u64);
    /// Takes back what a transaction did after `step`.
    fn undo(&mut self, transaction: TransactionId, step: u64);
}

impl<K: Ord + Clone, R: Clone + Send + 'static> Journal for Table<K, R> {
    fn commit(&mut self, transaction: TransactionId, commit: u64, horizon: u64) {
        let running = |stamp| matches!(stamp, Stamp::Running(of, _) if of == transaction);
        for change in self.changes.remove(&transaction).unwrap_or_default() {
            for version in self.rows.get_mut(&change.key).into_iter().flatten() {
                if running(version.created) {
                    version.created = Stamp::Committed(commit);
                }
                if version.ended.is_some_and(running) {
                    version.ended = Some(Stamp::Committed(commit));
                }
            }
            if change.kind != Kind::Inserted {
                self.old.insert(change.key);
            }
        }
        let old = std::mem::take(&mut self.old);
        self.old = old
            .into_iter()
            .filter(|key| !self.prune(key, horizon))
            .collect();
    }

    fn undo(&mut self, transaction: TransactionId, step: u64) {
        let Some(changes) = self.changes.get_mut(&transaction) else {
            return;
        };
        let kept = changes.partition_point(|change| change.step <= step);
        for change in changes.split_off(kept).into_iter().rev() {
            let Some(versions) = self.rows.get_mut(&change.key) else {
                continue;
            };
            if change.kind != Kind::Deleted {
                versions.pop();
            }
            match versions.last_mut() {
                Some(last) if change.kind != Kind::Inserted => last.ended = None,
                Some(_) => {}
                None => drop(self.rows.remove(&change.key)),
            }
        }
        if self.changes.get(&transaction).is_some_and(Vec::is_empty) {
            self.changes.remove(&transaction);
        }
    }
}
