//! Everything that runs, and what happened to it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use time::OffsetDateTime;
use tokio::time::sleep;

use crate::deployment::PARTITIONS;
use crate::torture::fault::{BROKERS, Fault, INSTANCES, Server, WRITERS};
use crate::torture::leaders::move_leaders;
use crate::torture::plan::{Planned, Step};
use crate::torture::proxy::{Condition, Proxy};
use crate::torture::servers::{Kafka, Postgres, ports};
use crate::torture::services::Services;
use crate::torture::writers::TOPICS;

/// So long connections that a firewall forgot are cut.
const FORGETTING: Duration = Duration::from_millis(100);

/// Ends with all that it started.
#[derive(Debug)]
pub(crate) struct World {
    // First the services, then what they need.
    pub(crate) services: Services,
    writers: Vec<Proxy>,
    pub(crate) kafka: Kafka,
    pub(crate) postgres: Postgres,
    pub(crate) happened: Vec<Happened>,
}

/// A fault that is over.
#[derive(Debug, Clone)]
pub(crate) struct Happened {
    pub(crate) kind: String,
    pub(crate) begun: OffsetDateTime,
    pub(crate) ended: OffsetDateTime,
}

impl World {
    /// Starts everything; the logs of the services go into `folder`.
    pub(crate) async fn start(folder: &Path) -> Result<Self> {
        let kafka = Kafka::start(folder.join("kafka"));
        let (kafka, postgres) = tokio::try_join!(kafka, Postgres::start(folder))?;
        let mut writers = Vec::new();
        for _ in 0..WRITERS {
            writers.push(Proxy::to_postgres(postgres.port()).await?);
        }
        Ok(Self {
            services: Services::start(folder, ports(&kafka, &postgres)?).await?,
            writers,
            kafka,
            postgres,
            happened: Vec::new(),
        })
    }

    /// The port at which a writer finds Postgres.
    pub(crate) fn writer_port(&self, writer: usize) -> u16 {
        self.writers[writer].port()
    }

    /// Does a step from its begin to its end.
    pub(crate) async fn go_through(&mut self, step: Step) -> Result<()> {
        sleep(step.pause).await;
        self.services.look_after()?;
        if !self.can(step.first.fault) {
            return Ok(());
        }
        let place = self.begin(step.first.fault).await?;
        let second = step.second.filter(|second| self.can(second.fault));
        let Some(second) = second else {
            sleep(step.first.lasts).await;
            return self.end(place, step.first).await;
        };
        sleep(step.first.lasts / 2).await;
        let second_place = self.begin(second.fault).await?;
        sleep(step.first.lasts / 2).await;
        self.end(place, step.first).await?;
        sleep(second.lasts.saturating_sub(step.first.lasts / 2)).await;
        self.end(second_place, second).await
    }

    /// Whether this machine lets it happen.
    fn can(&self, fault: Fault) -> bool {
        fault != Fault::FillDisk || self.kafka.has_disk()
    }

    /// Returns its place among those that happened.
    async fn begin(&mut self, fault: Fault) -> Result<usize> {
        let begun = OffsetDateTime::now_utc();
        say(begun, &format!("begins: {fault}"));
        self.happened.push(Happened {
            kind: fault.kind(),
            begun,
            ended: begun,
        });
        let done = self.do_begin(fault).await;
        done.with_context(|| format!("at the begin of {fault}"))?;
        Ok(self.happened.len() - 1)
    }

