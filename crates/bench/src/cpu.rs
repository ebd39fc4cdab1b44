//! Where the time goes: what each process of a run used of the processor.

use std::fs;
use std::path::Path;

/// Processor time so far, user and system, in seconds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cpu {
    pub(crate) postgres: f64,
    pub(crate) kafka: f64,
}

/// A line of `/proc/PID/stat`; times in hundredths of a second, as the kernel counts.
struct Process {
    id: u32,
    parent: u32,
    own: f64,
    ended_children: f64,
}

impl Cpu {
    /// What was used since `before`, per event, in microseconds.
    pub(crate) fn per_event_since(self, before: Self, events: i64) -> Self {
        let per_event =
            |seconds: f64| seconds * 1e6 / f64::from(u32::try_from(events).unwrap_or(u32::MAX));
        Self {
            postgres: per_event(self.postgres - before.postgres),
            kafka: per_event(self.kafka - before.kafka),
        }
    }

    /// Of the servers whose files lie in `folder`, with their child processes.
    pub(crate) fn of_servers_in(folder: &Path) -> Self {
        let processes = processes();
        let mut cpu = Self::default();
        for server in &processes {
            let line = fs::read(format!("/proc/{}/cmdline", server.id)).unwrap_or_default();
            let line = String::from_utf8_lossy(&line);
            if !line.contains(&*folder.to_string_lossy()) {
                continue;
            }
            if line.contains("kafka.Kafka") {
                cpu.kafka += server.own;
            } else if line.contains("postgres") {
                let children = processes.iter().filter(|child| child.parent == server.id);
                cpu.postgres += server.own
                    + server.ended_children
                    + children.map(|child| child.own).sum::<f64>();
            }
        }
        cpu
    }
}

/// What this program used so far.
pub(crate) fn own() -> f64 {
    let id = std::process::id();
    let own = processes().into_iter().find(|process| process.id == id);
    own.map_or(0.0, |process| process.own)
}

fn processes() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let id: u32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
            let seconds = |field: usize| fields.get(field)?.parse::<f64>().ok().map(|t| t / 100.0);
            Some(Process {
                id,
                parent: fields.get(1)?.parse().ok()?,
                own: seconds(11)? + seconds(12)?,
                ended_children: seconds(13)? + seconds(14)?,
            })
        })
        .collect()
}
