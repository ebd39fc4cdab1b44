//! Heartbeats that take long, and what is left of processes that have none any more.

use std::time::Duration;

use local_stack::testing::{Spawned, detour, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::process::BINARY;
use crate::support::{Fixture, PARTITIONS, PATIENCE};

/// A twentieth of the lease's time: a beat of eight round trips takes longer than a third of it.
const ROUND_TRIP: Duration = Duration::from_millis(150);
const TTL: &str = "3s";

/// Passes everything on, the answers late.
async fn answer_late(client: TcpStream, server: TcpStream) {
    let (mut client_read, mut client_write) = client.into_split();
    let (mut server_read, mut server_write) = server.into_split();
    let answers = async {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = server_read.read(&mut bytes).await {
            tokio::time::sleep(ROUND_TRIP).await;
            if client_write.write_all(&bytes[..count]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        _ = tokio::io::copy(&mut client_read, &mut server_write) => {}
        () = answers => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p11_a_relay_far_from_its_database_works_on_its_share() {
    let fixture = Fixture::new().await;
    let near = fixture.start_relay(TTL);
    fixture.until_shared_by(1).await;
    let mut variables = fixture.small_batches(TTL);
    variables.push((
        "DATABASE_URL",
        detour(fixture.database.url(), answer_late).await,
    ));
    let far = Spawned::start(BINARY, &["run"], variables);
    eventually("it to be a member", PATIENCE, async || {
        let members = "select count(*) from lease_member where expires_at > clock_timestamp()";
        (fixture.number(members).await == 2).then_some(())
    })
    .await;
    for partition in 0..PARTITIONS {
        fixture.write_to_partition(partition, 100).await;
    }
    fixture.assert_progress(&[&near, &far], &[]).await;
    fixture.until_shared_by(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_crashed_processes_leave_is_removed_by_those_that_live() {
    let fixture = Fixture::new().await;
    for crashed in 1..=3 {
        let relay = fixture.start_relay("1s");
        eventually("it to be a member", PATIENCE, async || {
            (fixture.number("select count(*) from lease_member").await == crashed).then_some(())
        })
        .await;
        relay.kill();
    }
    let age = "update lease_member set expires_at = expires_at - interval '30 days'";
    fixture.sql.batch_execute(age).await.unwrap();
    let _alive = fixture.start_relay("1s");
    eventually("the others to be forgotten", PATIENCE, async || {
        (fixture.number("select count(*) from lease_member").await == 1).then_some(())
    })
    .await;
}
