//! The process as a whole: which parts there are, what they share, and in which order they stop.
//! All that is shared is made here and handed down; there are no globals.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::ExitCode;

use service::{CancellationToken, ListenError, Ops, Process};
use tokio::runtime::Handle;

use crate::http::HttpApi;
use crate::idempotency_retention;
use crate::metrics::Metrics;
use crate::readiness;
use crate::settings::Settings;
use crate::store::{Store, group_commit};
use crate::wake_up::{Sender, WakeUps};

/// Serves until asked to stop, and returns the exit status.
pub async fn serve(settings: Settings) -> ExitCode {
    match Application::bind(&settings) {
        Ok(application) => application.run().await,
        Err(error) => {
            tracing::error!(%error, "the API cannot be served");
            ExitCode::FAILURE
        }
    }
}

/// The whole service with its ports open and nothing running yet.
pub struct Application {
    process: Process,
    ops: Ops,
    address: SocketAddr,
}

impl Application {
    /// Opens the ports and puts the parts together. Needs no Postgres. Must be called on the tokio
    /// runtime that the connections to Postgres shall live on.
    ///
    /// # Errors
    /// A port is taken or may not be opened.
    pub fn bind(settings: &Settings) -> Result<Self, ListenError> {
        let ops = Ops::bind(settings.ops)?;
        let api = HttpApi::bind(settings.port)?;
        let address = api.local_addr();

        let mut process = Process::new("order-api");
        let stop = process.stop();
        let tracer = process.tracer(&settings.log.traces);
        let wake_ups = WakeUps::default();
        let runtime = Handle::current();
        let mut store = Store::new(
            &settings.database,
            settings.pool_size,
            runtime,
            wake_ups.clone(),
        )
        .with_key_lifetime(settings.key_lifetime)
        .with_cancellation_window(settings.cancellation_window);
        let metrics = Metrics::register(process.registry(), store.pool().clone());

        let cleaning = idempotency_retention::clean(store.clone(), stop.clone());
        process.spawn("old-keys", async {
            cleaning.await;
            Ok::<_, Infallible>(())
        });

        // Stop after the last request, which needs them.
        let drained = CancellationToken::new();
        if settings.group_commit {
            let (queue, writers) = group_commit(
                &settings.database,
                &wake_ups,
                &metrics,
                settings.key_lifetime,
            );
            store = store.with_group_commit(queue);
            for writer in writers {
                let writing = writer.run(drained.clone());
                process.spawn("writer", async {
                    writing.await;
                    Ok::<_, Infallible>(())
                });
            }
        }

        let check = process.readiness().check("postgres");
        let watch = readiness::watch(store.clone(), check, stop.clone());
        process.spawn("readiness", async {
            watch.await;
            Ok::<_, Infallible>(())
        });

        let sender = Sender::new(wake_ups, settings.database.clone(), metrics.clone());
        let sending = sender.run(drained.clone());
        process.spawn("wake-ups", async {
            sending.await;
            Ok::<_, Infallible>(())
        });

        let guard = drained.drop_guard();
        process.spawn("http", async move {
            let served = api.serve(store, metrics, tracer, stop).await;
            drop(guard);
            served
        });
        Ok(Self {
            process,
            ops,
            address,
        })
    }

    /// Where the API listens, also when the system chose the port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where `/livez`, `/readyz` and `/metrics` are.
    pub fn ops_address(&self) -> SocketAddr {
        self.ops.local_addr()
    }

    /// Cancel it to stop in order.
    pub fn stop(&self) -> CancellationToken {
        self.process.stop()
    }

    /// Serves until asked to stop, and returns the exit status.
    pub async fn run(self) -> ExitCode {
        tracing::info!(address = %self.address, "listening");
        self.process.run_with(self.ops).await
    }
}
