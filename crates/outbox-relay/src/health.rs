//! What stands in the way, told to the readiness endpoint: the failing partitions, and a pipeline
//! in which nothing has moved for too long.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use messaging::KafkaError;
use service::{Check, Readiness};

/// With something in flight and nothing settled for this long, a relay is not ready.
const STALLED_AFTER: Duration = Duration::from_secs(30);

/// Shared by all tasks of the pipeline.
#[derive(Debug, Clone)]
pub(crate) struct Health {
    kafka: Check,
    progress: Check,
    failing: Arc<Mutex<BTreeMap<(String, i32), String>>>,
    moved: Arc<Mutex<Instant>>,
}

impl Health {
    pub(crate) fn new(readiness: &Readiness) -> Self {
        let progress = readiness.check("progress");
        progress.ready();
        Self {
            kafka: readiness.check("kafka"),
            progress,
            failing: Arc::default(),
            moved: Arc::new(Mutex::new(Instant::now())),
        }
    }

    pub(crate) fn kafka(&self) -> &Check {
        &self.kafka
    }

    /// A partition refused or gave no answer.
    pub(crate) fn failed(&self, topic: &str, partition: i32, error: &KafkaError) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        failing.insert((topic.to_owned(), partition), error.to_string());
        self.tell(&failing);
    }

    /// A partition works, or nobody waits for it any more.
    pub(crate) fn recovered(&self, topic: &str, partition: i32) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        if failing.remove(&(topic.to_owned(), partition)).is_some() {
            self.tell(&failing);
        }
    }

    fn tell(&self, failing: &BTreeMap<(String, i32), String>) {
        match failing.first_key_value() {
            None => self.kafka.ready(),
            Some(((topic, partition), error)) => self.kafka.not_ready(format!(
                "{} partition(s) cannot be written, first {topic}/{partition}: {error}",
                failing.len()
            )),
        }
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
