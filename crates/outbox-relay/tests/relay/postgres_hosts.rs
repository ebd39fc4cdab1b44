//! Several servers behind `DATABASE_URL`: which of them the executable uses.

use std::time::{Duration, Instant};

use local_stack::testing::{Mute, PostgresServer, Spawned, Switch, eventually};

use crate::process::BINARY;
use crate::progress::readiness;
use crate::support::{Fixture, PATIENCE};

impl Fixture {
    fn start_on(&self, database_url: String) -> Spawned {
        let mut variables = self.variables();
        variables[0].1 = database_url;
        Spawned::start(BINARY, &["run"], variables)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p11_a_relay_whose_address_leads_to_a_standby_and_back_publishes() {
    let primary = PostgresServer::start(&[]);
    let standby = primary.standby(&[]);
    let following = standby.connect().await;
    following
        .batch_execute("select pg_wal_replay_pause()")
        .await
        .unwrap();
    let switch = Switch::start(standby.port()).await;
    let (port, moves) = (primary.port().to_string(), switch.port().to_string());
    let mut fixture = Fixture::new().await;
    fixture.sql = primary.connect().await;
    let relay = fixture.start_on(primary.url().replace(&port, &moves));
    let ops = relay.ops_address(PATIENCE).await;
    for _ in 0..2 {
        eventually("the reason", PATIENCE, async || {
            let (status, report) = readiness(ops).await;
            (status != 200 && report.contains("cannot be written")).then_some(())
        })
        .await;
        switch.lead_to(primary.port());
        fixture.write(&["a", "b", "c", "d"]).await;
        let pending = "select count(*) from outbox_pending";
        eventually("all to be published", PATIENCE, async || {
            (fixture.number(pending).await == 0).then_some(())
        })
        .await;
        eventually("readiness", PATIENCE, async || {
            (readiness(ops).await.0 == 200).then_some(())
        })
        .await;
        // Once more, with connections that were used before.
        switch.lead_to(standby.port());
        switch.cut();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mute_host_that_is_named_first_does_not_keep_a_relay_from_working() {
    let fixture = Fixture::new().await;
    for (mute, events) in [(Mute::accepting().await, 1), (Mute::dropping().await, 2)] {
        let first = format!("@{},", mute.address());
        let begun = Instant::now();
        let relay = fixture.start_on(fixture.database.url().replace('@', &first));
        fixture.write(&["a"]).await;
        fixture.until_published(events).await;
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(10), "{took:?}\n{}", relay.log());
    }
}
