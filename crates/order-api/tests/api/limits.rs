//! Clients that are slow, on purpose or not.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::helpers::{ANSWER_WITHIN, Api};
use crate::proxy;

/// Sends `text`, then nothing, and returns what comes back until the server hangs up.
async fn say_and_wait(api: &Api, text: &str) -> (String, Duration) {
    let started = Instant::now();
    let mut connection = TcpStream::connect(api.address).await.unwrap();
    connection.write_all(text.as_bytes()).await.unwrap();
    let mut heard = String::new();
    let reading = connection.read_to_string(&mut heard);
    let read = tokio::time::timeout(Duration::from_secs(20), reading).await;
    read.expect("the server hangs up").unwrap();
    (heard, started.elapsed())
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_not_waited_for() {
    let api = Api::start(&proxy::closed().await, &[]);
    let head = "POST /orders HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                Content-Type: application/json\r\nContent-Length: 50\r\n\r\n{";
    let (said, _) = say_and_wait(&api, head).await;
    assert!(said.starts_with("HTTP/1.1 408 "), "{said}");
    assert!(said.contains("/problems/body-too-slow"), "{said}");
}

#[tokio::test]
async fn a_client_that_does_not_finish_its_head_is_hung_up_on() {
    let api = Api::start(&proxy::closed().await, &[]);
    let (_, took) = say_and_wait(&api, "POST /orders HTTP/1.1\r\n").await;
    assert!(took < ANSWER_WITHIN, "{took:?}");
}
