//! Events are set aside, and the answer that says so is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use local_stack::testing::{Fault, KafkaProxy, Spawned, detour};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::process::BINARY;
use crate::support::{Fixture, assert_in_order};

const UNWRITABLE: i32 = 2;
const EVENTS: i32 = 400;
/// In the statements of connections whose answers get lost.
const HOLD: &[u8] = b"insert into outbox_held";
/// In the answer that says how many events are held: what follows it commits.
const HELD: &[u8] = b"unavailable";

/// Passes everything on. While `losing`, a connection that holds events back is closed instead of
/// passing on that it has done so.
async fn lose_holds(client: TcpStream, server: TcpStream, losing: Arc<AtomicBool>) {
    let holds = AtomicBool::new(false);
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    tokio::select! {
        _ = pass(client_read, server_write, |statements| {
            if contains(statements, HOLD) {
                holds.store(true, Ordering::SeqCst);
            }
            true
        }) => {}
        _ = pass(server_read, client_write, |answers| {
            let lost = losing.load(Ordering::SeqCst) && holds.load(Ordering::SeqCst);
            !(lost && contains(answers, HELD))
        }) => {}
    }
}

/// Copies until the end, or until `look` says that something is not to be passed on.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    look: impl Fn(&[u8]) -> bool,
) -> std::io::Result<()> {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let count = from.read(&mut bytes).await?;
        if count == 0 || !look(&bytes[..count]) {
            return Ok(());
        }
        to.write_all(&bytes[..count]).await?;
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|part| part == needle)
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_p11_events_whose_hold_committed_unheard_come_back_with_their_partition() {
    let fixture = Fixture::new().await;
    let proxy = KafkaProxy::start(&fixture.brokers).await;
    let broken = fixture.in_requests(UNWRITABLE);
    let losing = Arc::new(AtomicBool::new(false));
    let lost = Arc::clone(&losing);
    let database = detour(fixture.database.url(), move |client, server| {
        lose_holds(client, server, Arc::clone(&lost))
    })
    .await;
    let mut variables = fixture.variables();
    variables.push(("KAFKA_BROKERS", proxy.brokers()));
    variables.push(("DATABASE_URL", database));
    let relay = Spawned::start(BINARY, &["run"], variables);
    fixture.write_to_partition(0, 1).await;
    fixture.until_published(1).await;

    proxy.set(&broken, Some(Fault::Refuse));
    losing.store(true, Ordering::SeqCst);
    fixture.write_to_partition(UNWRITABLE, EVENTS).await;
    fixture.until_unavailable(EVENTS.into()).await;
    losing.store(false, Ordering::SeqCst);
    proxy.set(&broken, None);
    fixture.assert_progress(&[&relay], &[]).await;
    let (by_key, _) = fixture.published_by_key().await;
    assert_in_order(&by_key);
}
