//! SIGTERM and SIGINT as values to wait for. What they mean is decided in `process`.

use std::io;
use std::process::ExitCode;

use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// A request to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// From Kubernetes, Compose, systemd.
    Terminate,
    /// From a terminal, Ctrl-C.
    Interrupt,
}

impl Signal {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Signal::Terminate => "SIGTERM",
            Signal::Interrupt => "SIGINT",
        }
    }

    /// Exit status when the signal ends the process at once. 130 is what a shell expects of a
    /// program that Ctrl-C ended (128 + 2).
    pub(crate) fn exit_code(self) -> ExitCode {
        match self {
            Signal::Terminate => ExitCode::FAILURE,
            Signal::Interrupt => ExitCode::from(130),
        }
    }
}

/// The installed handlers. From [`Signals::install`] on, neither signal ends the process by itself.
pub(crate) struct Signals {
    terminate: Stream,
    interrupt: Stream,
}

impl Signals {
    /// # Errors
    /// The system refuses the handler.
    pub(crate) fn install() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next signal. Cancellation safe: a signal that arrives while nobody waits is kept.
    pub(crate) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Terminate,
            _ = self.interrupt.recv() => Signal::Interrupt,
        }
    }
}
