//! What stands in the way, told to the readiness endpoint: the failing partitions, and a pipeline
//! in which nothing has moved for too long.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use service::{Check, Problems, Readiness};

/// With something in flight and nothing settled for this long, a relay is not ready.
const STALLED_AFTER: Duration = Duration::from_secs(30);

/// Shared by all tasks of the pipeline.
#[derive(Debug, Clone)]
pub(crate) struct Health {
    kafka: Check,
    /// By partition.
    pub(crate) failing: Problems,
    progress: Check,
    moved: Arc<Mutex<Instant>>,
}

impl Health {
    pub(crate) fn new(readiness: &Readiness) -> Self {
        let progress = readiness.check("progress");
        progress.ready();
        let kafka = readiness.check("kafka");
        Self {
            failing: Problems::new(kafka.clone()),
            kafka,
            progress,
            moved: Arc::new(Mutex::new(Instant::now())),
        }
    }

    pub(crate) fn kafka(&self) -> &Check {
        &self.kafka
    }

    /// Something was settled, or nothing was there to settle.
    pub(crate) fn progressed(&self) {
        *self.moved.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.progress.ready();
    }

    /// To be called every now and then while events are in flight.
    pub(crate) fn check_progress(&self, in_flight: usize) {
        let moved = *self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        if moved.elapsed() >= STALLED_AFTER {
            self.progress.not_ready(format!(
                "{in_flight} events in flight and none settled for over {} s",
                STALLED_AFTER.as_secs()
            ));
        }
    }
}
