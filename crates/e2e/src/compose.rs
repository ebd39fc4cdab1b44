//! A deployment of containers: what `docker-compose.yml` describes, under a project name, ports and
//! volumes of its own, two relays and two consumers.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;
use uuid::Uuid;

use crate::deployment::{Addresses, Deployment, Exit, Service, settings};

/// What `docker-compose.yml` says of Postgres.
const DATABASE: &str = "orders:orders@127.0.0.1";

/// Containers of a project of their own.
pub(crate) struct Compose {
    workspace: PathBuf,
    project: String,
    api_port: u16,
    postgres_port: u16,
    kafka_port: u16,
    client: reqwest::Client,
}

impl Compose {
    /// Starts nothing yet.
    pub(crate) fn new() -> Result<Self> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let workspace = here.ancestors().nth(2).context("no workspace")?;
        let [api_port, postgres_port, kafka_port] = free_ports()?;
        Ok(Self {
            workspace: workspace.to_owned(),
            project: format!("outbox-e2e-{}", Uuid::now_v7().simple()),
            api_port,
            postgres_port,
            kafka_port,
            client: reqwest::Client::new(),
        })
    }

    /// `docker compose` for this project.
    fn compose(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command
            .args(["compose", "--project-name", &self.project])
            .args(["--file", "docker-compose.yml"])
            .args(["--file", "crates/e2e/docker-compose.yml"])
            .args(arguments)
            .current_dir(&self.workspace)
            .env("PORT", self.api_port.to_string())
            .env("POSTGRES_PORT", self.postgres_port.to_string())
            .env("KAFKA_PORT", self.kafka_port.to_string())
            .envs(settings());
        command
    }

    /// Running containers of a service, by id.
    async fn containers(&self, service: Service) -> Result<Vec<String>> {
        let ids = output(self.compose(&["ps", "--quiet", service.name()])).await?;
        Ok(ids.lines().map(str::to_owned).collect())
    }

    /// Running and ended ones.
    async fn all_containers(&self, service: Service) -> Result<Vec<String>> {
        let ids = output(self.compose(&["ps", "--all", "--quiet", service.name()])).await?;
        Ok(ids.lines().map(str::to_owned).collect())
    }

    async fn start_all(&self, build: bool) -> Result<()> {
        let scales: Vec<String> = Service::ALL
            .map(|service| format!("--scale={service}={}", service.instances()))
            .into();
        let mut up = self.compose(&["up", "--detach", "--wait", "--no-recreate"]);
        if build {
            up.arg("--build");
        }
        up.args(&scales);
        output(up).await.map(drop)
    }
}

impl Deployment for Compose {
    async fn up(&mut self) -> Result<Addresses> {
        self.start_all(true).await?;
        Ok(Addresses {
            api: format!("http://127.0.0.1:{}", self.api_port),
            database_url: format!("postgres://{DATABASE}:{}/orders", self.postgres_port),
            kafka_brokers: format!("127.0.0.1:{}", self.kafka_port),
        })
    }

    async fn ask(&self, service: Service, path: &str) -> Result<Vec<(u16, String)>> {
        let mut answers = Vec::new();
        for container in self.containers(service).await? {
            let port = format!("{}/tcp", service.ops_port());
            let published = output(docker(&["port", &container, &port])).await?;
            let address = published.lines().next().context("no ops port")?;
            let answer = self.client.get(format!("http://{address}{path}"));
            let answer = answer.send().await?;
            answers.push((answer.status().as_u16(), answer.text().await?));
        }
        Ok(answers)
    }

    async fn kill(&mut self, service: Service, count: usize) -> Result<()> {
        let containers = self.containers(service).await?;
        ensure!(containers.len() >= count, "only {containers:?} are left");
        let mut kill = docker(&["kill", "--signal", "SIGKILL"]);
        kill.args(&containers[..count]);
        output(kill).await?;
        let mut wait = docker(&["wait"]);
        wait.args(&containers[..count]);
        output(wait).await.map(drop)
    }

    async fn restart(&mut self, _: Service) -> Result<()> {
        self.start_all(false).await
    }

    async fn stop(&mut self) -> Result<Vec<Exit>> {
        let asked = Instant::now();
        let names = Service::ALL.map(Service::name);
        let mut stop = self.compose(&["stop"]);
        stop.args(names);
        output(stop).await?;
        let took = asked.elapsed();
        let mut exits = Vec::new();
        for service in Service::ALL {
            for container in self.all_containers(service).await? {
                let format = "{{.Name}} {{.State.ExitCode}}";
                let text = output(docker(&["inspect", "--format", format, &container])).await?;
                let (name, status) = text.trim().split_once(' ').context("no exit status")?;
                exits.push(Exit {
                    instance: name.trim_start_matches('/').to_owned(),
                    status: Some(status.parse()?),
                    took,
                });
            }
        }
        Ok(exits)
    }

    async fn logs(&self, service: Service) -> Result<Vec<(String, String)>> {
        let mut logs = Vec::new();
        for container in self.all_containers(service).await? {
            let output = docker(&["logs", &container]).output().await?;
            let text = [output.stdout, output.stderr].concat();
            logs.push((
                format!("{service} {container:.12}"),
                String::from_utf8_lossy(&text).into_owned(),
            ));
        }
        Ok(logs)
    }

    fn logs_stay_in(&self) -> Option<String> {
        None
    }

    async fn tear_down(&mut self, _keep_logs: bool) -> Result<()> {
        let arguments = ["down", "--volumes", "--remove-orphans", "--rmi", "local"];
        output(self.compose(&arguments)).await.map(drop)
    }
}

fn docker(arguments: &[&str]) -> Command {
    let mut command = Command::new("docker");
    command.args(arguments);
    command
}

/// Runs a command to its end and returns what it printed.
async fn output(mut command: Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        // A group of its own: an interrupt at the terminal is for this program.
        .process_group(0)
        .kill_on_drop(true)
        .output()
        .await
        .context("running docker")?;
    let arguments: Vec<_> = command.as_std().get_args().collect();
    ensure!(
        output.status.success(),
        "docker {}: {}\n{}",
        arguments.join(" ".as_ref()).display(),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Ports on which nothing listens now. Kafka must be told its port before it starts, so the engine
/// cannot be left to choose.
fn free_ports() -> Result<[u16; 3]> {
    let mut held = Vec::new();
    let mut ports = [0; 3];
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        *port = listener.local_addr()?.port();
        // Held until all are found, so that no port is given twice.
        held.push(listener);
    }
    Ok(ports)
}
