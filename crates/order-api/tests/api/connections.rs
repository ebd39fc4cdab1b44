//! How many connections are served at once, by the real executable.

use local_stack::testing::{TestDatabase, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::helpers::{DEADLINE, answer};
use crate::process::Process;
use crate::wire::{Client, status};

/// So few open files that a test reaches the limit; fewer still before the process asks for more.
const FEW_FILES: &str = "ulimit -S -n 100 && ulimit -H -n 600";
const WAITING: usize = 20;

/// An executable that serves few connections, and how many those are.
async fn serve_few(database: &TestDatabase) -> (Process, usize) {
    let api = Process::serve_under(FEW_FILES, database.url(), &[]).await;
    let line = api.line("serving").await;
    let connections = usize::try_from(line["connections"].as_u64().unwrap()).unwrap();
    assert!((WAITING..300).contains(&connections), "{line}");
    (api, connections)
}

/// Everybody asks and is answered.
async fn ask_all(clients: &mut [Client]) {
    for client in &mut *clients {
        client.ask().await;
    }
    for client in clients {
        client.answered().await;
    }
}

/// The first that has an answer.
async fn answered(clients: &[Client]) -> Option<usize> {
    for (place, client) in clients.iter().enumerate() {
        if client.has_answer().await {
            return Some(place);
        }
    }
    None
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_until_one_closes_and_hinder_nobody() {
    let database = TestDatabase::create().await;
    let (api, limit) = serve_few(&database).await;
    let ops = api.spawned.ops_address(DEADLINE).await;
    let mut served = Vec::new();
    for _ in 0..limit {
        served.push(Client::connect(api.address).await);
    }
    ask_all(&mut served).await;
    let mut waiting = Vec::new();
    for _ in 0..WAITING {
        let mut client = Client::connect(api.address).await;
        client.ask().await;
        waiting.push(client);
    }
    // What was asked last has been answered, so the server has had the time to serve the others.
    ask_all(&mut served).await;
    assert_eq!(answered(&waiting).await, None, "of {limit} connections");

    // The process has files left for Postgres and for whoever looks after it.
    eventually("the API to be ready", DEADLINE, async || {
        let report = reqwest::get(format!("http://{ops}/readyz")).await.unwrap();
        report.status().is_success().then_some(())
    })
    .await;
    let mut orderer = served.pop().unwrap().0;
    let order = r#"{"productId":"P"}"#;
    let length = order.len();
    let request = format!(
        "POST /orders HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{order}"
    );
    orderer.write_all(request.as_bytes()).await.unwrap();
    let mut placed = String::new();
    let reading = orderer.read_to_string(&mut placed);
    let read = tokio::time::timeout(DEADLINE, reading).await;
    read.expect("an answer").unwrap();
    assert_eq!(status(&placed), 201, "{placed}");

    // That connection was closed, so one of those that wait has its turn, and no other.
    let next = eventually("one that waits to be answered", DEADLINE, async || {
        answered(&waiting).await
    })
    .await;
    let mut next = waiting.remove(next);
    next.answered().await;
    served.push(next);
    ask_all(&mut served).await;
    assert_eq!(answered(&waiting).await, None);

    drop(served);
    for client in &mut waiting {
        client.answered().await;
    }
    drop(waiting);
    let somebody = reqwest::Client::new().get(api.url("/orders"));
    assert_eq!(answer(somebody).await.status, 200);
    assert_eq!(errors(&api), Vec::<String>::new());
}

/// What it complains of.
fn errors(api: &Process) -> Vec<String> {
    let lines = api.lines();
    let errors = lines.iter().filter(|line| line["level"] == "ERROR");
    errors.map(ToString::to_string).collect()
}

#[tokio::test]
async fn a_process_that_may_open_many_files_serves_2048_connections() {
    let database = TestDatabase::create().await;
    let api = Process::serve(database.url(), &[]).await;
    let line = api.line("serving").await;
    // Shared out among the workers, so perhaps a few less.
    let connections = line["connections"].as_u64().unwrap();
    assert!((1_900..=2_048).contains(&connections), "{line}");
}
