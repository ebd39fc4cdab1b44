//! What the end of a task, and a stop, make of the process: its exit status above all. Signals,
//! which need a real process, are in `signals.rs`.
#![allow(clippy::unwrap_used)]

use std::future::pending;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use service::{Ops, OpsSettings, Process};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Far longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(20);

type Outcome = Result<(), anyhow::Error>;

async fn run(process: Process) -> ExitCode {
    let run = process.run(OpsSettings { port: 0 });
    timeout(DEADLINE, run)
        .await
        .expect("the process does not end")
}

/// A process with a task that ends when asked to, and a note of whether it was.
fn process_with_a_patient_task() -> (Process, Arc<AtomicBool>) {
    let mut process = Process::new("test");
    let stop = process.stop();
    let stopped = Arc::new(AtomicBool::new(false));
    let note = Arc::clone(&stopped);
    process.spawn("patient", async move {
        stop.cancelled().await;
        // An end that takes a few turns of the runtime, as handing over leases does.
        tokio::time::sleep(Duration::from_millis(20)).await;
        note.store(true, Ordering::Relaxed);
        Outcome::Ok(())
    });
    (process, stopped)
}

#[tokio::test]
async fn a_task_that_ends_early_fails_the_process_and_stops_the_others() {
    let (mut process, stopped) = process_with_a_patient_task();
    process.spawn("early", async { Outcome::Ok(()) });
    assert_eq!(run(process).await, ExitCode::FAILURE);
    assert!(stopped.load(Ordering::Relaxed));
}

#[tokio::test]
async fn a_task_that_fails_fails_the_process_and_stops_the_others() {
    let (mut process, stopped) = process_with_a_patient_task();
    process.spawn("failing", async {
        Outcome::Err(anyhow::anyhow!("no luck"))
    });
    assert_eq!(run(process).await, ExitCode::FAILURE);
    assert!(stopped.load(Ordering::Relaxed));
}

#[tokio::test]
async fn a_task_that_panics_fails_the_process_and_stops_the_others() {
    let (mut process, stopped) = process_with_a_patient_task();
    process.spawn::<std::io::Error>("panicking", async { panic!("out of luck") });
    assert_eq!(run(process).await, ExitCode::FAILURE);
    assert!(stopped.load(Ordering::Relaxed));
}

#[tokio::test]
async fn a_stop_lets_every_task_finish_and_succeeds() {
    let (process, stopped) = process_with_a_patient_task();
    process.stop().cancel();
    assert_eq!(run(process).await, ExitCode::SUCCESS);
    assert!(stopped.load(Ordering::Relaxed));
}

#[tokio::test]
async fn an_error_while_stopping_fails_the_process() {
    let (mut process, stopped) = process_with_a_patient_task();
    let stop = process.stop();
    process.spawn("failing", async move {
        stop.cancelled().await;
        Outcome::Err(anyhow::anyhow!("the lease could not be handed over"))
    });
    process.stop().cancel();
    assert_eq!(run(process).await, ExitCode::FAILURE);
    assert!(
        stopped.load(Ordering::Relaxed),
        "the other task was not waited for"
    );
}

#[tokio::test]
async fn a_task_that_ignores_the_stop_is_left_after_the_grace_period() {
    let (process, stopped) = process_with_a_patient_task();
    let mut process = process.with_grace(Duration::from_millis(200));
    let dropped = Arc::new(());
    let held = Arc::clone(&dropped);
    process.spawn("stubborn", async move {
        pending::<()>().await;
        drop(held);
        Outcome::Ok(())
    });
    process.stop().cancel();
    assert_eq!(run(process).await, ExitCode::FAILURE);
    assert!(stopped.load(Ordering::Relaxed));
    let aborted = async {
        while Arc::strong_count(&dropped) > 1 {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, aborted)
        .await
        .expect("the task is still there");
}

#[tokio::test]
async fn nothing_starts_when_the_ops_port_is_taken() {
    let taken = Ops::bind(OpsSettings { port: 0 }).unwrap();
    let port = taken.local_addr().port();
    let mut process = Process::new("test");
    let started = Arc::new(AtomicBool::new(false));
    let note = Arc::clone(&started);
    process.spawn("any", async move {
        note.store(true, Ordering::Relaxed);
        Outcome::Ok(())
    });
    let run = process.run(OpsSettings { port });
    assert_eq!(timeout(DEADLINE, run).await.unwrap(), ExitCode::FAILURE);
    assert!(!started.load(Ordering::Relaxed));
}

/// The answer of `/readyz`.
async fn readyz(address: SocketAddr) -> (u16, serde_json::Value) {
    let url = format!("http://127.0.0.1:{}/readyz", address.port());
    let response = reqwest::get(url).await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test]
async fn a_process_that_stops_is_not_ready_and_says_so_until_its_last_task_is_done() {
    let mut process = Process::new("test");
    let stop = process.stop();
    let (release, released) = oneshot::channel::<()>();
    process.spawn("slow", released);
    let ops = Ops::bind(OpsSettings { port: 0 }).unwrap();
    let address = ops.local_addr();
    let running = tokio::spawn(process.run_with(ops));

    let story = async {
        while readyz(address).await.0 != 200 {}
        stop.cancel();
        loop {
            let (status, report) = readyz(address).await;
            if status == 503 {
                break report;
            }
        }
    };
    let report = timeout(DEADLINE, story).await.expect("still ready");
    assert_eq!(report["checks"][0]["name"], "process");
    assert_eq!(report["checks"][0]["reason"], "stopping");
    release.send(()).unwrap();
    let exit = timeout(DEADLINE, running).await.unwrap().unwrap();
    assert_eq!(exit, ExitCode::SUCCESS);
}
