//! A stack in a folder of its own, through what it promises: one stack, found again, restored after
//! faults, gone after `down`, and nobody else's processes touched.

#![allow(clippy::unwrap_used)]

use std::net::TcpStream;
use std::process::{Child, Command};
use std::thread;

use local_stack::{Server, Stack, StackDir, StackError};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// A stack that is ended with the test, also by a panic.
struct Private {
    dir: StackDir,
    folder: TempDir,
}

impl Private {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            dir: StackDir::new(folder.path()),
            folder,
        }
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        self.dir.down().unwrap();
    }
}

/// Somebody else's process.
struct Foreign(Child);

impl Foreign {
    fn new() -> Self {
        Self(Command::new("sleep").arg("600").spawn().unwrap())
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn kafka_listens(stack: &Stack) -> bool {
    TcpStream::connect(&stack.kafka_brokers).is_ok()
}

fn query(stack: &Stack, statement: &str) -> Result<String, tokio_postgres::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (client, connection) =
            tokio_postgres::connect(&stack.database_url, tokio_postgres::NoTls).await?;
        let connection = tokio::spawn(connection);
        let rows = client.simple_query(statement).await?;
        drop(client);
        connection.await.unwrap()?;
        Ok(rows
            .iter()
            .find_map(|row| match row {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            })
            .unwrap_or_default())
    })
}

#[test]
fn a_stack_lives_through_faults_and_leaves_nothing() {
    let private = Private::new();
    assert_eq!(private.dir.status().unwrap(), None);
    assert!(matches!(
        private.dir.start(Server::Kafka),
        Err(StackError::NotRunning(_))
    ));

    // A record of before a reboot: its pids are somebody else's now.
    let mut foreign = Foreign::new();
    let pid = foreign.0.id();
    let stale = format!(
        r#"{{"postgres_pid":{pid},"postgres_port":20001,"kafka_pid":{pid},"kafka_port":20002}}"#
    );
    std::fs::write(private.folder.path().join("stack.json"), stale).unwrap();
    assert_eq!(private.dir.status().unwrap(), None);

    // Any number of them start one stack.
    let stacks: Vec<Stack> = thread::scope(|scope| {
        let ups: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| private.dir.up().unwrap()))
            .collect();
        ups.into_iter().map(|up| up.join().unwrap()).collect()
    });
    let first = stacks[0].clone();
    assert!(stacks.iter().all(|stack| *stack == first), "{stacks:?}");
    assert_eq!(
        foreign.0.try_wait().unwrap(),
        None,
        "somebody else's process was ended"
    );
    assert_eq!(private.dir.up().unwrap(), first);
    assert_eq!(private.dir.status().unwrap(), Some(first.clone()));
    assert_eq!(query(&first, "show wal_level").unwrap(), "logical");

    // Single servers go and come back with their data and addresses.
    query(&first, "create table kept (i int)").unwrap();
    private.dir.kill(Server::Postgres).unwrap();
    assert_eq!(private.dir.status().unwrap(), None);
    let again = private.dir.start(Server::Postgres).unwrap();
    assert_eq!(again.database_url, first.database_url);
    assert_eq!(query(&again, "select count(*) from kept").unwrap(), "0");
    private.dir.stop(Server::Kafka).unwrap();
    assert!(!kafka_listens(&again));
    let again = private.dir.start(Server::Kafka).unwrap();
    assert_eq!(again.kafka_brokers, first.kafka_brokers);
    assert_ne!(again.kafka_pid, first.kafka_pid);
    assert_eq!(private.dir.up().unwrap(), again);

    // A server that died behind its back: the next `up` starts afresh.
    kill(
        Pid::from_raw(again.postgres_pid.try_into().unwrap()),
        Signal::SIGKILL,
    )
    .unwrap();
    let recovered = private.dir.up().unwrap();
    assert_ne!(recovered.kafka_pid, again.kafka_pid);
    assert!(query(&recovered, "select count(*) from kept").is_err());

    // An `up` that was killed half-way has left servers and no record.
    std::fs::remove_file(private.folder.path().join("stack.json")).unwrap();
    assert!(
        private.dir.down().unwrap(),
        "the servers without a record were not found"
    );
    assert!(!kafka_listens(&recovered));
    assert!(query(&recovered, "select 1").is_err());
    assert_eq!(private.dir.status().unwrap(), None);
    assert!(!private.dir.down().unwrap());
}
