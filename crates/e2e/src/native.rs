//! A deployment of processes, beside a Postgres and a Kafka of their own: nobody else's orders are
//! on the topic.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use local_stack::{Stack, StackDir, StackError};
use nix::sys::signal::Signal;
use tokio::task::{JoinHandle, spawn_blocking};
use uuid::Uuid;

use crate::child::{Child, command};
use crate::deployment::{Addresses, Deployment, Exit, Service};
use crate::eventually::{Seen, eventually};

/// Far above the 10 s that a service may take.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// Processes of this machine.
pub(crate) struct Native {
    folder: PathBuf,
    stack: StackDir,
    starting: Option<JoinHandle<Result<Stack, StackError>>>,
    running: Option<Stack>,
    instances: Vec<Instance>,
    /// How many were ever started: each has a log of its own.
    started: usize,
    logs: Vec<Log>,
    client: reqwest::Client,
}

struct Instance {
    service: Service,
    child: Child,
    ops: String,
}

struct Log {
    service: Service,
    name: String,
    path: PathBuf,
}

impl Native {
    /// Starts nothing yet.
    pub(crate) fn new() -> Self {
        let name = format!("transactional-outbox-e2e-{}", Uuid::now_v7().simple());
        let folder = std::env::temp_dir().join(name);
        Self {
            stack: StackDir::new(&folder),
            folder,
            starting: None,
            running: None,
            instances: Vec::new(),
            started: 0,
            logs: Vec::new(),
            client: reqwest::Client::new(),
        }
    }

    async fn start_stack(&mut self) -> Result<Stack> {
        let dir = self.stack.clone();
        let starting = self.starting.insert(spawn_blocking(move || dir.up()));
        let stack = starting.await?.context("starting Postgres and Kafka")?;
        self.starting = None;
        self.running = Some(stack.clone());
        Ok(stack)
    }

    async fn migrate(&self, stack: &Stack) -> Result<()> {
        let environment = [("DATABASE_URL", stack.database_url.as_str())];
        let output = command(Service::Api, &self.folder, &environment)?
            .arg("migrate")
            .output()
            .await?;
        ensure!(
            output.status.success(),
            "order-api migrate: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    fn start(&mut self, service: Service) -> Result<Child> {
        let stack = self.running.as_ref().context("no Postgres, no Kafka")?;
        self.started += 1;
        let name = format!("{service}-{}", self.started);
        let environment = [
            ("DATABASE_URL", stack.database_url.as_str()),
            ("KAFKA_BROKERS", &stack.kafka_brokers),
            ("PORT", "0"),
            ("OPS_PORT", "0"),
        ];
        let child = Child::start(service, name, &self.folder, &environment)?;
        self.logs.push(Log {
            service,
            name: child.name.clone(),
            path: child.log.clone(),
        });
        Ok(child)
    }

    /// Starts as many as are missing.
    async fn complete(&mut self, service: Service) -> Result<()> {
        let there = self.of(service).count();
        let mut children = Vec::new();
        for _ in there..service.instances() {
            children.push(self.start(service)?);
        }
        for mut child in children {
            let ops = local_url(&child.logged("ops").await?)?;
            self.instances.push(Instance {
                service,
                child,
                ops,
            });
        }
        Ok(())
    }

    async fn ready(&self, service: Service) -> Result<()> {
        for instance in self.of(service) {
            let url = format!("{}/readyz", instance.ops);
            let what = format!("{} to be ready", instance.child.name);
            eventually(&what, async || {
                let answer = self.client.get(&url).send().await?;
                if answer.status().is_success() {
                    return Ok(Seen::Done(()));
                }
                Ok(Seen::NotYet(answer.text().await?))
            })
            .await?;
        }
        Ok(())
    }

    fn of(&self, service: Service) -> impl Iterator<Item = &Instance> {
        self.instances
            .iter()
            .filter(move |instance| instance.service == service)
    }
}

impl Deployment for Native {
    async fn up(&mut self) -> Result<Addresses> {
        let stack = self.start_stack().await?;
        self.migrate(&stack).await?;
        for service in Service::ALL {
            self.complete(service).await?;
        }
        let api = self
            .instances
            .iter_mut()
            .find(|instance| instance.service == Service::Api);
        let api = api.context("no order-api")?.child.logged("address").await?;
        for service in Service::ALL {
            self.ready(service).await?;
        }
        Ok(Addresses {
            api: local_url(&api)?,
            database_url: stack.database_url,
            kafka_brokers: stack.kafka_brokers,
        })
    }

