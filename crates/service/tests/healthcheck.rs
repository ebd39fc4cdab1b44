//! The health check against a process that is ready, one that is not, and ports where none is.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use service::healthcheck::{self, Unhealthy};
use service::{Ops, OpsSettings, Process, Service, Source};

/// A port that no process listens on: it takes root and is long out of use.
const NOBODYS: u16 = 1;

async fn ask(port: u16) -> Result<String, Unhealthy> {
    tokio::task::spawn_blocking(move || healthcheck::ask(port, healthcheck::DEADLINE))
        .await
        .unwrap()
}

fn a_port() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[tokio::test]
async fn a_process_is_healthy_when_it_is_ready_and_else_says_why() {
    let process = Process::new("test");
    let (stop, postgres) = (process.stop(), process.readiness().check("postgres"));
    let ops = Ops::bind(OpsSettings { port: 0 }).unwrap();
    let port = ops.local_addr().port();
    let running = tokio::spawn(process.run_with(ops));

    postgres.not_ready("connection refused");
    let reason = ask(port).await.unwrap_err();
    assert!(matches!(reason, Unhealthy::NotReady(_)), "{reason:?}");
    assert!(reason.to_string().contains("connection refused"));

    postgres.ready();
    let mut answer = ask(port).await;
    // The process's own check turns ready a moment after the port is open.
    while let Err(Unhealthy::NotReady(reason)) = &answer {
        assert!(reason.contains("starting"), "{reason}");
        answer = ask(port).await;
    }
    assert!(answer.unwrap().contains(r#""status":"ready""#));

    stop.cancel();
    assert_eq!(running.await.unwrap(), ExitCode::SUCCESS);
}

#[test]
fn a_port_that_nobody_has_is_not_healthy() {
    let reason = healthcheck::ask(NOBODYS, healthcheck::DEADLINE).unwrap_err();
    assert!(matches!(reason, Unhealthy::Mute { .. }), "{reason:?}");
}

#[test]
fn a_mute_process_is_given_up_at_the_deadline() {
    let (_never_accepts, port) = a_port();
    let started = Instant::now();
    let reason = healthcheck::ask(port, Duration::from_millis(200)).unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(3));
    let expected = format!("port {port} does not answer: not in time");
    assert_eq!(reason.to_string(), expected);
}

#[test]
fn a_process_that_trickles_is_given_up_at_the_deadline_of_the_whole() {
    let (listener, port) = a_port();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // It ends at some time, so that a check without a deadline fails rather than hangs.
        for _ in 0..100 {
            if stream.write_all(b"x").is_err() {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
    });
    let reason = healthcheck::ask(port, Duration::from_millis(300)).unwrap_err();
    assert!(reason.to_string().ends_with("not in time"), "{reason}");
}

#[test]
fn a_stranger_is_not_healthy() {
    let answers = [
        "220 mail.example ESMTP\r\n",
        "HTTP/1.1 404 Not Found\r\n\r\n",
    ];
    for answer in answers {
        let (listener, port) = a_port();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            // Reading before closing, so that the close is no reset.
            let _ = stream.read(&mut [0; 1024]).unwrap();
        });
        let reason = healthcheck::ask(port, healthcheck::DEADLINE).unwrap_err();
        assert!(matches!(reason, Unhealthy::Foreign(_)), "{reason:?}");
    }
}

#[test]
fn only_the_ops_port_has_to_be_right() {
    let (listener, port) = a_port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]).unwrap();
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n{}").unwrap();
        }
    });
    let run = |port: &str| {
        let source = Source::from_pairs([("OPS_PORT", port)]).unwrap();
        healthcheck::run(&source, Service::OrderApi)
    };
    assert_eq!(run(&port.to_string()), ExitCode::SUCCESS);
    for unusable in ["0", "http"] {
        assert_eq!(run(unusable), ExitCode::from(78));
    }
}
