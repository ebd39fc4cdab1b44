//! Consumes one owned partition, under one epoch.

use std::time::Duration;

use messaging::ErrorKind;
use service::retry::bounds;
use service::{CancellationToken, RetryLoop};
use storage::StorageError;
use storage::inbox::Progress;
use tokio::time::Instant;
use tracing::{debug, warn};
use uuid::Uuid;

use crate::apply::error::EffectError;
use crate::apply::transaction::{Fence, Outcome, apply};
use crate::handlers::HandlerError;
use crate::partition::context::PartitionContext;
use crate::partition::observe::{observe, partition_progress};
use crate::partition::pending_batch::{BatchSize, PendingBatch};
use crate::partition::position;
use crate::partition::prefetch::{FetchedBatch, Prefetch};
use crate::partition::step::{PositionError, Step, StepError};
use crate::ports::{RecordReader, TRANSACTION_DEADLINE};

/// How long a stop, or another owner, waits for a batch that is being applied.
const FINISH_DEADLINE: Duration = Duration::from_secs(5);

/// A partition has no leader for a moment after its topic was made and whenever leaders change: that
/// is no trouble before it lasts.
const LEADER_PATIENCE: Duration = Duration::from_secs(5);

/// How long a look at the end of a partition may take that delays something else.
const END_DEADLINE: Duration = Duration::from_secs(1);

/// Time between two looks at where the group stands, while nothing comes.
const CONFIRM_INTERVAL: Duration = Duration::from_secs(5);

/// See the module.
pub struct PartitionConsumer {
    context: PartitionContext,
    /// Begins where the group stands; `None` until that was looked up, and after a failed fetch
    /// or a fence.
    prefetch: Option<Prefetch>,
    /// Kept while Postgres is away.
    batch: Option<PendingBatch>,
    batch_size: BatchSize,
    /// When it was last known that the group stands where this consumer does.
    confirmed: Instant,
    /// Asked how long the partition has become, while no batch tells.
    end: Box<dyn RecordReader>,
    /// Kafka's id of the topic that is read, as it is recorded.
    topic_id: Option<Uuid>,
}

impl PartitionConsumer {
    /// Nothing happens before it is driven.
    pub fn new(context: PartitionContext) -> Self {
        Self {
            end: context.reader(),
            context,
            prefetch: None,
            batch: None,
            batch_size: BatchSize::default(),
            confirmed: Instant::now(),
            topic_id: None,
        }
    }

    /// Consumes until `stop` or until the lease ends. Outages are waited out.
    pub async fn run(mut self, stop: CancellationToken) {
        // Without an issue of its own: what it meets is one of Kafka's or one of Postgres'.
        let mut retry = RetryLoop::new(bounds::TASK);
        let mut leaderless: Option<Instant> = None;
        let (partition, name) = (self.context.stream.partition, self.context.name());
        while !stop.is_cancelled() && self.context.owned() {
            // A step in the middle of its transaction is left to end, for a while: to drop it is
            // safe, but it wastes the batch.
            let too_late = async {
                stop.cancelled().await;
                tokio::time::sleep(FINISH_DEADLINE).await;
            };
            let stepped = tokio::select! {
                biased;
                stepped = self.step(&stop) => stepped,
                () = too_late => {
                    self.context.inbox.cancel().await;
                    break;
                }
            };
            match stepped {
                Ok(_) => {
                    self.context.kafka.clear(&name);
                    self.context.postgres.clear(&name);
                    retry.succeeded();
                    leaderless = None;
                }
                Err(StepError::Kafka(error))
                    if error.is_about_the_leader()
                        && leaderless.get_or_insert_with(Instant::now).elapsed()
                            < LEADER_PATIENCE =>
                {
                    debug!(partition = name, %error, "waiting for a leader");
                    self.context.postgres.clear(&name);
                    self.context
                        .topic_progress
                        .trouble(partition, error.to_string());
                    let pause = self.pause(retry.next_delay());
                    stop.run_until_cancelled(pause).await;
                }
                Err(error) => {
                    match &error {
                        StepError::Storage(_) => self.context.postgres.report(&name, &error),
                        // Postgres was asked before.
                        StepError::Kafka(_) | StepError::Position(_) => {
                            self.context.kafka.report(&name, &error);
                            self.context.postgres.clear(&name);
                        }
                        // Not a word of the process' own health, unless it stays so: see partition_progress.
                        StepError::Handler { .. } | StepError::Undecided(_) => {
                            self.context.kafka.clear(&name);
                            self.context.postgres.clear(&name);
                        }
                    }
                    self.context
                        .topic_progress
                        .trouble(partition, error.to_string());
                    let delay = retry.failed(
                        &error,
                        |error| warn!(partition = name, %error, "cannot consume; trying again"),
                    );
                    let pause = self.pause(delay);
                    stop.run_until_cancelled(pause).await;
                }
            }
        }
        if !stop.is_cancelled() {
            self.context.metrics.fenced.inc();
        }
        self.context.kafka.clear(&name);
        self.context.postgres.clear(&name);
        self.context.topic_progress.remove(partition);
    }

