//! What a relay is made of, and how its tasks are put together.

use std::collections::HashMap;
use std::sync::Arc;

use messaging::Cluster;
use storage::lease::Leases;
use storage::outbox::BatchLimits;
use storage::{Database, OwnConnection, Session};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use crate::health::Health;
use crate::holder::Holder;
use crate::metrics::Metrics;
use crate::reader::{LARGER, Reader};
use crate::relay::Relay;
use crate::routes::{Routes, Topics};
use crate::sender::Outlets;
use crate::senders::{Parts, Senders};
use crate::settler::Settler;
use crate::slots::Slots;
use crate::unavailable::circuits::Circuits;
use crate::unavailable::recovery::MissingTopics;
use crate::unroutable::Unroutable;

/// What a relay is made of.
pub(crate) struct Wiring {
    pub(crate) database: Database,
    pub(crate) session: Session,
    pub(crate) cluster: Cluster,
    pub(crate) limits: BatchLimits,
    pub(crate) leases: Leases,
    pub(crate) routes: Routes,
    pub(crate) wake: Arc<Notify>,
    pub(crate) metrics: Metrics,
    pub(crate) health: Health,
    pub(crate) circuits: Circuits,
    pub(crate) missing: MissingTopics,
}

impl Relay {
    /// Starts the settler and the holder; senders follow as partitions are met. End it with
    /// [`Relay::finish`].
    pub(crate) fn start(wiring: Wiring) -> Self {
        let (acknowledged, acknowledged_receiver) = mpsc::channel(64);
        let (returned_sender, returned) = mpsc::channel(64);
        let (holds, hold_receiver) = mpsc::channel(64);
        let mut tasks = JoinSet::new();
        let own = || OwnConnection::new(wiring.database.clone(), wiring.session.clone());
        let settler = Settler {
            connection: own(),
            acknowledged: acknowledged_receiver,
            returned: returned_sender.clone(),
            postgres: wiring.health.postgres.clone(),
            metrics: wiring.metrics.clone(),
        };
        tasks.spawn(settler.run());
        let holder = Holder {
            connection: own(),
            member: wiring.leases.member(),
            holds: hold_receiver,
            returned: returned_sender.clone(),
            postgres: wiring.health.postgres.clone(),
            metrics: wiring.metrics.clone(),
        };
        tasks.spawn(holder.run());
        let senders = Senders::new(Parts {
            cluster: wiring.cluster.clone(),
            leases: wiring.leases.clone(),
            outlets: Outlets {
                acknowledged,
                holds: holds.clone(),
                returned: returned_sender,
                wanted: wiring.routes.wanted.clone(),
            },
            circuits: wiring.circuits.clone(),
            metrics: wiring.metrics.clone(),
            health: wiring.health.clone(),
            events_per_slot: usize::try_from(wiring.limits.events.saturating_mul(LARGER))
                .unwrap_or(usize::MAX),
        });
        let reader = Reader::new(
            own(),
            wiring.session.statement_timeout(),
            wiring.limits,
            wiring.metrics.clone(),
        );
        Self {
            reader,
            wiring,
            topics: Topics::default(),
            unroutable: Unroutable::default(),
            outage_read: None,
            flowing: false,
            unread: false,
            owned: HashMap::new(),
            slots: Slots::new(),
            batch: 0,
            senders,
            tasks,
            holds,
            returned,
        }
    }
}
