//! The check from start to end: chooses where, runs the steps in order, and removes what it
//! started, however it ended.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};

use crate::compose::Compose;
use crate::deployment::{Deployment, Service};
use crate::mode::Mode;
use crate::native::Native;
use crate::report::Report;
use crate::steps::{
    cancellations, crashes, duplicates, flow, poison, progress, refusals, sharing, shutdown,
};
use crate::world::World;

/// Fetching a Kafka and a Postgres, or building images from nothing, may take this long.
const START_LIMIT: Duration = Duration::from_mins(30);

/// Lines of each instance's log that a failure shows.
const TAIL_LINES: usize = 25;

/// Runs the check; succeeds only where every step held and everything is gone again.
pub(crate) async fn main() -> ExitCode {
    match Mode::choose().await {
        Ok(Mode::Native) => {
            println!("Processes of this machine, with a Postgres and a Kafka of their own.");
            run(Native::new()).await
        }
        Ok(Mode::Compose) => {
            println!("Docker Compose, a project of its own; building the images takes a while.");
            match Compose::new() {
                Ok(compose) => run(compose).await,
                Err(error) => refuse(&error),
            }
        }
        Err(error) => refuse(&error),
    }
}

fn refuse(error: &anyhow::Error) -> ExitCode {
    eprintln!("e2e: {error:#}");
    ExitCode::FAILURE
}

async fn run(mut deployment: impl Deployment) -> ExitCode {
    let mut report = Report::new();
    let outcome = tokio::select! {
        outcome = Box::pin(steps(&mut report, &mut deployment)) => outcome.map_err(Some),
        signal = interrupted() => {
            eprintln!("{signal}: removing what was started");
            Err(None)
        }
    };
    let failed = matches!(outcome, Err(Some(_)));
    if failed {
        show_logs(&deployment).await;
    }
    let torn_down = deployment.tear_down(failed).await;
    if let Err(error) = &torn_down {
        eprintln!("not everything could be removed: {error:#}");
    }
    if failed && let Some(place) = deployment.logs_stay_in() {
        eprintln!("The whole logs are in {place}");
    }
    match outcome {
        Ok(summary) if torn_down.is_ok() => {
            println!("{summary}\nAll held: {}.", report.total());
            ExitCode::SUCCESS
        }
        Ok(_) => ExitCode::FAILURE,
        Err(Some(error)) => {
            println!("FAILED at: {error}. Before that {}.", report.total());
            ExitCode::FAILURE
        }
        // As a shell tells of a program that an interrupt ended.
        Err(None) => ExitCode::from(130),
    }
}

/// All steps; returns the summary.
async fn steps(report: &mut Report, deployment: &mut impl Deployment) -> Result<String> {
    let mut world = None;
    report
        .step_within(START_LIMIT, "everything starts", async {
            world = Some(World::open(deployment.up().await?).await?);
            Ok("everything runs: 1 order-api, 2 outbox-relay, 2 order-consumer".to_owned())
        })
        .await?;
    let world = &mut world.expect("the step has succeeded");

    report
        .step("work is shared", sharing::work_is_shared(deployment))
        .await?;
    let mut orders = Vec::new();
    report
        .step("orders are placed", async {
            orders = flow::place(world).await?;
            Ok(format!("{} orders are accepted over HTTP", orders.len()))
        })
        .await?;
    report
        .step("orders reach Kafka", flow::reach_kafka(world, &orders))
        .await?;
    report
        .step(
            "orders have their effect",
            flow::have_their_effect(world, &orders),
        )
        .await?;
    report
        .step(
            "events written by SQL",
            flow::foreign_events_keep_their_order(world),
        )
        .await?;
    report
        .step("cancellations", cancellations::are_taken_back(world))
        .await?;
    let mut latency = String::new();
    report
        .step("latency", async {
            latency = crate::latency::measure(world).await?;
            Ok(latency.clone())
        })
        .await?;
    report
        .step("duplicates", duplicates::are_refused(world, deployment))
        .await?;
    report
        .step("bad records", poison::stops_its_key_alone(world))
        .await?;
    report
        .step("wrong requests", refusals::store_nothing(world))
        .await?;
    report
        .step(
            "all relays are killed",
            crashes::of_all_relays(world, deployment),
        )
        .await?;
    report
        .step(
            "one of each is killed",
            crashes::of_one_of_each(world, deployment),
        )
        .await?;
    report
        .step("nothing waits", progress::nothing_waits(world, deployment))
        .await?;
    report
        .step("SIGTERM", shutdown::is_graceful(deployment))
        .await?;
    Ok(latency)
}

/// Returns with the name of the signal that wants the check to end.
pub(crate) async fn interrupted() -> Signal {
    let listen = |kind| signal(kind).expect("the runtime can listen for signals");
    let mut interrupt = listen(SignalKind::interrupt());
    let mut terminate = listen(SignalKind::terminate());
    let mut hangup = listen(SignalKind::hangup());
    tokio::select! {
        _ = interrupt.recv() => Signal::SIGINT,
        _ = terminate.recv() => Signal::SIGTERM,
        _ = hangup.recv() => Signal::SIGHUP,
    }
}

async fn show_logs(deployment: &impl Deployment) {
    for service in Service::ALL {
        match deployment.logs(service).await {
            Ok(logs) => {
                for (name, text) in logs {
                    let lines: Vec<&str> = text.lines().collect();
                    let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
                    println!("--- the end of the log of {name}\n{}", tail.join("\n"));
                }
            }
            Err(error) => println!("--- the logs of {service} cannot be read: {error:#}"),
        }
    }
}