    /// Waits, and looks meanwhile how far behind the group is by now.
    async fn pause(&mut self, delay: Duration) {
        tokio::join!(self.look_at_the_end(delay), tokio::time::sleep(delay));
    }

    /// A quota of Kafka is no trouble, but it may be why nothing moves.
    async fn while_throttled(&mut self) {
        let partition = self.context.stream.partition;
        let reason = "a quota of Kafka delays its fetches".to_owned();
        self.context.topic_progress.trouble(partition, reason);
        self.look_at_the_end(END_DEADLINE).await;
    }

    async fn look_at_the_end(&mut self, limit: Duration) {
        let latest = tokio::time::timeout(limit, self.end.latest()).await;
        if let Ok(Ok(latest)) = latest {
            let partition = self.context.stream.partition;
            self.context.topic_progress.grown(partition, latest);
        }
    }

    /// One turn: takes a batch unless there is one, and applies it while the next is fetched.
    /// Returns early, with [`Step::Empty`], when `stop` is cancelled while Kafka has or says nothing.
    ///
    /// # Errors
    /// Nothing was done then, or the fence of the next turn will tell that it was.
    pub async fn step(&mut self, stop: &CancellationToken) -> Result<Step, StepError> {
        if self.batch.is_none() {
            let prefetch = if let Some(prefetch) = &mut self.prefetch {
                prefetch
            } else {
                let Some(prefetch) = stop.run_until_cancelled(self.open()).await else {
                    return Ok(Step::Empty);
                };
                self.prefetch.insert(prefetch?)
            };
            let Some(fetched) = stop.run_until_cancelled(prefetch.next()).await else {
                return Ok(Step::Empty);
            };
            let fetched = match fetched {
                Ok(fetched) => fetched,
                Err(error) => {
                    // After any failure the place is looked at again: the topic may be another one.
                    self.prefetch = None;
                    if error.kind() == ErrorKind::OutOfRange {
                        let described = stop.run_until_cancelled(self.out_of_range()).await;
                        return described.map_or(Ok(Step::Empty), |position| Err(position?.into()));
                    }
                    return Err(match position::lost(&self.context.stream, &error) {
                        Some(position) => position.into(),
                        None => error.into(),
                    });
                }
            };
            self.context
                .metrics
                .throttled_seconds
                .inc_by(fetched.throttle.as_secs_f64());
            if fetched.is_withheld() {
                let looking = self.while_throttled();
                if stop.run_until_cancelled(looking).await.is_none() {
                    return Ok(Step::Empty);
                }
                return self.idle(fetched.from, stop).await;
            }
            self.stand_at(fetched.from, &fetched);
            if fetched.next_offset == fetched.from {
                return self.idle(fetched.from, stop).await;
            }
            self.batch = Some(PendingBatch::new(fetched));
        }
        if !self.context.owned() {
            self.drop_batch();
            return Ok(Step::Fenced);
        }
        let started = Instant::now();
        match self.apply().await? {
            Outcome::Applied(applied) => {
                if let Some(batch) = &self.batch {
                    let records = &batch.fetched().records;
                    observe(&self.context, records, &applied, started);
                }
                self.pass(applied.progress.next_offset);
                Ok(Step::Applied(applied))
            }
            Outcome::Fenced => {
                // Without a lease its end is counted.
                if self.context.owned() {
                    self.context.metrics.fenced.inc();
                }
                let partition = self.context.stream.partition;
                let reason = "the last batch was refused: another owner, or another offset";
                self.context
                    .topic_progress
                    .trouble(partition, reason.to_owned());
                self.drop_batch();
                Ok(Step::Fenced)
            }
        }
    }

