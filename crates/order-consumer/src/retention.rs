//! Removes inbox rows and settled dead letters after their time, beside the work and never in its
//! way.
//!
//! The owner of partition 0 does it for the whole topic, a few rows at a time.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use messaging::KafkaError;
use service::FailureReporter;
use storage::StorageError;
use storage::inbox::retention::Sweep;
use storage::lease::Leases;
use tokio::time::Instant;
use tracing::{info, warn};
use uuid::Uuid;

use crate::metrics::TopicMetrics;
use crate::ports::{Inbox, InboxFactory, RecordSource};

/// Rows looked at by one statement: some milliseconds' work.
const ROWS: i64 = 2_000;

/// What one [`Cleaner::step`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleaning {
    /// Another process does it.
    NotOurs,
    /// Events are unpublished, or records not consumed, for so long that they may come when their rows
    /// are gone.
    Waiting,
    Swept {
        deleted: i64,
    },
    /// All rows were looked at.
    Done,
}

/// Why a step failed. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum CleaningError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Kafka(#[from] KafkaError),
}

/// What a cleaner is made of.
pub struct Cleaner {
    pub group: String,
    pub topic: String,
    pub inboxes: Arc<dyn InboxFactory>,
    pub records: Arc<dyn RecordSource>,
    pub leases: Leases,
    pub metrics: TopicMetrics,
    /// Rows stay for this long at least.
    pub retention: Duration,
    pub pass: Pass,
}

/// How far a pass over all rows has come.
#[derive(Default)]
pub struct Pass {
    after: Option<Uuid>,
    look: Option<Look>,
    inbox: Option<Box<dyn Inbox>>,
}

/// What Kafka and the group said at the beginning of a pass.
struct Look {
    at: Instant,
    /// The lowest offset of each partition.
    log_starts: Vec<(i32, i64)>,
}

impl Cleaner {
    /// Cleans until it is dropped.
    pub(crate) async fn run(mut self) -> Infallible {
        let between_passes = (self.retention / 20).min(Duration::from_mins(10));
        let mut reporter = FailureReporter::default();
        loop {
            let started = Instant::now();
            let step = self.step().await;
            if step.is_ok() {
                reporter.succeeded();
            }
            let pause = match step {
                Ok(Cleaning::NotOurs | Cleaning::Waiting | Cleaning::Done) => between_passes,
                // A tenth of the time at most.
                Ok(Cleaning::Swept { .. }) => started.elapsed() * 9,
                Err(error) => {
                    reporter.failed(
                        &error,
                        |error| warn!(%error, "cannot clean the inbox; trying again"),
                    );
                    self.pass = Pass::default();
                    between_passes.max(Duration::from_secs(5))
                }
            };
            tokio::time::sleep(pause.max(Duration::from_millis(20))).await;
        }
    }

    /// Looks at some rows and removes those whose time is over.
    ///
    /// # Errors
    /// When Kafka or Postgres cannot be asked; nothing was removed then.
    pub async fn step(&mut self) -> Result<Cleaning, CleaningError> {
        if self.leases.epoch(0).is_none() {
            self.pass = Pass::default();
            return Ok(Cleaning::NotOurs);
        }
        let mut inbox = match self.pass.inbox.take() {
            Some(inbox) => inbox,
            None => self.inboxes.background(),
        };
        let limit = self.retention / 2;
        if inbox.unpublished_older_than(limit).await? {
            info!(
                topic = self.topic,
                "not cleaning the inbox: an event has been unpublished too long"
            );
            self.pass = Pass::default();
            return Ok(Cleaning::Waiting);
        }
        let look = match self.pass.look.take() {
            Some(look) => Some(look),
            None => self.look(&mut *inbox, limit).await?,
        };
        let Some(look) = look else {
            info!(
                topic = self.topic,
                "not cleaning the inbox: a record has been unconsumed too long"
            );
            self.pass = Pass::default();
            return Ok(Cleaning::Waiting);
        };
        let part = Sweep {
            group: &self.group,
            topic: &self.topic,
            after: self.pass.after,
            limit: ROWS,
            // What came since the look was young enough then.
            older_than: self.retention.saturating_add(look.at.elapsed()),
            log_starts: &look.log_starts,
        };
        let swept = inbox.sweep(&part).await?;
        self.metrics
            .cleaned
            .inc_by(u64::try_from(swept.deleted).unwrap_or(0));
        let mut deleted = swept.deleted;
        if swept.reached.is_none() {
            deleted = inbox.sweep_dead_letters(&part).await?;
            if deleted < ROWS {
                self.pass = Pass::default();
                return Ok(Cleaning::Done);
            }
        }
        self.pass = Pass {
            after: swept.reached.or(self.pass.after),
            look: Some(look),
            inbox: Some(inbox),
        };
        Ok(Cleaning::Swept { deleted })
    }

    /// `None` when a record waits in Kafka that is older than `limit`: its event may have been applied
    /// so long ago that its row would go before the record comes.
    async fn look(
        &mut self,
        inbox: &mut dyn Inbox,
        limit: Duration,
    ) -> Result<Option<Look>, CleaningError> {
        let at = Instant::now();
        let counts = self.records.partition_counts().await?;
        let count = counts.get(&self.topic).copied().unwrap_or(0);
        let mut log_starts = Vec::new();
        let mut first_young = Vec::new();
        for partition in 0..count {
            let mut reader = self.records.reader(&self.topic, partition);
            log_starts.push((partition, reader.earliest().await?));
            first_young.push((partition, reader.first_younger_than(limit).await?));
        }
        let next = inbox.next_offsets(&self.group, &self.topic).await?;
        // One that was never consumed is consumed from its beginning.
        let waits = |&(partition, young): &(i32, i64), start: i64| {
            next.get(&partition).copied().unwrap_or(start) < young
        };
        let mut partitions = first_young.iter().zip(&log_starts);
        let waits = partitions.any(|(young, (_, start))| waits(young, *start));
        Ok((!waits).then_some(Look { at, log_starts }))
    }
}