    async fn ask(&self, service: Service, path: &str) -> Result<Vec<(u16, String)>> {
        let mut answers = Vec::new();
        for instance in self.of(service) {
            let url = format!("{}{path}", instance.ops);
            let answer = self.client.get(url).send().await?;
            answers.push((answer.status().as_u16(), answer.text().await?));
        }
        Ok(answers)
    }

    async fn kill(&mut self, service: Service, count: usize) -> Result<()> {
        for _ in 0..count {
            let place = self.instances.iter().position(|i| i.service == service);
            let mut instance = self.instances.remove(place.context("none is left")?);
            instance.child.signal(Signal::SIGKILL)?;
            instance.child.ended().await?;
        }
        Ok(())
    }

    async fn restart(&mut self, service: Service) -> Result<()> {
        self.complete(service).await?;
        self.ready(service).await
    }

    async fn stop(&mut self) -> Result<Vec<Exit>> {
        let asked = Instant::now();
        for instance in &self.instances {
            instance.child.signal(Signal::SIGTERM)?;
        }
        let mut exits = Vec::new();
        for mut instance in self.instances.drain(..) {
            let ended = tokio::time::timeout(ENDS_WITHIN, instance.child.ended()).await;
            let Ok(status) = ended else {
                bail!(
                    "{} does not end within {ENDS_WITHIN:?}",
                    instance.child.name
                );
            };
            exits.push(Exit {
                instance: instance.child.name,
                status: status?.code(),
                // Of the slowest so far: they are waited for one after the other.
                took: asked.elapsed(),
            });
        }
        Ok(exits)
    }

    async fn logs(&self, service: Service) -> Result<Vec<(String, String)>> {
        let of_service = self.logs.iter().filter(|log| log.service == service);
        of_service
            .map(|log| Ok((log.name.clone(), read(&log.path)?)))
            .collect()
    }

    fn logs_stay_in(&self) -> Option<String> {
        Some(self.folder.display().to_string())
    }

    async fn tear_down(&mut self, keep_logs: bool) -> Result<()> {
        for mut instance in self.instances.drain(..) {
            if instance.child.signal(Signal::SIGKILL).is_ok() {
                instance.child.ended().await?;
            }
        }
        // An interrupted start goes on in its thread; what it starts is to be ended too.
        if let Some(starting) = self.starting.take() {
            let _ = starting.await;
        }
        self.running = None;
        let (dir, folder) = (self.stack.clone(), self.folder.clone());
        spawn_blocking(move || {
            dir.down()?;
            if !keep_logs && folder.exists() {
                std::fs::remove_dir_all(&folder)?;
            }
            Ok(())
        })
        .await?
    }
}

impl Drop for Native {
    /// Only after a panic is there anything left to end.
    fn drop(&mut self) {
        if self.running.is_some()
            && let Err(error) = self.stack.down()
        {
            eprintln!("Postgres and Kafka may still run: {error}");
        }
    }
}

/// `http://127.0.0.1:PORT` of an address as the services log it.
fn local_url(address: &str) -> Result<String> {
    let address: std::net::SocketAddr = address
        .parse()
        .with_context(|| format!("{address:?} is no address"))?;
    Ok(format!("http://127.0.0.1:{}", address.port()))
}

fn read(log: &Path) -> Result<String> {
    std::fs::read_to_string(log).with_context(|| format!("reading {}", log.display()))
}
