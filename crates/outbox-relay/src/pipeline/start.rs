//! What a relay is made of, and how its tasks are put together.

use std::sync::Arc;

use storage::lease::Leases;
use storage::outbox::BatchLimits;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use crate::maintenance::health::Health;
use crate::metrics::Metrics;
use crate::pipeline::holder::Holder;
use crate::pipeline::reader::{LARGER, Reader};
use crate::pipeline::relay::{self, Relay};
use crate::pipeline::router::Router;
use crate::pipeline::settler::Settler;
use crate::ports::{Ports, Role};
use crate::sender::pool::{self, Senders};
use crate::sender::requests::SenderChannels;
use crate::topics::refresh::Routes;
use crate::unavailable::circuits::Circuits;
use crate::unavailable::recovery::MissingTopics;

/// What the pipeline works with.
pub(crate) struct Pipeline {
    pub(crate) ports: Ports,
    pub(crate) limits: BatchLimits,
    /// Of events that name none.
    pub(crate) event_source: String,
    pub(crate) leases: Leases,
    pub(crate) routes: Routes,
    pub(crate) wake: Arc<Notify>,
    pub(crate) metrics: Metrics,
    pub(crate) health: Health,
    pub(crate) circuits: Circuits,
    pub(crate) missing: MissingTopics,
}

impl Pipeline {
    /// Starts the settler and the holder; senders follow as partitions are met. End the relay with
    /// [`Relay::finish`].
    pub(crate) fn start(self) -> Relay {
        let (acknowledged, acknowledged_receiver) = mpsc::channel(64);
        let (returned_sender, returned) = mpsc::channel(64);
        let (holds, hold_receiver) = mpsc::channel(64);
        let mut tasks = JoinSet::new();
        let outbox = &self.ports.outbox;
        let own = || outbox.connection(Role::Pipeline);
        let settler = Settler {
            connection: own(),
            acknowledged: acknowledged_receiver,
            returned: returned_sender.clone(),
            postgres: self.health.postgres.clone(),
            metrics: self.metrics.clone(),
        };
        tasks.spawn(settler.run());
        let holder = Holder {
            connection: own(),
            member: self.leases.member(),
            holds: hold_receiver,
            returned: returned_sender.clone(),
            postgres: self.health.postgres.clone(),
            metrics: self.metrics.clone(),
        };
        tasks.spawn(holder.run());
        let senders = Senders::new(pool::SenderContext {
            producer: Arc::clone(&self.ports.producer),
            leases: self.leases.clone(),
            channels: SenderChannels {
                acknowledged,
                holds: holds.clone(),
                returned: returned_sender,
                wanted: self.routes.wanted.clone(),
            },
            circuits: self.circuits.clone(),
            metrics: self.metrics.clone(),
            health: self.health.clone(),
            events_per_slot: usize::try_from(self.limits.events.saturating_mul(LARGER))
                .unwrap_or(usize::MAX),
        });
        let reader = Reader::new(
            own(),
            outbox.statement_timeout(),
            self.limits,
            self.event_source,
            self.metrics.clone(),
        );
        let router = Router::new(
            self.routes,
            senders,
            holds,
            self.missing,
            self.health.failing.clone(),
        );
        Relay::new(relay::RelayParts {
            reader,
            router,
            leases: self.leases,
            circuits: self.circuits,
            wake: self.wake,
            metrics: self.metrics,
            postgres: self.health.postgres,
            tasks,
            returned,
        })
    }
}
