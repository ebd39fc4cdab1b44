//! Consumes one owned partition, under one epoch.

use std::time::{Duration, Instant};

use messaging::{Cluster, Failure, KafkaError, PartitionReader};
use service::{Backoff, CancellationToken, Problems};
use storage::inbox::{self, Stream};
use storage::lease::Leases;
use storage::{Connection, Database, Session, StorageError, within};
use tracing::{error, warn};

use crate::apply::{Applied, Fence, Outcome, apply};
use crate::decode::{Decoded, decode};
use crate::handler::Handler;
use crate::metrics::Metrics;

/// About how much one fetch brings; also what bounds a batch.
const FETCH_BYTES: i32 = 512 * 1024;
/// How long Kafka holds a fetch open when there is nothing.
const FETCH_WAIT: Duration = Duration::from_millis(500);
/// Beyond what the session allows a transaction on the server's side.
const APPLY_DEADLINE: Duration = Duration::from_secs(30);
const OPEN_DEADLINE: Duration = Duration::from_secs(10);
/// Time between two log lines about the same trouble.
const LOG_INTERVAL: Duration = Duration::from_mins(1);

/// What one [`PartitionConsumer::step`] did.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    Applied(Applied),
    /// Kafka has nothing new.
    Empty,
    /// The batch was dropped: the partition has another owner, or the offset was moved.
    Fenced,
}

/// Why a step failed. All of it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    #[error(
        "offset {next_offset} of {topic}/{partition} is not there (the partition has {earliest} to \
         {latest}): data was deleted before it was consumed, or the topic was made anew; \
         nothing is skipped, the partition stands still"
    )]
    OutOfRange {
        topic: String,
        partition: i32,
        next_offset: i64,
        earliest: i64,
        latest: i64,
    },
}

/// What a partition's consumer is made of.
pub struct Wiring<H> {
    pub stream: Stream,
    pub database: Database,
    pub session: Session,
    pub cluster: Cluster,
    pub leases: Leases,
    /// The epoch the partition is owned under; the consumer ends with it.
    pub epoch: i64,
    pub handler: H,
    pub metrics: Metrics,
    pub postgres: Problems,
    pub kafka: Problems,
}

/// See the module.
pub struct PartitionConsumer<H> {
    wiring: Wiring<H>,
    reader: PartitionReader,
    connection: Option<Connection>,
    /// `None` until it was looked up, and after a fence.
    next_offset: Option<i64>,
    /// Fetched and not yet applied: kept while Postgres is away.
    batch: Vec<Decoded>,
}

impl<H: Handler> PartitionConsumer<H> {
    /// Nothing happens before it is driven.
    pub fn new(wiring: Wiring<H>) -> Self {
        let Stream {
            topic, partition, ..
        } = &wiring.stream;
        Self {
            reader: PartitionReader::new(wiring.cluster.clone(), topic, *partition),
            wiring,
            connection: None,
            next_offset: None,
            batch: Vec::new(),
        }
    }

    fn owned(&self) -> bool {
        self.wiring.leases.epoch(self.wiring.stream.partition) == Some(self.wiring.epoch)
    }

