//! Something between the service and Postgres that loses answers.

use local_stack::testing::detour;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Passes everything on, but closes a connection towards the service once a commit has gone through
/// to Postgres: the commit happens, its answer is lost. Returns a URL that leads through it.
pub(crate) async fn losing_answers_to_commits(url: &str) -> String {
    detour(url, pass_on).await
}

async fn pass_on(mut client: TcpStream, mut server: TcpStream) {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let mut request = [0; 8_192];
    let mut response = [0; 8_192];
    let mut committing = false;
    loop {
        tokio::select! {
            Ok(length) = from_client.read(&mut request) => {
                if length == 0 || to_server.write_all(&request[..length]).await.is_err() {
                    return;
                }
                committing |= says_commit(&request[..length]);
            }
            Ok(length) = from_server.read(&mut response) => {
                // The answer repeats the word: the commit has happened, and nobody shall hear of it.
                let committed = committing && says_commit(&response[..length]);
                if length == 0 || committed || to_client.write_all(&response[..length]).await.is_err() {
                    return;
                }
            }
            else => return,
        }
    }
}

fn says_commit(bytes: &[u8]) -> bool {
    bytes.windows(6).any(|word| word == b"COMMIT")
}

/// Accepts connections and never says a word. Lives as long as what is returned.
pub(crate) async fn mute() -> (String, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://u:p@{}/d", listener.local_addr().unwrap());
    (url, listener)
}

/// A URL at which nobody listens.
pub(crate) async fn closed() -> String {
    let (url, listener) = mute().await;
    drop(listener);
    url
}
