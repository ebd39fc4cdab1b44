//! Signals, exit statuses and log lines of a real process. The process is this executable again,
//! told by a variable which of the roles below to play.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use service::retry::RetryBounds;
use service::{
    Ops, OpsSettings, Process, Service, Source, TelemetrySettings, telemetry, until_ready,
};

const ROLE: &str = "SIGNALS_TEST_ROLE";
/// In which a process asked to stop is gone.
const DEADLINE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    if let Ok(role) = std::env::var(ROLE) {
        return play(&role);
    }
    let filter = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'));
    let tests: [(&str, fn()); 8] = [
        (
            "sigterm_during_a_wait_ends_with_0",
            sigterm_during_a_wait_ends_with_0,
        ),
        (
            "sigint_during_a_wait_ends_with_0",
            sigint_during_a_wait_ends_with_0,
        ),
        (
            "a_second_sigterm_ends_at_once_with_1",
            a_second_sigterm_ends_at_once_with_1,
        ),
        (
            "a_second_sigint_ends_at_once_with_130",
            a_second_sigint_ends_at_once_with_130,
        ),
        (
            "a_blocked_thread_does_not_hold_the_process",
            a_blocked_thread_does_not_hold_the_process,
        ),
        (
            "a_panic_is_logged_with_its_place",
            a_panic_is_logged_with_its_place,
        ),
        ("bad_settings_end_with_78", bad_settings_end_with_78),
        ("a_taken_port_is_named", a_taken_port_is_named),
    ];
    for (name, test) in tests {
        if filter
            .as_ref()
            .is_none_or(|filter| name.contains(filter.as_str()))
        {
            eprintln!("test {name}");
            test();
        }
    }
    ExitCode::SUCCESS
}

/// What a `main` does, with tasks to test it.
fn play(role: &str) -> ExitCode {
    let source = match Source::load(None) {
        Ok(source) => source,
        Err(error) => return service::exit_code_for_settings(&error),
    };
    let mut reader = source.reader();
    let log = TelemetrySettings::read(&mut reader);
    let ops = OpsSettings::read(&mut reader, Service::OrderApi);
    let _ = reader.value::<u16>("PORT");
    if let Err(error) = reader.finish() {
        return service::exit_code_for_settings(&error);
    }
    telemetry::init(&log).unwrap();
    let mut process = Process::new("test");
    let stop = process.stop();
    match role {
        "waiting" => {
            let check = process.readiness().check("postgres");
            process.spawn("wait", async move {
                let bounds = RetryBounds {
                    first: Duration::from_millis(10),
                    longest: Duration::from_secs(5),
                };
                let refused = || async { Err::<(), _>("connection refused") };
                until_ready(&check, &stop, bounds, "Postgres", refused).await;
                std::io::Result::Ok(())
            });
        }
        "deaf" => process.spawn("deaf", std::future::pending::<std::io::Result<()>>()),
        "blocking" => {
            process = process.with_grace(Duration::from_millis(200));
            process.spawn::<std::io::Error>("blocking", async move {
                stop.cancelled().await;
                loop {
                    std::thread::park();
                }
            });
        }
        "panicking" => {
            process.spawn::<std::io::Error>("panicking", async { panic!("out of luck") });
        }
        _ => panic!("no such role"),
    }
    service::block_on(process.run(ops))
}

/// A child process and the lines it writes to stderr.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    fn start(role: &str, variables: &[(&str, &str)]) -> Running {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env_clear()
            .env(ROLE, role)
            .env("OPS_PORT", "0")
            .envs(variables.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stderr.lines() {
                let _ = sender.send(line.unwrap());
            }
        });
        Running { child, lines }
    }

    /// The next line with `text` in it.
    fn line_with(&self, text: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(DEADLINE);
            let line = line.unwrap_or_else(|_| panic!("no line with {text:?}"));
            if line.contains(text) {
                return line;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(id), signal).unwrap();
    }

    /// The exit status, and the lines nobody has asked for yet.
    fn end(mut self) -> (Option<i32>, Vec<String>) {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < DEADLINE, "the process does not end");
            std::thread::sleep(Duration::from_millis(5));
        };
        (status.code(), self.lines.iter().collect())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails when the process has ended already, which is as it should be.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn sigterm_during_a_wait_ends_with_0() {
    let running = Running::start("waiting", &[]);
    running.line_with("connection refused");
    running.signal(Signal::SIGTERM);
    running.line_with("SIGTERM");
    assert_eq!(running.end().0, Some(0));
}

fn sigint_during_a_wait_ends_with_0() {
    let running = Running::start("waiting", &[]);
    running.line_with("connection refused");
    running.signal(Signal::SIGINT);
    assert_eq!(running.end().0, Some(0));
}

fn a_second_sigterm_ends_at_once_with_1() {
    assert_eq!(second_signal(Signal::SIGTERM), Some(1));
}

fn a_second_sigint_ends_at_once_with_130() {
    assert_eq!(second_signal(Signal::SIGINT), Some(130));
}

fn second_signal(second: Signal) -> Option<i32> {
    let running = Running::start("deaf", &[]);
    running.line_with("started");
    running.signal(Signal::SIGTERM);
    running.line_with("stop signal, stopping");
    let start = Instant::now();
    running.signal(second);
    let line = running.line_with("second stop signal, exiting at once");
    assert!(line.contains("deaf"), "{line}");
    let status = running.end().0;
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "it waited for the grace period"
    );
    status
}

fn a_blocked_thread_does_not_hold_the_process() {
    let running = Running::start("blocking", &[]);
    running.line_with("started");
    running.signal(Signal::SIGTERM);
    let line = running.line_with("did not end in time");
    assert!(line.contains("\"tasks\":\"blocking\""), "{line}");
    assert_eq!(running.end().0, Some(1));
}

fn a_panic_is_logged_with_its_place() {
    let running = Running::start("panicking", &[("LOG_FORMAT", "json")]);
    let line: serde_json::Value = serde_json::from_str(&running.line_with("panic: ")).unwrap();
    assert_eq!(line["message"], "panic: out of luck");
    let place = line["location"].as_str().unwrap();
    assert!(place.contains("tests/signals.rs:"), "{place}");
    let line: serde_json::Value = serde_json::from_str(&running.line_with("task failed")).unwrap();
    assert_eq!(line["task"], "panicking");
    assert_eq!(running.end().0, Some(1));
}

fn bad_settings_end_with_78() {
    let variables = [("PORT", "http"), ("OPS_PORT", "x"), ("KAFKA_BROKER", "a:1")];
    let (status, lines) = Running::start("waiting", &variables).end();
    assert_eq!(status, Some(78));
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert_eq!(
        lines[0],
        "KAFKA_BROKER is not a setting; did you mean KAFKA_BROKERS?"
    );
    assert!(
        lines[1].starts_with("OPS_PORT is \"x\", expected a port"),
        "{lines:?}"
    );
    assert!(
        lines[2].starts_with("PORT is \"http\", expected a port"),
        "{lines:?}"
    );
}

fn a_taken_port_is_named() {
    let taken = Ops::bind(OpsSettings { port: 0 }).unwrap();
    let port = taken.local_addr().port().to_string();
    let (status, lines) = Running::start("waiting", &[("OPS_PORT", &port)]).end();
    assert_eq!(status, Some(1));
    let expected = format!("port {port} is already in use; stop what uses it or set OPS_PORT");
    assert!(lines[0].contains(&expected), "{lines:?}");
}