    /// Makes sure, now and then, that the group still stands at `next_offset`: where nothing comes
    /// no batch meets a fence, and a reset would go unnoticed.
    async fn idle(
        &mut self,
        next_offset: i64,
        stop: &CancellationToken,
    ) -> Result<Step, StepError> {
        if self.confirmed.elapsed() < CONFIRM_INTERVAL {
            return Ok(Step::Empty);
        }
        let Some(progress) = stop.run_until_cancelled(self.progress()).await else {
            return Ok(Step::Empty);
        };
        if progress?.next_offset == next_offset {
            return Ok(Step::Empty);
        }
        self.drop_batch();
        Ok(Step::Fenced)
    }

    async fn progress(&mut self) -> Result<Progress, StepError> {
        let PartitionContext { inbox, stream, .. } = &mut self.context;
        let progress = inbox.progress(stream).await?;
        self.confirmed = Instant::now();
        Ok(progress.unwrap_or_default())
    }

    /// Leaves what lies before `next_offset`: all of the batch, or the part that was narrowed down.
    fn pass(&mut self, next_offset: i64) {
        if let Some(batch) = self.batch.take() {
            self.stand_at(next_offset, batch.fetched());
            self.batch = batch.after(next_offset);
        }
    }

    fn drop_batch(&mut self) {
        self.batch = None;
        self.prefetch = None;
    }

    /// Looks up where the group stands, makes sure that it is still the same partition, and begins
    /// to fetch.
    async fn open(&mut self) -> Result<Prefetch, StepError> {
        let mut reader = self.context.reader();
        let PartitionContext {
            stream,
            inbox,
            topic_progress,
            ..
        } = &mut self.context;
        let known = inbox.progress(stream).await?;
        if let Some(progress) = &known {
            // Also when it is not to be found there: then the lag tells.
            topic_progress.begin(stream.partition, progress.next_offset, Instant::now());
        }
        let found = position::find(&mut **inbox, &mut *reader, stream, known).await?;
        self.topic_id = found.topic_id;
        let next_offset = found.next_offset;
        let (registry, topic) = (
            self.context.registry.clone(),
            self.context.stream.topic.clone(),
        );
        Ok(Prefetch::start(registry, topic, reader, next_offset))
    }

    async fn apply(&mut self) -> Result<Outcome, StepError> {
        let PartitionContext {
            stream,
            inbox,
            leases,
            epoch,
            metrics,
            ..
        } = &mut self.context;
        inbox.connect().await?;
        let Some(batch) = &mut self.batch else {
            return Ok(Outcome::Fenced);
        };
        let fence = Fence {
            owner: leases.member(),
            epoch: *epoch,
            expected_offset: batch.fetched().from,
            topic_id: self.topic_id,
        };
        let (attempt, records) = batch.attempt(self.batch_size);
        let count = records.records.len();
        let applying = apply(&mut **inbox, stream, fence, &records, attempt);
        let outcome = match tokio::time::timeout(TRANSACTION_DEADLINE, applying).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) if error.blames_an_event(true) => {
                batch.failed();
                metrics.retries.inc();
                return Err(StepError::Handler {
                    attempt: batch.failures(),
                    source: error,
                });
            }
            // The batch waits: an outage is nobody's fault and spends no attempt.
            Ok(Err(
                EffectError::Storage(error)
                | EffectError::Handler {
                    source: HandlerError::Storage(error),
                    ..
                },
            )) => {
                self.batch_size.shrink(count);
                return Err(error.into());
            }
            Ok(Err(error)) => return Err(StepError::Undecided(error)),
            Err(_) => {
                self.batch_size.shrink(count);
                inbox.cancel().await;
                return Err(StorageError::Deadline(TRANSACTION_DEADLINE).into());
            }
        };
        self.batch_size.grow(count);
        self.confirmed = Instant::now();
        Ok(outcome)
    }

    async fn out_of_range(&mut self) -> Result<PositionError, StepError> {
        let mut reader = self.context.reader();
        let next_offset = self.progress().await?.next_offset;
        Ok(position::out_of_range(&mut *reader, &self.context.stream, next_offset).await?)
    }

    fn stand_at(&self, next_offset: i64, fetched: &FetchedBatch) {
        let (partition, now) = (self.context.stream.partition, Instant::now());
        let partition_progress = partition_progress(next_offset, fetched);
        self.context
            .topic_progress
            .update(partition, partition_progress, now);
    }
}
