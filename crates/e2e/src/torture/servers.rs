//! The servers: three brokers, and a primary with a synchronous standby that takes its place.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use local_stack::KafkaCluster;
use local_stack::testing::PostgresServer;
use tokio::task::spawn_blocking;
use tokio_postgres::{Client, NoTls};

use crate::eventually::{Seen, eventually_within};
use crate::torture::disk::Disk;
use crate::torture::fault::{BROKER_WITH_SMALL_DISK, BROKERS};
use crate::torture::proxy::{Condition, Proxy};
use crate::torture::services::{Ports, database_url};

/// A standby that is slow finds the log that it needs.
const KEPT_LOG: (&str, &str) = ("wal_keep_size", "256MB");
const SYNCHRONOUS_WITHIN: Duration = Duration::from_mins(1);

/// Runs what blocks.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    Ok(spawn_blocking(work).await?)
}

/// A connection, driven by a task of its own.
pub(crate) async fn connect(port: u16) -> Result<Client> {
    let mut config: tokio_postgres::Config = database_url(port).parse()?;
    config.connect_timeout(Duration::from_secs(5));
    let (client, connection) = config.connect(NoTls).await?;
    // What ends the connection is told to whoever uses the client next.
    tokio::spawn(connection);
    Ok(client)
}

/// Three brokers.
#[derive(Debug)]
pub(crate) struct Kafka {
    folder: PathBuf,
    cluster: Arc<KafkaCluster>,
    /// Of one of them, where one can be made.
    disk: Option<Disk>,
}

impl Kafka {
    pub(crate) async fn start(folder: PathBuf) -> Result<Self> {
        let data = KafkaCluster::data(&folder, BROKER_WITH_SMALL_DISK);
        let disk = Disk::mount(&data);
        if let Err(error) = &disk {
            println!("No disk will be full, since none can be made: {error:#}");
        }
        let at = folder.clone();
        let cluster = blocking(move || KafkaCluster::start(&at)).await?;
        Ok(Self {
            folder,
            cluster: Arc::new(cluster.context("starting Kafka")?),
            disk: disk.ok(),
        })
    }

    /// For `KAFKA_BROKERS`.
    pub(crate) fn brokers(&self) -> String {
        self.cluster.brokers()
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn broker(&self, id: usize) -> String {
        self.cluster.broker(id)
    }

    pub(crate) fn ports(&self) -> Result<[u16; BROKERS]> {
        let mut ports = [0; BROKERS];
        for (id, port) in (1..).zip(&mut ports) {
            let broker = self.broker(id);
            let (_, text) = broker.rsplit_once(':').context("an address has a port")?;
            *port = text.parse()?;
        }
        Ok(ports)
    }

    pub(crate) async fn kill(&self, id: usize) -> Result<()> {
        let cluster = Arc::clone(&self.cluster);
        Ok(blocking(move || cluster.kill(id)).await??)
    }

    pub(crate) async fn start_again(&self, id: usize) -> Result<()> {
        let cluster = Arc::clone(&self.cluster);
        Ok(blocking(move || cluster.start_again(id)).await??)
    }

    pub(crate) fn pause(&self, id: usize) {
        self.cluster.pause(id);
    }

    pub(crate) fn resume(&self, id: usize) {
        self.cluster.resume(id);
    }

    /// Whether a disk can be full.
    pub(crate) fn has_disk(&self) -> bool {
        self.disk.is_some()
    }

    /// Fills the disk of a broker, if it has one of its own.
    pub(crate) fn fill_disk(&self) -> Result<()> {
        self.disk.as_ref().map_or(Ok(()), Disk::fill)
    }

    /// Gives the space back, and starts the broker again: it ends where it cannot write.
    pub(crate) async fn empty_disk(&self) -> Result<()> {
        let Some(disk) = &self.disk else {
            return Ok(());
        };
        self.kill(BROKER_WITH_SMALL_DISK).await?;
        disk.empty()?;
        self.start_again(BROKER_WITH_SMALL_DISK).await
    }

    /// Copies the brokers' logs.
    pub(crate) fn keep_logs(&self, folder: &Path) {
        for id in 1..=BROKERS {
            let log = KafkaCluster::log(&self.folder, id);
            copy(&log, &folder.join(format!("kafka-{id}.log")));
        }
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        // Before the cluster's folder is removed.
        self.disk = None;
    }
}

/// A primary and its standby.
#[derive(Debug)]
pub(crate) struct Postgres {
    primary: Arc<PostgresServer>,
    /// None between a promotion and a new standby.
    standby: Option<Arc<PostgresServer>>,
    /// From the standby to the primary.
    replication: Proxy,
    folder: PathBuf,
    promotions: usize,
}

impl Postgres {
    /// Starts both. Logs of primaries go into `folder`.
    pub(crate) async fn start(folder: &Path) -> Result<Self> {
        let primary = blocking(|| PostgresServer::start(&[KEPT_LOG])).await?;
        let mut postgres = Self {
            replication: Proxy::to_postgres(primary.port()).await?,
            primary: Arc::new(primary),
            standby: None,
            folder: folder.to_owned(),
            promotions: 0,
        };
        postgres.make_standby().await?;
        Ok(postgres)
    }

