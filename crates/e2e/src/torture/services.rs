//! The instances of the services, each with ways of its own to Postgres and Kafka.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use tokio::time::timeout;

use crate::child::Child;
use crate::deployment::{Service, sum};
use crate::torture::fault::{BROKERS, INSTANCES, LEASE_TTL, Server, instance_name};
use crate::torture::proxy::{Addresses, Condition, Proxy, address};

/// Of the relays: what duplicates in Kafka may come from.
const RESENT: &str = "outbox_resent_after_unknown_outcome";
/// Far above the 10 s that a service may take.
const ENDS_WITHIN: Duration = Duration::from_secs(30);
const SCRAPED_WITHIN: Duration = Duration::from_secs(1);

/// All instances.
#[derive(Debug)]
pub(crate) struct Services {
    folder: PathBuf,
    client: reqwest::Client,
    instances: Vec<Instance>,
    /// What processes that have ended counted, as far as they could be asked.
    resent: i64,
    /// Processes that ended by themselves.
    ended: Vec<String>,
}

#[derive(Debug)]
struct Instance {
    service: Service,
    name: String,
    postgres: Proxy,
    /// One for each broker.
    kafka: Vec<Proxy>,
    environment: Vec<(&'static str, String)>,
    ops: String,
    child: Option<Child>,
    starts: usize,
}

/// Where the servers are, for proxies to lead to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) postgres: u16,
    pub(crate) brokers: [u16; BROKERS],
}

impl Services {
    /// Starts all of them, and waits for none. Their logs go into `folder`.
    pub(crate) async fn start(folder: &Path, ports: Ports) -> Result<Self> {
        let own: [u16; 2 * INSTANCES.len()] = local_stack::testing::free_ports();
        let mut services = Self {
            folder: folder.to_owned(),
            client: reqwest::Client::builder()
                .timeout(Duration::from_secs(5))
                .build()?,
            instances: Vec::new(),
            resent: 0,
            ended: Vec::new(),
        };
        for (place, own) in own.chunks(2).enumerate() {
            let instance = Instance::new(place, ports, (own[0], own[1])).await?;
            services.instances.push(instance);
            services.run(place)?;
        }
        Ok(services)
    }

    /// Starts an instance unless it runs.
    pub(crate) fn run(&mut self, place: usize) -> Result<()> {
        let instance = &mut self.instances[place];
        if instance.child.is_none() {
            instance.starts += 1;
            let name = format!("{}.{}", instance.name, instance.starts);
            let environment = instance.environment.iter();
            let environment: Vec<_> = environment.map(|(n, value)| (*n, value.as_str())).collect();
            let child = Child::start(instance.service, name, &self.folder, &environment)?;
            instance.child = Some(child);
        }
        Ok(())
    }

    /// SIGKILL; returns once it is gone.
    pub(crate) async fn kill(&mut self, place: usize) -> Result<()> {
        self.resent += self.resent_by(place).await.unwrap_or_default();
        if let Some(mut child) = self.instances[place].child.take() {
            match child.has_ended()? {
                Some(status) => self.ended.push(format!("{}: {status}", child.name)),
                None => child.signal(Signal::SIGKILL)?,
            }
            child.ended().await?;
        }
        Ok(())
    }

    /// SIGSTOP or SIGCONT.
    pub(crate) fn signal(&self, place: usize, signal: Signal) -> Result<()> {
        let child = self.instances[place].child.as_ref();
        child.map_or(Ok(()), |child| child.signal(signal))
    }

    /// What the way of an instance to a server is like from now on.
    pub(crate) fn set(&self, place: usize, to: Server, condition: Condition) {
        let instance = &self.instances[place];
        match to {
            Server::Postgres => instance.postgres.set(condition),
            Server::Kafka => {
                for way in &instance.kafka {
                    way.set(condition);
                }
            }
            Server::Broker(id) => instance.kafka[id - 1].set(condition),
        }
    }

    /// Leads all to another Postgres.
    pub(crate) fn lead_to(&self, postgres: u16) {
        for instance in &self.instances {
            instance.postgres.lead_to(postgres);
        }
    }

    /// Starts those again that ended by themselves, and remembers that they did.
    pub(crate) fn look_after(&mut self) -> Result<()> {
        for place in 0..self.instances.len() {
            let child = &mut self.instances[place].child;
            let Some(running) = child else { continue };
            if let Some(status) = running.has_ended()? {
                self.ended.push(format!("{}: {status}", running.name));
                *child = None;
                self.run(place)?;
            }
        }
        Ok(())
    }

    /// The processes that ended by themselves so far.
    pub(crate) fn ended_by_themselves(&self) -> &[String] {
        &self.ended
    }

