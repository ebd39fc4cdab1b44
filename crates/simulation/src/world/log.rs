//! What happened: lines for people, and a fingerprint that tells whether two runs are the same.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::time::Duration;

/// See the module.
pub struct Log {
    /// Lines are made and printed: a run is repeated for that.
    verbose: bool,
    fingerprint: DefaultHasher,
}

impl Log {
    /// `verbose` prints each line at once; otherwise only the fingerprint is kept.
    pub fn new(verbose: bool) -> Self {
        Self {
            verbose,
            fingerprint: DefaultHasher::new(),
        }
    }

    pub(super) fn note(&mut self, now: Duration, what: impl FnOnce() -> String) {
        now.as_micros().hash(&mut self.fingerprint);
        if !self.verbose {
            return;
        }
        let what = what();
        let line = format!("{:>10.4} {what}", now.as_secs_f64());
        // The reader may have seen enough.
        let _ = service::output::print(&format!("{line}\n"));
    }

    /// Whether lines are made.
    pub fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// Of all that was noted.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint.finish()
    }
}