    /// Consumes until `stop` or until the lease ends. Outages are waited out.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut logged: Option<Instant> = None;
        let name = format!(
            "{}/{}",
            self.wiring.stream.topic, self.wiring.stream.partition
        );
        while !stop.is_cancelled() && self.owned() {
            // A step in the middle of its transaction is left to end: to drop it would be safe too,
            // but it would waste the batch.
            match self.step(&stop).await {
                Ok(_) => {
                    self.wiring.kafka.clear(&name);
                    self.wiring.postgres.clear(&name);
                    backoff.reset();
                    logged = None;
                }
                Err(error) => {
                    match &error {
                        StepError::Storage(_) => self.wiring.postgres.report(&name, &error),
                        StepError::Kafka(_) | StepError::OutOfRange { .. } => {
                            self.wiring.kafka.report(&name, &error);
                        }
                    }
                    if logged.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
                        logged = Some(Instant::now());
                        warn!(partition = name, %error, "cannot consume; trying again");
                    }
                    let pause = tokio::time::sleep(backoff.next_delay());
                    stop.run_until_cancelled(pause).await;
                }
            }
        }
        self.wiring.kafka.clear(&name);
        self.wiring.postgres.clear(&name);
    }

    /// One turn: fetches a batch unless there is one, and applies it. Returns early, with
    /// [`Step::Empty`], when `stop` is cancelled while Kafka has nothing.
    ///
    /// # Errors
    /// Nothing was done then, or the fence of the next turn will tell that it was.
    pub async fn step(&mut self, stop: &CancellationToken) -> Result<Step, StepError> {
        let next_offset = match self.next_offset {
            Some(next_offset) => next_offset,
            None => self.open().await?,
        };
        if self.batch.is_empty() {
            let fetch = self.reader.fetch(next_offset, FETCH_BYTES, FETCH_WAIT);
            let fetched = match stop.run_until_cancelled(fetch).await {
                None => return Ok(Step::Empty),
                Some(Err(error)) if error.failure() == Failure::OutOfRange => {
                    return Err(self.out_of_range(next_offset).await?);
                }
                Some(fetched) => fetched?,
            };
            self.batch = fetched.records.into_iter().map(decode).collect();
        }
        if self.batch.is_empty() {
            return Ok(Step::Empty);
        }
        if !self.owned() {
            return Ok(self.drop_batch());
        }
        match self.apply(next_offset).await? {
            Outcome::Applied(applied) => {
                self.next_offset = Some(applied.progress.next_offset);
                self.batch.clear();
                self.observe(&applied);
                Ok(Step::Applied(applied))
            }
            Outcome::Fenced => Ok(self.drop_batch()),
        }
    }

    fn drop_batch(&mut self) -> Step {
        self.wiring.metrics.fenced.inc();
        self.batch.clear();
        self.next_offset = None;
        Step::Fenced
    }

    /// Where the group stands; at the partition's beginning if it never was here.
    async fn open(&mut self) -> Result<i64, StepError> {
        let mut conn = self.connect().await?;
        let stream = &self.wiring.stream;
        let known = within(OPEN_DEADLINE, inbox::progress(&mut conn, stream)).await?;
        let next_offset = if let Some(progress) = known {
            progress.next_offset
        } else {
            let earliest = self.reader.earliest().await?;
            within(OPEN_DEADLINE, inbox::begin_at(&mut conn, stream, earliest)).await?;
            earliest
        };
        self.connection = Some(conn);
        self.next_offset = Some(next_offset);
        Ok(next_offset)
    }

    async fn apply(&mut self, expected_offset: i64) -> Result<Outcome, StepError> {
        let mut conn = self.connect().await?;
        let fence = Fence {
            owner: self.wiring.leases.member(),
            epoch: self.wiring.epoch,
            expected_offset,
        };
        let Wiring {
            stream, handler, ..
        } = &self.wiring;
        let started = Instant::now();
        let outcome = within(
            APPLY_DEADLINE,
            apply(&mut conn, stream, fence, &self.batch, handler),
        )
        .await?;
        let seconds = started.elapsed().as_secs_f64();
        self.wiring.metrics.batch_seconds.observe(seconds);
        self.connection = Some(conn);
        Ok(outcome)
    }

    /// Takes the connection out, so that a call that fails or is dropped leaves none behind.
    async fn connect(&mut self) -> Result<Connection, StorageError> {
        match self.connection.take() {
            Some(conn) => Ok(conn),
            None => self.wiring.database.connect(&self.wiring.session).await,
        }
    }

    async fn out_of_range(&mut self, next_offset: i64) -> Result<StepError, KafkaError> {
        let Stream {
            topic, partition, ..
        } = &self.wiring.stream;
        // It may have been moved meanwhile, by a command.
        self.next_offset = None;
        Ok(StepError::OutOfRange {
            topic: topic.clone(),
            partition: *partition,
            next_offset,
            earliest: self.reader.earliest().await?,
            latest: self.reader.latest().await?,
        })
    }

    fn observe(&self, applied: &Applied) {
        let metrics = &self.wiring.metrics;
        let Stream {
            topic, partition, ..
        } = &self.wiring.stream;
        metrics.consumed.inc_by(applied.new as u64);
        metrics.duplicates.inc_by(applied.duplicates.len() as u64);
        metrics.dead.inc_by(applied.dead.len() as u64);
        metrics.parked.inc_by(applied.parked as u64);
        let records = applied.new + applied.duplicates.len() + applied.dead.len() + applied.parked;
        metrics
            .batch_records
            .observe(u32::try_from(records).map_or(f64::MAX, f64::from));
        for (event_id, offset) in &applied.duplicates {
            warn!(%event_id, topic, partition, offset, "duplicate event, its effect has happened already");
        }
        for (offset, reason) in &applied.dead {
            error!(topic, partition, offset, reason, "dead letter");
        }
    }
}
