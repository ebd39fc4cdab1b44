//! Clients that are slow, on purpose or not.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use crate::helpers::{ANSWER_WITHIN, Api};
use crate::proxy;
use crate::wire::{Client, say_and_wait};

/// For a request after a connection's first: 15 s of silence are allowed, then 3 s for its head; and
/// here is a machine with more to do.
const NEXT_WITHIN: Duration = Duration::from_secs(22);

#[tokio::test]
async fn a_body_that_does_not_arrive_is_not_waited_for() {
    let api = Api::start(&proxy::closed().await, &[]);
    let head = "POST /orders HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                Content-Type: application/json\r\nContent-Length: 50\r\n\r\n{";
    let (said, _) = say_and_wait(api.address, head).await;
    assert!(said.starts_with("HTTP/1.1 408 "), "{said}");
    assert!(said.contains("/problems/body-too-slow"), "{said}");
}

#[tokio::test]
async fn a_client_that_does_not_finish_its_head_is_hung_up_on() {
    let api = Api::start(&proxy::closed().await, &[]);
    let (_, took) = say_and_wait(api.address, "POST /orders HTTP/1.1\r\n").await;
    assert!(took < ANSWER_WITHIN, "{took:?}");
}

#[tokio::test]
async fn a_client_that_dribbles_a_later_head_is_hung_up_on() {
    let api = Api::start(&proxy::closed().await, &[]);
    let mut client = Client::connect(api.address).await;
    client.ask().await;
    client.answered().await;
    let began = Instant::now();
    let (mut read, mut write) = client.0.into_split();
    write
        .write_all(b"GET /orders HTTP/1.1\r\nx: ")
        .await
        .unwrap();
    let dribbling = async {
        while write.write_all(b"x").await.is_ok() {
            // A rate, not a wait.
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    let mut heard = Vec::new();
    let hung_up = async {
        tokio::select! {
            _ = read.read_to_end(&mut heard) => {}
            () = dribbling => {}
        }
    };
    let waited = tokio::time::timeout(NEXT_WITHIN, hung_up).await;
    waited.expect("the server hangs up");
    // Silence alone is allowed for longer than this.
    assert!(began.elapsed() > Duration::from_secs(15));
    assert_eq!(heard, b"");
}

#[tokio::test]
async fn a_client_that_does_not_take_its_answers_is_hung_up_on() {
    let api = Api::start(&proxy::closed().await, &[]);
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut client = socket.connect(api.address).await.unwrap();
    // More than the buffers between the two hold.
    let request = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n";
    client.write_all(&request.repeat(1_000)).await.unwrap();
    let hung_up = async {
        while client.write_all(b"\r\n").await.is_ok() {
            // A rate, not a wait.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let waited = tokio::time::timeout(NEXT_WITHIN, hung_up).await;
    waited.expect("the server hangs up");
}

#[tokio::test]
async fn a_client_that_asks_now_and_then_keeps_its_connection() {
    let api = Api::start(&proxy::closed().await, &[]);
    let mut client = Client::connect(api.address).await;
    let until = Instant::now() + NEXT_WITHIN;
    loop {
        client.ask().await;
        client.answered().await;
        if Instant::now() > until {
            break;
        }
        // Less than a connection may be silent. Only time proves that it is kept.
        tokio::time::sleep(Duration::from_secs(8)).await;
    }
}
