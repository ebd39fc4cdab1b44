//! Postgres' hosts that do not answer, named before one that does.

use std::time::{Duration, Instant};

use local_stack::testing::{Mute, Spawned, eventually};
use uuid::Uuid;

use crate::process::BINARY;
use crate::support::{Fixture, PATIENCE};

#[tokio::test(flavor = "multi_thread")]
async fn a_mute_host_that_is_named_first_does_not_keep_a_consumer_from_working() {
    for mute in [Mute::accepting().await, Mute::dropping().await] {
        let fixture = Fixture::on_the_real_topic().await;
        let mut variables = fixture.variables();
        let first = format!("@{},", mute.address());
        variables[0].1 = fixture.test.url().replace('@', &first);
        let begun = Instant::now();
        let consumer = Spawned::start(BINARY, &["run"], variables);
        let ops = consumer.ops_address(PATIENCE).await;
        eventually("readiness", PATIENCE, async || {
            let answer = reqwest::get(format!("http://{ops}/readyz")).await.unwrap();
            (answer.status() == 200).then_some(())
        })
        .await;
        let took = begun.elapsed();
        assert!(
            took < Duration::from_secs(10),
            "{took:?}\n{}",
            consumer.log()
        );
        let product = Uuid::now_v7().to_string();
        fixture.place(&product, 10).await;
        fixture.until_sold(&product, 10).await;
    }
}
