//! Checks whether a process on this machine is ready. For the health check of a container whose
//! image has only the binary.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::{OpsSettings, Service, Source, exit_code_for_settings};

/// Time for the whole exchange.
pub const DEADLINE: Duration = Duration::from_secs(3);

/// Far more than a report holds; the other side may not be one of our processes.
const MAX_ANSWER: usize = 64 * 1024;

/// HTTP/1.0: the answer ends with the connection and is never chunked.
const REQUEST: &[u8] = b"GET /readyz HTTP/1.0\r\n\r\n";

/// Why a process does not count as healthy.
#[derive(Debug, thiserror::Error)]
pub enum Unhealthy {
    /// It answers, and says why it is not ready.
    #[error("{0}")]
    NotReady(String),
    /// Whatever has the port does not answer as the ops endpoints do.
    #[error("port {0} does not answer like /readyz")]
    Foreign(u16),
    /// It does not answer, or not in time.
    #[error("port {port} does not answer: {source}")]
    Mute {
        /// The port asked.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
}

/// The command `healthcheck`: asks the process that has the same settings as this one, says what it
/// answers, and returns exit status 0 when it is ready, else 1. Only `OPS_PORT` is needed.
pub fn run(source: &Source, service: Service) -> ExitCode {
    let mut reader = source.reader();
    let ops = OpsSettings::read(&mut reader, service);
    if ops.port == 0 {
        reader.problem("OPS_PORT", "must name the process's port, not 0");
    }
    if let Err(error) = reader.finish() {
        return exit_code_for_settings(&error);
    }
    match ask(ops.port, DEADLINE) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

/// Asks `/readyz` on `port` and returns what it says. Blocks, for `deadline` at most.
///
/// # Errors
/// The process is not ready, or is not heard from.
pub fn ask(port: u16, deadline: Duration) -> Result<String, Unhealthy> {
    let answer = exchange(port, deadline).map_err(|source| Unhealthy::Mute { port, source })?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, report) = answer
        .split_once("\r\n\r\n")
        .ok_or(Unhealthy::Foreign(port))?;
    match head.split_whitespace().nth(1) {
        Some("200") => Ok(report.to_owned()),
        Some("503") => Err(Unhealthy::NotReady(report.to_owned())),
        _ => Err(Unhealthy::Foreign(port)),
    }
}

fn exchange(port: u16, deadline: Duration) -> io::Result<Vec<u8>> {
    let give_up_at = Instant::now() + deadline;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, deadline)?;
    stream.set_write_timeout(Some(time_left(give_up_at)?))?;
    stream.write_all(REQUEST)?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    // The timeout of a socket is one for each read; the deadline is for all of them.
    while answer.len() < MAX_ANSWER {
        stream.set_read_timeout(Some(time_left(give_up_at)?))?;
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(too_late()),
            Err(error) => return Err(error),
        }
    }
    Ok(answer)
}

/// Never zero, which sockets take for no timeout.
fn time_left(give_up_at: Instant) -> io::Result<Duration> {
    let left = give_up_at.saturating_duration_since(Instant::now());
    if left.is_zero() {
        Err(too_late())
    } else {
        Ok(left)
    }
}

fn too_late() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, "not in time")
}
