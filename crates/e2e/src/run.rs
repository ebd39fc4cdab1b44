//! All three services on the local stack, for trying them out: their logs go to the terminal, each
//! line under its process' name, until Ctrl-C.

use std::io::{IsTerminal, Write};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use local_stack::Stack;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::check::interrupted;
use crate::child::binary;
use crate::deployment::Service;
use crate::eventually::{Seen, eventually};

/// A service ends within 10 s of SIGTERM; one that does not is killed.
const ENDS_WITHIN: Duration = Duration::from_secs(15);

/// Widest name of a process.
const NAME_WIDTH: usize = 14;

/// Runs everything until a signal; fails when a process ends by itself.
pub(crate) async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let stack = spawn_blocking(local_stack::up).await??;
    let mut services = Vec::new();
    let outcome = tokio::select! {
        ended = serve(&stack, &mut services) => ended,
        _ = interrupted() => {
            println!("Stopping.");
            Ok(())
        }
    };
    let stopped = stop(services).await;
    println!("The local stack keeps running; `make down` stops it and removes its data.");
    outcome.and(stopped)
}

/// Starts everything and returns when a process ends, always with an error.
async fn serve(stack: &Stack, services: &mut Vec<(Service, Child)>) -> Result<()> {
    let mut migrate = command(stack, Service::Api)?;
    let mut migrate = migrate.arg("migrate").spawn()?;
    show("migrate", 0, &mut migrate);
    let status = migrate.wait().await?;
    ensure!(status.success(), "order-api migrate: {status}");
    for (colour, service) in (1..).zip(Service::ALL) {
        let mut child = command(stack, service)?
            .spawn()
            .with_context(|| format!("starting {service}"))?;
        show(service.name(), colour, &mut child);
        services.push((service, child));
    }
    tokio::try_join!(first_end(services), greet()).map(|((), ())| ())
}

/// The service with the environment of this process, beside the stack.
fn command(stack: &Stack, service: Service) -> Result<Command> {
    let mut command = Command::new(binary(service)?);
    command
        .env("DATABASE_URL", &stack.database_url)
        .env("KAFKA_BROKERS", &stack.kafka_brokers)
        // One variable cannot be right for three processes.
        .env("OPS_PORT", service.ops_port().to_string())
        .env("PORT", port())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A group of its own: an interrupt at the terminal is for this program, which passes it on.
        .process_group(0)
        .kill_on_drop(true);
    if std::env::var_os("LOG_FORMAT").is_none() {
        command.env("LOG_FORMAT", "text");
    }
    Ok(command)
}

/// Where the API will be, by the same rules as its own: the environment wins over `.env`.
fn port() -> String {
    let from_file = || {
        let mut settings = dotenvy::dotenv_iter().ok()?.flatten();
        settings.find_map(|(name, value)| (name == "PORT").then_some(value))
    };
    std::env::var("PORT")
        .ok()
        .or_else(from_file)
        .unwrap_or_else(|| "3000".to_owned())
}

/// Once all are ready: what to try.
async fn greet() -> Result<()> {
    let client = reqwest::Client::new();
    for service in Service::ALL {
        let url = format!("http://127.0.0.1:{}/readyz", service.ops_port());
        eventually(&format!("{service} to be ready"), async || {
            Ok(match client.get(&url).send().await {
                Ok(answer) if answer.status().is_success() => Seen::Done(()),
                Ok(answer) => Seen::NotYet(answer.text().await?),
                Err(error) => Seen::NotYet(error.to_string()),
            })
        })
        .await?;
    }
    let api = format!("http://127.0.0.1:{}", port());
    println!(
        "\nReady; Ctrl-C stops all three. Place an order and see where it went:\n\n  \
         curl -i {api}/orders -H 'content-type: application/json' \
         -d '{{\"productId\":\"P-001\",\"quantity\":2}}'\n  \
         curl {api}/orders/ID/journey\n"
    );
    Ok(())
}

/// Waits until any of them ends.
async fn first_end(services: &mut [(Service, Child)]) -> Result<()> {
    let mut children = services.iter_mut();
    let (Some(one), Some(two), Some(three)) = (children.next(), children.next(), children.next())
    else {
        bail!("not all services were started");
    };
    let (service, status) = tokio::select! {
        status = one.1.wait() => (one.0, status),
        status = two.1.wait() => (two.0, status),
        status = three.1.wait() => (three.0, status),
    };
    bail!("{service} ended by itself: {}", status?)
}

/// SIGTERM to all that still run; fails unless each of them exits 0.
async fn stop(mut services: Vec<(Service, Child)>) -> Result<()> {
    let mut running = Vec::new();
    for (service, child) in &mut services {
        if child.try_wait()?.is_none() {
            let pid = child.id().context("it has just been running")?;
            kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM)?;
            running.push((*service, child));
        }
    }
    let mut unclean = Vec::new();
    for (service, child) in running {
        match timeout(ENDS_WITHIN, child.wait()).await {
            Ok(status) if status.as_ref().is_ok_and(std::process::ExitStatus::success) => {}
            Ok(status) => unclean.push(format!("{service} ended with {}", status?)),
            Err(_) => unclean.push(format!("{service} did not end within {ENDS_WITHIN:?}")),
        }
    }
    ensure!(unclean.is_empty(), "{}", unclean.join("; "));
    Ok(())
}

/// Prints what a process prints.
fn show(name: &'static str, colour: u8, child: &mut Child) {
    let colourful = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let prefix = if colourful {
        format!("\x1b[{}m{name:NAME_WIDTH$}\x1b[0m", 33 + colour)
    } else {
        format!("{name:NAME_WIDTH$}")
    };
    if let Some(stdout) = child.stdout.take() {
        tokio::spawn(lines(prefix.clone(), stdout));
    }
    if let Some(stderr) = child.stderr.take() {
        tokio::spawn(lines(prefix, stderr));
    }
}

/// Ends with the pipe.
async fn lines(prefix: String, from: impl AsyncRead + Unpin) {
    let mut lines = BufReader::new(from).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let line = String::from_utf8_lossy(&line);
        // Nobody is left to tell when the terminal is gone.
        let _ = writeln!(std::io::stdout(), "{prefix} {line}");
    }
}