    async fn do_begin(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::Kill(place) => self.services.kill(place).await?,
            Fault::KillAll(service) => {
                for place in places(|of| INSTANCES[of] == service) {
                    self.services.kill(place).await?;
                }
            }
            Fault::Restart(place) => {
                if let Some(badly) = self.services.stop(place).await? {
                    say(OffsetDateTime::now_utc(), &badly);
                }
            }
            Fault::Freeze(place) => self.services.signal(place, Signal::SIGSTOP)?,
            Fault::Network {
                instance,
                to,
                condition,
                ..
            } => self.services.set(instance, to, condition),
            Fault::WriterNetwork { writer, condition } => self.writers[writer].set(condition),
            Fault::AllToPostgres(condition) => self.set_all(condition),
            Fault::EndSessions => self.postgres.end_sessions().await?,
            Fault::KillBroker(id) => self.kafka.kill(id).await?,
            Fault::FreezeBroker(id) => self.kafka.pause(id),
            Fault::FillDisk => self.kafka.fill_disk()?,
            Fault::MoveLeaders { by } => {
                let broker = self.kafka.broker(1 + by % BROKERS);
                move_leaders(&broker, &TOPICS, PARTITIONS, by).await;
            }
            Fault::HoldReplication => self.postgres.set_replication(Condition::Mute),
            Fault::CrashPrimary { early, behind } => {
                if let Some(behind) = behind {
                    self.postgres.set_replication(Condition::Mute);
                    sleep(behind).await;
                }
                self.postgres.crash().await?;
                if early {
                    self.lead_to(self.postgres.standby_port()?);
                }
            }
        }
        Ok(())
    }

    async fn end(&mut self, place: usize, Planned { fault, .. }: Planned) -> Result<()> {
        let done = self.do_end(fault).await;
        done.with_context(|| format!("at the end of {fault}"))?;
        let ended = OffsetDateTime::now_utc();
        self.happened[place].ended = ended;
        say(ended, &format!("ended:  {fault}"));
        Ok(())
    }

    async fn do_end(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::Kill(place) | Fault::Restart(place) => self.services.run(place)?,
            Fault::KillAll(service) => {
                for place in places(|of| INSTANCES[of] == service) {
                    self.services.run(place)?;
                }
            }
            Fault::Freeze(place) => self.services.signal(place, Signal::SIGCONT)?,
            Fault::Network {
                instance,
                to,
                forgets,
                ..
            } => {
                if forgets {
                    self.services.set(instance, to, Condition::Cut);
                    sleep(FORGETTING).await;
                }
                self.services.set(instance, to, Condition::Open);
            }
            Fault::WriterNetwork { writer, .. } => self.writers[writer].set(Condition::Open),
            Fault::AllToPostgres(_) => self.set_all(Condition::Open),
            Fault::KillBroker(id) => self.kafka.start_again(id).await?,
            Fault::FreezeBroker(id) => self.kafka.resume(id),
            Fault::FillDisk => self.kafka.empty_disk().await?,
            Fault::MoveLeaders { .. } | Fault::EndSessions => {}
            Fault::HoldReplication => self.postgres.set_replication(Condition::Open),
            Fault::CrashPrimary { .. } => {
                self.postgres.promote().await?;
                self.lead_to(self.postgres.port());
                self.postgres.make_standby().await?;
            }
        }
        Ok(())
    }

    fn set_all(&self, condition: Condition) {
        for place in places(|_| true) {
            self.services.set(place, Server::Postgres, condition);
        }
        for writer in &self.writers {
            writer.set(condition);
        }
    }

    fn lead_to(&self, postgres: u16) {
        self.services.lead_to(postgres);
        for writer in &self.writers {
            writer.lead_to(postgres);
        }
    }

    /// Copies the logs of the servers into `folder`, which has those of the services.
    pub(crate) fn keep_logs(&self, folder: &Path) {
        self.kafka.keep_logs(folder);
        self.postgres.keep_log();
    }
}

fn places(of: impl Fn(usize) -> bool) -> impl Iterator<Item = usize> {
    (0..INSTANCES.len()).filter(move |place| of(*place))
}

/// A line with the time of day, as the logs have it.
pub(crate) fn say(at: OffsetDateTime, what: &str) {
    let (hour, minute, second, milli) = at.to_hms_milli();
    println!("{hour:02}:{minute:02}:{second:02}.{milli:03}  {what}");
}
