//! A client in Java, run on the jars of the stack's Kafka.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use messaging::OutgoingRecord;

/// What the client is to do; see `Client.java`.
#[derive(Default)]
pub(crate) struct Script(String);

fn word(bytes: Option<&[u8]>) -> String {
    bytes.map_or("-".to_owned(), |bytes| BASE64_STANDARD.encode(bytes))
}

impl Script {
    pub(crate) fn line(mut self, line: &str) -> Self {
        self.0.push_str(line);
        self.0.push('\n');
        self
    }

    /// Sends a record with its headers, and these besides.
    pub(crate) fn send(
        self,
        (topic, partition): (&str, i32),
        record: &OutgoingRecord,
        (key, value): (Option<&[u8]>, Option<&[u8]>),
        more: &[(&str, Option<&[u8]>)],
    ) -> Self {
        let named = record.headers.iter();
        let named = named.map(|(name, value)| (name.as_str(), Some(value.as_slice())));
        let headers: Vec<String> = more
            .iter()
            .copied()
            .chain(named)
            .map(|(name, value)| format!("{name}={}", word(value)))
            .collect();
        let (key, value) = (word(key), word(value));
        let headers = headers.join(" ");
        self.line(&format!("send {topic} {partition} {key} {value} {headers}"))
    }

    /// Sends a record as it is.
    pub(crate) fn send_whole(self, place: (&str, i32), record: &OutgoingRecord) -> Self {
        self.send(
            place,
            record,
            (Some(&record.key), record.value.as_deref()),
            &[],
        )
    }

    /// Runs the client to its end.
    pub(crate) fn run(self, brokers: &str) {
        self.begin(brokers).finish(&Self::default());
    }

    /// Runs the client, which then waits for what else it is to do.
    pub(crate) fn begin(self, brokers: &str) -> Running {
        let client = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/consumer/java/Client.java");
        let child = Command::new("java")
            .args(["-Xmx128m", "-XX:TieredStopAtLevel=1", "-cp"])
            .arg(class_path())
            .arg(client)
            .arg(brokers)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a JDK runs the stack's Kafka, so there is one");
        let mut running = Running(child);
        running.tell(&self);
        running
    }
}

/// A client that has not come to its end. It does when this is dropped.
pub(crate) struct Running(Child);

impl Running {
    fn tell(&mut self, script: &Script) {
        let stdin = self.0.stdin.as_mut().unwrap();
        // One that fails says why when it is waited for.
        let _ = stdin.write_all(script.0.as_bytes());
        let _ = stdin.flush();
    }

    /// Runs the client to its end, after it has done this too.
    pub(crate) fn finish(mut self, script: &Script) {
        self.tell(script);
        let output = self.0.wait_with_output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(printed.trim_end().ends_with("done"), "{printed}{errors}");
    }
}

/// That of everybody's broker.
fn class_path() -> String {
    let stack = local_stack::up().unwrap();
    let ps = Command::new("ps")
        .args(["-ww", "-o", "args=", "-p", &stack.kafka_pid.to_string()])
        .output()
        .unwrap();
    let line = String::from_utf8(ps.stdout).unwrap();
    let mut words = line.split_whitespace();
    words
        .find(|word| matches!(*word, "-cp" | "-classpath"))
        .expect("Kafka is started with a class path");
    words.next().unwrap().to_owned()
}
