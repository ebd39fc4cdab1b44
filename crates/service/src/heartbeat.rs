//! Proof that the main runtime turns: a task notes the time every second, and `/livez`, which is
//! served from another thread, looks at how old the note is. It never looks at dependencies: a
//! restart does not bring Postgres back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often the task beats.
const INTERVAL: Duration = Duration::from_secs(1);

/// When the runtime last turned. Clones share the note.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    started: Instant,
    beat_at_millis: Arc<AtomicU64>,
}

impl Heartbeat {
    /// A heartbeat that has beaten just now.
    pub fn new() -> Heartbeat {
        Heartbeat {
            started: Instant::now(),
            beat_at_millis: Arc::new(AtomicU64::new(0)),
        }
    }

    /// Notes the time.
    pub fn beat(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.beat_at_millis.store(now, Ordering::Relaxed);
    }

    /// Time since the last beat.
    pub fn age(&self) -> Duration {
        let beat_at = Duration::from_millis(self.beat_at_millis.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(beat_at)
    }

    /// Beats every second for ever. Must run on the runtime it speaks for.
    pub async fn run(self) {
        loop {
            self.beat();
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

impl Default for Heartbeat {
    fn default() -> Heartbeat {
        Heartbeat::new()
    }
}
