//! HTTP as bytes, for what no client library would send or do.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::helpers::DEADLINE;

/// Sends `text`, then nothing, and returns what comes back until the server hangs up.
pub(crate) async fn say_and_wait(address: SocketAddr, text: &str) -> (String, Duration) {
    let started = Instant::now();
    let mut connection = TcpStream::connect(address).await.unwrap();
    connection.write_all(text.as_bytes()).await.unwrap();
    let mut heard = String::new();
    let reading = connection.read_to_string(&mut heard);
    let read = tokio::time::timeout(DEADLINE, reading).await;
    read.expect("the server hangs up").unwrap();
    (heard, started.elapsed())
}

/// The status of an answer.
pub(crate) fn status(answer: &str) -> u16 {
    let status = answer.split(' ').nth(1);
    status.and_then(|code| code.parse().ok()).unwrap()
}

/// The body of an answer.
pub(crate) fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

/// A client that keeps its connection.
pub(crate) struct Client(pub(crate) TcpStream);

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    /// Sends a request whose answer is a head alone.
    pub(crate) async fn ask(&mut self) {
        let request = b"HEAD /docs HTTP/1.1\r\nHost: x\r\n\r\n";
        self.0.write_all(request).await.unwrap();
    }

    /// Until the answer to [`Client::ask`] is there.
    pub(crate) async fn answered(&mut self) {
        let mut heard = Vec::new();
        while !heard.ends_with(b"\r\n\r\n") {
            let read = tokio::time::timeout(DEADLINE, self.0.read_buf(&mut heard)).await;
            let length = read.expect("an answer").unwrap();
            assert!(length > 0, "hung up after {}", heard.escape_ascii());
        }
        assert!(heard.starts_with(b"HTTP/1.1 200 "));
    }

    /// Whether something has come back. Takes nothing away.
    pub(crate) async fn has_answer(&self) -> bool {
        let mut byte = [0];
        let look = self.0.peek(&mut byte);
        let found = tokio::time::timeout(Duration::from_millis(1), look).await;
        found.is_ok_and(|length| length.unwrap() > 0)
    }
}
