//! The processes of this machine: finding a stack's own by their command line, signalling and
//! ending them.
//!
//! A process id alone says nothing: after a crash or a reboot it may be another program's. So a
//! process counts as a stack's only while its command line says so, which also rules out zombies:
//! they have none.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use crate::error::{IoContext, StackError};

const POLL: Duration = Duration::from_millis(10);
/// How long a server may take to end when asked.
pub(crate) const GRACE: Duration = Duration::from_secs(15);
const AFTER_KILL: Duration = Duration::from_secs(10);

/// The processes whose command line, arguments joined by spaces, satisfies the test.
pub(crate) fn find(is_ours: impl Fn(&str) -> bool) -> Result<BTreeSet<u32>, StackError> {
    let all = if has_proc() { from_proc()? } else { from_ps()? };
    Ok(all
        .into_iter()
        .filter(|(_, command)| is_ours(command))
        .map(|(pid, _)| pid)
        .collect())
}

/// The command line of a live process; `None` for an absent one and for a zombie.
pub(crate) fn command_line(pid: u32) -> Option<String> {
    if has_proc() {
        return proc_command_line(pid);
    }
    let output = Command::new("ps")
        .args(["-ww", "-o", "command=", "-p", &pid.to_string()])
        .output()
        .ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned()).filter(|line| !line.is_empty())
}

/// Linux tells through files and small images of it lack `ps`; macOS has `ps` and no such files.
fn has_proc() -> bool {
    Path::new("/proc/self/cmdline").exists()
}

fn proc_command_line(pid: u32) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let arguments: Vec<_> = bytes
        .split(|byte| *byte == 0)
        .map(String::from_utf8_lossy)
        .collect();
    Some(arguments.join(" ").trim_end().to_owned()).filter(|line| !line.is_empty())
}

fn from_proc() -> Result<Vec<(u32, String)>, StackError> {
    let entries = fs::read_dir("/proc").at("list", Path::new("/proc"))?;
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(pids
        .filter_map(|pid| Some((pid, proc_command_line(pid)?)))
        .collect())
}

fn from_ps() -> Result<Vec<(u32, String)>, StackError> {
    let output = Command::new("ps")
        .args(["-A", "-ww", "-o", "pid=,command="])
        .output()
        .at("run", Path::new("ps"))?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(parse_ps_line)
        .collect())
}

fn parse_ps_line(line: &str) -> Option<(u32, String)> {
    let (pid, command) = line.trim_start().split_once(' ')?;
    Some((pid.parse().ok()?, command.trim().to_owned()))
}

/// Sends a signal; a process that is gone already is fine.
pub(crate) fn signal(pid: u32, signal: Signal) {
    // A pid that is no pid_t belongs to no process.
    if let Ok(pid) = i32::try_from(pid) {
        // Fails only for a process that is gone, or that is not ours to signal and thus outlives
        // the wait for its end.
        let _ = signal::kill(Pid::from_raw(pid), signal);
    }
}

/// Asks each process to end with its signal, waits for all, and kills those that do not.
pub(crate) fn end(
    asked: &[(u32, Signal)],
    is_ours: impl Fn(&str) -> bool,
    grace: Duration,
) -> Result<(), StackError> {
    let alive = || -> Vec<u32> {
        asked
            .iter()
            .map(|(pid, _)| *pid)
            .filter(|pid| command_line(*pid).is_some_and(|line| is_ours(&line)))
            .collect()
    };
    for (pid, kind) in asked {
        signal(*pid, *kind);
        // A stopped process handles nothing before it continues.
        signal(*pid, Signal::SIGCONT);
    }
    if wait_until(grace, || alive().is_empty()) {
        return Ok(());
    }
    for pid in alive() {
        signal(pid, Signal::SIGKILL);
    }
    if wait_until(AFTER_KILL, || alive().is_empty()) {
        return Ok(());
    }
    match alive().first() {
        Some(pid) => Err(StackError::WillNotEnd {
            pid: *pid,
            waited: grace + AFTER_KILL,
        }),
        None => Ok(()),
    }
}

fn wait_until(limit: Duration, done: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !done() {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(POLL);
    }
    true
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn ps_lines_are_read() {
        assert_eq!(
            parse_ps_line("  12 /bin/x -D /a b"),
            Some((12, "/bin/x -D /a b".to_owned()))
        );
        assert_eq!(parse_ps_line("PID COMMAND"), None);
        assert_eq!(parse_ps_line(""), None);
    }

    #[test]
    fn a_zombie_has_no_command_line() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        // A process that has just begun has none for a moment.
        assert!(wait_until(GRACE, || command_line(child.id()).is_some()));
        signal(child.id(), Signal::SIGKILL);
        assert!(wait_until(AFTER_KILL, || command_line(child.id()).is_none()));
        child.wait().unwrap();
    }

    #[test]
    fn a_process_that_ignores_its_signal_is_killed() {
        // `exec` keeps what is ignored, and the pid.
        let script = "trap '' TERM; exec sleep 601";
        let mut child = Command::new("sh").args(["-c", script]).spawn().unwrap();
        let is_ours = |line: &str| line == "sleep 601";
        assert!(wait_until(GRACE, || command_line(child.id())
            .is_some_and(|line| is_ours(&line))));
        end(
            &[(child.id(), Signal::SIGTERM)],
            is_ours,
            Duration::from_millis(50),
        )
        .unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(Signal::SIGKILL as i32));
    }
}
