//! Fetches and decodes one batch ahead, so that Kafka and Postgres work at the same time.

use std::time::Duration;

use messaging::{Fetched, KafkaError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::apply::decode::{Decoded, decode};
use crate::ports::RecordReader;
use crate::registry::Registry;

/// About how much one fetch brings; also what bounds a batch.
const FETCH_BYTES: i32 = 512 * 1024;
/// How long Kafka holds a fetch open when there is nothing.
const FETCH_WAIT: Duration = Duration::from_millis(500);

/// What one fetch brought, decoded.
#[derive(Debug)]
pub(crate) struct FetchedBatch {
    pub(crate) records: Vec<Decoded>,
    /// Where it was fetched.
    pub(crate) from: i64,
    pub(crate) next_offset: i64,
    pub(crate) high_watermark: i64,
    pub(crate) stable_offset: i64,
    /// For how long a quota of Kafka delays the next fetch.
    pub(crate) throttle: Duration,
}

impl FetchedBatch {
    /// Whether a quota may be why it brings nothing. Where the partition ends it does not say then.
    pub(crate) fn is_withheld(&self) -> bool {
        self.next_offset == self.from && !self.throttle.is_zero()
    }
}

/// Fetches in a task of its own, which ends with this value and after the first failure.
pub(crate) struct Prefetch {
    batches: mpsc::Receiver<Result<FetchedBatch, KafkaError>>,
    _task: JoinSet<()>,
}

impl Prefetch {
    /// Begins at `offset` of a partition of `topic`.
    pub(crate) fn start(
        registry: Registry,
        topic: String,
        mut reader: Box<dyn RecordReader>,
        mut offset: i64,
    ) -> Self {
        // One place: a batch is fetched only when the one before has been taken.
        let (sender, batches) = mpsc::channel(1);
        let mut task = JoinSet::new();
        task.spawn(async move {
            while let Ok(place) = sender.reserve().await {
                match reader.fetch(offset, FETCH_BYTES, FETCH_WAIT).await {
                    Ok(fetched) => {
                        let batch = decoded(&registry, &topic, offset, fetched);
                        offset = batch.next_offset;
                        place.send(Ok(batch));
                    }
                    Err(error) => {
                        place.send(Err(error));
                        break;
                    }
                }
            }
        });
        Self {
            batches,
            _task: task,
        }
    }

    /// The next batch, in order; an empty one when Kafka has nothing new. Cancellation safe: what
    /// is not taken comes with the next call.
    pub(crate) async fn next(&mut self) -> Result<FetchedBatch, KafkaError> {
        let gone = || KafkaError::Connection("fetching has ended".to_owned());
        self.batches.recv().await.unwrap_or_else(|| Err(gone()))
    }
}

fn decoded(registry: &Registry, topic: &str, from: i64, fetched: Fetched) -> FetchedBatch {
    let records = fetched.records.into_iter();
    FetchedBatch {
        records: records
            .map(|record| decode(registry, topic, record))
            .collect(),
        from,
        next_offset: fetched.next_offset,
        high_watermark: fetched.high_watermark,
        stable_offset: fetched.stable_offset,
        throttle: fetched.throttle,
    }
}
