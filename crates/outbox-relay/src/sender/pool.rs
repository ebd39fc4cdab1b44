//! The senders that run, one per partition that was met.

use std::collections::HashMap;
use std::sync::Arc;

use domain::Slot;
use service::{CancellationToken, Tracer};
use storage::lease::Leases;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinError, JoinSet};

use crate::event::Dispatched;
use crate::maintenance::health::Health;
use crate::metrics::Metrics;
use crate::ports::Producer;
use crate::sender::delivery;
use crate::sender::requests::{Sender, SenderChannels};
use crate::unavailable::circuits::{Circuits, Partition};

/// What every sender is made of.
pub(crate) struct SenderContext {
    pub(crate) producer: Arc<dyn Producer>,
    pub(crate) leases: Leases,
    pub(crate) channels: SenderChannels,
    pub(crate) circuits: Circuits,
    pub(crate) metrics: Metrics,
    pub(crate) health: Health,
    /// Events of one slot that can be in flight.
    pub(crate) events_per_slot: usize,
}

pub(crate) struct Senders {
    context: SenderContext,
    tracer: Tracer,
    running: HashMap<String, HashMap<i32, Handle>>,
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

struct Handle {
    queue: mpsc::Sender<Dispatched>,
    stop: CancellationToken,
}

impl Senders {
    pub(crate) fn new(context: SenderContext) -> Self {
        Self {
            context,
            tracer: Tracer::default(),
            running: HashMap::new(),
            tasks: JoinSet::new(),
            stop: CancellationToken::new(),
        }
    }

    /// Senders that are started from here on note spans there.
    pub(crate) fn trace(&mut self, tracer: Tracer) {
        self.tracer = tracer;
    }

    /// Queues an event; false when its sender died, which ends the process. A queue has room for
    /// all that can be in flight, so nobody ever waits for it.
    pub(crate) fn send(&mut self, dispatched: Dispatched) -> bool {
        let partition = dispatched.destination.partition;
        let handle = self.handle(&dispatched.event.topic, partition);
        handle.queue.try_send(dispatched).is_ok()
    }

    fn handle(&mut self, topic: &str, partition: i32) -> &Handle {
        if !self.running.contains_key(topic) {
            self.running.insert(topic.to_owned(), HashMap::new());
        }
        let partitions = self.running.get_mut(topic).expect("inserted above");
        partitions.entry(partition).or_insert_with(|| {
            let name: Partition = (topic.to_owned(), partition);
            let slots = usize::try_from(Slot::COUNT).expect("there are slots");
            let room = self.context.events_per_slot.saturating_mul(slots);
            let (queue, receiver) = mpsc::channel(room.min(Semaphore::MAX_PERMITS));
            let stop = self.stop.child_token();
            let producer = Arc::clone(&self.context.producer);
            let sender = Sender {
                writer: producer.writer(topic, partition),
                producer,
                partition: name,
                queue: receiver,
                leases: self.context.leases.clone(),
                channels: self.context.channels.clone(),
                circuits: self.context.circuits.clone(),
                stop: stop.clone(),
                metrics: self.context.metrics.clone(),
                health: self.context.health.clone(),
                tracer: self.tracer.clone(),
            };
            self.tasks.spawn(delivery::run(sender));
            Handle { queue, stop }
        })
    }

    /// Ends a topic's senders: each finishes the request that is out and gives the rest back.
    pub(crate) fn retire(&mut self, topic: &str) {
        for (partition, handle) in self.running.remove(topic).into_iter().flatten() {
            handle.stop.cancel();
            self.context.circuits.forget(&(topic.to_owned(), partition));
        }
    }

    /// Lets every sender finish the request that is out and give the rest back.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits for a sender to end; for ever while all run.
    ///
    /// # Errors
    /// When one panicked.
    pub(crate) async fn ended(&mut self) -> Result<(), JoinError> {
        match self.tasks.join_next().await {
            Some(ended) => ended,
            None => std::future::pending().await,
        }
    }
}
