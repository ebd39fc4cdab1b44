//! Waits until a server that was started answers, and keeps it from becoming a zombie.

use std::path::Path;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{IoContext, StackError};
use crate::files;

/// How long a server may take to answer after its start. Many times what it takes, for a busy
/// machine: a broker of a cluster waits for the others, too.
pub(crate) const DEADLINE: Duration = Duration::from_mins(3);

const POLL: Duration = Duration::from_millis(20);

/// Waits for the first answer; a server that ends first, or stays mute, is an error with the end of
/// its log.
pub(crate) fn wait(
    server: &'static str,
    child: &mut Child,
    log: &Path,
    answers: impl Fn() -> bool,
) -> Result<(), StackError> {
    let deadline = Instant::now() + DEADLINE;
    let why = loop {
        if answers() {
            return Ok(());
        }
        if let Some(status) = child.try_wait().at("wait for", Path::new(server))? {
            break format!("ended at its start ({status})");
        }
        if Instant::now() > deadline {
            break format!("did not answer within {DEADLINE:?}");
        }
        thread::sleep(POLL);
    };
    Err(StackError::NotReady {
        server,
        why,
        log: log.to_owned(),
        tail: files::tail(log),
    })
}

/// Waits for the end of a server for as long as this process lives: a dead child that nobody waits
/// for stays in the process table. The server outlives this process, so nobody waits for the
/// thread.
pub(crate) fn reap(mut child: Child) {
    thread::spawn(move || child.wait());
}