    /// Of the primary.
    pub(crate) fn port(&self) -> u16 {
        self.primary.port()
    }

    pub(crate) fn standby_port(&self) -> Result<u16> {
        Ok(self.standby.as_ref().context("no standby")?.port())
    }

    /// What the way from the standby to the primary is like from now on. Commits wait for it.
    pub(crate) fn set_replication(&self, condition: Condition) {
        self.replication.set(condition);
    }

    /// Kills the primary.
    pub(crate) async fn crash(&self) -> Result<()> {
        let primary = Arc::clone(&self.primary);
        blocking(move || primary.kill()).await
    }

    /// Ends the sessions of all clients of the primary, and that of the standby.
    pub(crate) async fn end_sessions(&self) -> Result<()> {
        let sql = connect(self.port()).await?;
        let end = "select pg_terminate_backend(pid) from pg_stat_activity
                   where backend_type in ('client backend', 'walsender')
                     and pid <> pg_backend_pid()";
        sql.batch_execute(end).await?;
        Ok(())
    }

    /// Makes the standby the primary; the old one is removed.
    pub(crate) async fn promote(&mut self) -> Result<()> {
        let standby = self.standby.take().context("no standby")?;
        let promoted = Arc::clone(&standby);
        tokio::spawn(async move { promoted.promote().await }).await?;
        self.keep_log();
        self.promotions += 1;
        let old = std::mem::replace(&mut self.primary, standby);
        blocking(move || drop(old)).await
    }

    /// Makes a standby and waits until commits wait for it. The primary is restarted for it.
    pub(crate) async fn make_standby(&mut self) -> Result<()> {
        let primary = Arc::clone(&self.primary);
        self.replication = Proxy::to_postgres(self.port()).await?;
        let way = format!(
            "host=127.0.0.1 port={} user=outbox password=outbox application_name=standby",
            self.replication.port()
        );
        let make = move || primary.standby(&[KEPT_LOG, ("primary_conninfo", &way)]);
        let standby = blocking(make).await?;
        self.standby = Some(Arc::new(standby));
        let sql = connect(self.port()).await?;
        sql.batch_execute("alter system set synchronous_standby_names = '*'")
            .await?;
        sql.batch_execute("select pg_reload_conf()").await?;
        let synchronous = "select count(*) from pg_stat_replication where sync_state = 'sync'";
        let (limit, pause) = (SYNCHRONOUS_WITHIN, Duration::from_millis(100));
        eventually_within("a synchronous standby", limit, pause, async || {
            let standbys: i64 = sql.query_one(synchronous, &[]).await?.get(0);
            Ok(if standbys == 1 {
                Seen::Done(())
            } else {
                Seen::NotYet(format!("{standbys} are"))
            })
        })
        .await
    }

    /// Copies the primary's log.
    pub(crate) fn keep_log(&self) {
        let name = format!("postgres-{}.log", self.promotions + 1);
        copy(&self.primary.log(), &self.folder.join(name));
    }
}

/// Where the servers are.
pub(crate) fn ports(kafka: &Kafka, postgres: &Postgres) -> Result<Ports> {
    Ok(Ports {
        postgres: postgres.port(),
        brokers: kafka.ports()?,
    })
}

/// For a look at a failure: what cannot be copied is left out.
fn copy(from: &Path, to: &Path) {
    if let Err(error) = std::fs::copy(from, to) {
        eprintln!("{} is not kept: {error}", from.display());
    }
}
