//! Relays that no notification ever reaches: behind a proxy that lets none through.

use local_stack::testing::{Spawned, detour};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use crate::kafka_outage::metric;
use crate::load::Load;
use crate::process::BINARY;
use crate::sharing::MOST_IN_FLIGHT;
use crate::support::{Fixture, PATIENCE};

/// What Postgres begins a notification with.
const NOTIFICATION: u8 = b'A';

/// Keeps the notifications of a connection.
async fn connection(client: TcpStream, server: TcpStream, keep: mpsc::UnboundedSender<()>) {
    let (mut client_read, client_write) = client.into_split();
    let (server_read, mut server_write) = server.into_split();
    // Either direction ending ends the connection.
    tokio::select! {
        _ = tokio::io::copy(&mut client_read, &mut server_write) => {}
        _ = answers(server_read, client_write, &keep) => {}
    }
}

/// Each message is a kind, a length that counts itself, and the rest.
async fn answers(
    mut server: OwnedReadHalf,
    mut client: OwnedWriteHalf,
    keep: &mpsc::UnboundedSender<()>,
) -> std::io::Result<()> {
    loop {
        let kind = server.read_u8().await?;
        let length = server.read_u32().await?;
        let mut message = vec![kind];
        message.extend(length.to_be_bytes());
        message.resize(1 + usize::try_from(length).unwrap(), 0);
        server.read_exact(&mut message[5..]).await?;
        if kind == NOTIFICATION {
            let _ = keep.send(());
        } else {
            client.write_all(&message).await?;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_p4_without_a_notification_they_publish_share_and_hand_over() {
    let fixture = Fixture::new().await;
    // One for each notification that goes no further.
    let (keep, mut kept) = mpsc::unbounded_channel();
    let pass = move |client, server| connection(client, server, keep.clone());
    let deaf = detour(fixture.database.url(), pass).await;
    let start = || {
        let mut variables = fixture.small_batches("3s");
        variables[0].1.clone_from(&deaf);
        Spawned::start(BINARY, &["run"], variables)
    };
    let mut relays = vec![start(), start()];
    fixture.until_shared_by(2).await;
    let load = Load::start(&fixture).await;
    for round in 0..3 {
        fixture.until_more_are_published(100).await;
        fixture.sql.batch_execute("notify outbox").await.unwrap();
        if round == 1 {
            relays.remove(0).kill();
        } else {
            let mut leaving = relays.remove(0);
            leaving.terminate();
            assert_eq!(leaving.exit_code(PATIENCE).await, Some(0));
        }
        fixture.until_shared_by(1).await;
        relays.push(start());
        fixture.until_shared_by(2).await;
    }
    for relay in &relays {
        let ops = relay.ops_address(PATIENCE).await;
        let woken = metric(ops, "outbox_wake_ups_total{cause=\"notification\"}").await;
        // What the listener says of itself when it begins.
        assert!(woken <= 1, "{woken}");
    }
    let copies = fixture.assert_all_arrive_in_order(load).await;
    assert!(copies <= MOST_IN_FLIGHT, "{copies} after one kill");
    assert!(kept.try_recv().is_ok(), "nothing was kept from them");
}
