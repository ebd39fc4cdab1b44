//! Backlogs: a database per kind, made once and copied for each run.

use std::path::PathBuf;

use anyhow::{Context, Result};
use local_stack::{Stack, StackDir};
use messaging::Cluster;
use tokio_postgres::{Client, NoTls};

use crate::cpu::Cpu;

pub(crate) const PARTITIONS: i32 = 6;

/// The stack of the benchmarks: nobody else works on it.
pub(crate) struct Bench {
    pub(crate) stack: Stack,
    pub(crate) cluster: Cluster,
    dir: StackDir,
    folder: PathBuf,
}

impl Bench {
    pub(crate) fn start() -> Result<Self> {
        let folder: PathBuf = std::env::temp_dir().join("transactional-outbox-bench");
        // What was checked is not read again; kept, it would fill the disk.
        let dir = StackDir::new(folder.clone()).with_kafka_settings(&[
            ("log.segment.bytes", "134217728"),
            ("log.retention.bytes", "536870912"),
            ("log.retention.check.interval.ms", "5000"),
            ("log.segment.delete.delay.ms", "1000"),
        ]);
        let stack = dir.up()?;
        let cluster = Cluster::new(stack.kafka_brokers.parse()?);
        let bench = Self {
            stack,
            cluster,
            dir,
            folder,
        };
        Ok(bench)
    }

    /// What the servers used of the processor so far.
    pub(crate) fn cpu(&self) -> Cpu {
        Cpu::of_servers_in(&self.folder)
    }

    pub(crate) fn stop(self) -> Result<()> {
        self.dir.down()?;
        Ok(())
    }

    pub(crate) fn url(&self, database: &str) -> String {
        let base = self.stack.database_url.rsplit_once('/');
        format!("{}/{database}", base.map_or("", |(base, _)| base))
    }

    pub(crate) async fn connect(&self, database: &str) -> Result<Client> {
        connect(&self.url(database)).await
    }

    /// A topic with a name of its own.
    pub(crate) async fn topic(&self) -> Result<String> {
        let topic = local_stack::testing::unique_topic("bench");
        self.cluster.ensure_topic(&topic, PARTITIONS, 1).await?;
        Ok(topic)
    }

    /// A migrated database whose outbox holds `events` pending events of about `bytes` bytes each
    /// (key and payload), over 50,000 keys.
    pub(crate) async fn seed(
        &self,
        name: &str,
        topic: &str,
        events: i64,
        bytes: usize,
    ) -> Result<()> {
        let admin = self.connect("outbox").await?;
        admin
            .batch_execute(&format!("drop database if exists {name} with (force)"))
            .await?;
        admin
            .batch_execute(&format!("create database {name}"))
            .await?;
        storage::migrations::migrate(&self.url(name).parse()?).await?;
        let sql = self.connect(name).await?;
        // The key has 36 bytes, the frame of the payload 12.
        let filler = "x".repeat(bytes.saturating_sub(48));
        sql.batch_execute(&format!(
            "insert into outbox_event (event_id, topic, key, event_type, payload)
             select gen_random_uuid(), '{topic}',
                    'order-' || lpad((n::bigint * 7919 % 50000)::text, 30, '0'), 'OrderCreated',
                    ('{{\"filler\":\"{filler}\"}}')::json
             from generate_series(1, {events}) n"
        ))
        .await
        .context("seeding the backlog")?;
        sql.batch_execute("vacuum analyze").await?;
        Ok(())
    }

    /// A copy of a database that nobody is connected to.
    pub(crate) async fn copy(&self, from: &str, to: &str) -> Result<()> {
        let admin = self.connect("outbox").await?;
        admin
            .batch_execute(&format!("drop database if exists {to} with (force)"))
            .await?;
        admin
            .batch_execute(&format!(
                "create database {to} template {from} strategy file_copy"
            ))
            .await?;
        admin.batch_execute("checkpoint").await?;
        Ok(())
    }
}

pub(crate) async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // Ends with the client; its errors reach the client's calls.
    tokio::spawn(connection);
    Ok(client)
}