    /// Where the order APIs are.
    pub(crate) fn apis(&self) -> Vec<String> {
        let apis = INSTANCES.iter().zip(&self.instances);
        apis.filter(|(service, _)| **service == Service::Api)
            .filter_map(|(_, instance)| {
                let port = instance
                    .environment
                    .iter()
                    .find(|(name, _)| *name == "PORT");
                port.map(|(_, port)| format!("http://127.0.0.1:{port}"))
            })
            .collect()
    }

    /// Those that are not ready, and why.
    pub(crate) async fn not_ready(&self) -> Vec<String> {
        let mut all = Vec::new();
        for instance in &self.instances {
            let asked = self.client.get(format!("{}/readyz", instance.ops)).send();
            let why = match asked.await {
                Ok(answer) if answer.status().is_success() => continue,
                Ok(answer) => answer.text().await.unwrap_or_default(),
                Err(error) => error.to_string(),
            };
            all.push(format!("{}: {why}", instance.name));
        }
        all
    }

    /// Records that the relays sent again after an unknown outcome; those of processes that could
    /// not be asked before they were killed are missing.
    pub(crate) async fn resent(&self) -> i64 {
        let mut resent = self.resent;
        for place in 0..self.instances.len() {
            resent += self.resent_by(place).await.unwrap_or_default();
        }
        resent
    }

    async fn resent_by(&self, place: usize) -> Option<i64> {
        let instance = &self.instances[place];
        if instance.service != Service::Relay || instance.child.is_none() {
            return None;
        }
        let asked = async {
            let url = format!("{}/metrics", instance.ops);
            self.client.get(url).send().await?.text().await
        };
        let text = timeout(SCRAPED_WITHIN, asked).await.ok()?.ok()?;
        sum(&[text], RESENT).ok()
    }

    /// SIGTERM to all; fails unless each ends with status 0.
    pub(crate) async fn stop_all(&mut self) -> Result<()> {
        for place in 0..self.instances.len() {
            self.signal(place, Signal::SIGTERM)?;
        }
        for place in 0..self.instances.len() {
            if let Some(badly) = self.ended(place).await? {
                bail!("{badly}");
            }
        }
        Ok(())
    }

    /// SIGTERM; fails unless the instance ends in time. Its status is 1 where a server is away and
    /// work stays undone; that is told.
    pub(crate) async fn stop(&mut self, place: usize) -> Result<Option<String>> {
        self.resent += self.resent_by(place).await.unwrap_or_default();
        self.signal(place, Signal::SIGTERM)?;
        self.ended(place).await
    }

    /// Waits for the end of an instance that was asked to end; how it ended unless well.
    async fn ended(&mut self, place: usize) -> Result<Option<String>> {
        let Some(mut child) = self.instances[place].child.take() else {
            return Ok(None);
        };
        let ended = timeout(ENDS_WITHIN, child.ended()).await;
        let status = ended.with_context(|| format!("{} does not end", child.name))??;
        let name = &child.name;
        Ok((!status.success()).then(|| format!("{name} ended with {status} after SIGTERM")))
    }
}

impl Instance {
    async fn new(place: usize, ports: Ports, (port, ops): (u16, u16)) -> Result<Self> {
        let postgres = Proxy::to_postgres(ports.postgres).await?;
        let addresses = Addresses::default();
        let mut kafka = Vec::new();
        for broker in ports.brokers {
            kafka.push(Proxy::to_kafka(broker, &addresses).await?);
        }
        let pairs = ports.brokers.iter().zip(&kafka);
        let pairs = pairs.map(|(theirs, own)| (address(*theirs), address(own.port())));
        set(&addresses, pairs.collect());
        let brokers = kafka.iter().map(|way| format!("127.0.0.1:{}", way.port()));
        let environment = vec![
            ("DATABASE_URL", database_url(postgres.port())),
            ("KAFKA_BROKERS", brokers.collect::<Vec<_>>().join(",")),
            ("KAFKA_REPLICATION_FACTOR", BROKERS.to_string()),
            ("LEASE_TTL", format!("{}s", LEASE_TTL.as_secs())),
            ("PORT", port.to_string()),
            ("OPS_PORT", ops.to_string()),
        ];
        Ok(Self {
            service: INSTANCES[place],
            name: instance_name(place),
            postgres,
            kafka,
            environment,
            ops: format!("http://127.0.0.1:{ops}"),
            child: None,
            starts: 0,
        })
    }
}

fn set(addresses: &OnceLock<Vec<(Vec<u8>, Vec<u8>)>>, pairs: Vec<(Vec<u8>, Vec<u8>)>) {
    addresses.set(pairs).expect("it is set once");
}

/// Of a server of the local stack, or of a proxy before it.
pub(crate) fn database_url(port: u16) -> String {
    format!("postgres://outbox:outbox@127.0.0.1:{port}/outbox")
}
