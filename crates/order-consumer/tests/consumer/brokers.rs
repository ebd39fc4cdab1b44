//! Brokers that say nothing, or are gone, while others answer.

use local_stack::testing::{Mute, Spawned, detour};
use uuid::Uuid;

use crate::ops::Ops;
use crate::process::BINARY;
use crate::progress::flows;
use crate::servers::Private;
use crate::support::Fixture;

#[tokio::test(flavor = "multi_thread")]
async fn p11_mute_brokers_named_first_do_not_stop_it() {
    let fixture = Fixture::on_the_real_topic().await;
    fixture
        .told(&["offsets", "reset", "--all-topics", "--to", "latest"])
        .await;
    let (mute, dropping) = (Mute::accepting().await, Mute::dropping().await);
    let named = format!(
        "{},{},{}",
        mute.address(),
        dropping.address(),
        fixture.brokers
    );
    let mut variables = fixture.variables();
    variables.retain(|(name, _)| *name != "KAFKA_BROKERS");
    variables.push(("KAFKA_BROKERS", named));
    let consumer = Spawned::start(BINARY, &["run"], variables);
    let ops = Ops::of(&consumer).await;
    ops.until_ready().await;
    let product = Uuid::now_v7().to_string();
    fixture.place(&product, 60).await;
    flows(60, async || Some(fixture.sales(&product).await.0)).await;
    ops.until_ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p11_brokers_learned_from_others_are_asked_when_the_named_one_is_gone() {
    let private = Private::new().await;
    // The only way to the broker that is named. The broker names its own.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let way = format!("kafka://{}", private.brokers);
    let way = runtime.spawn(async move {
        detour(&way, |mut client, mut server| async move {
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        })
        .await
    });
    let way = way.await.unwrap();
    let named = way.strip_prefix("kafka://").unwrap().to_owned();
    let consumer = private.start_with(vec![("KAFKA_BROKERS", named)]);
    private.place(2, 10).await;
    flows(20, async || private.sold().await).await;
    runtime.shutdown_background();
    private.restart_kafka().await;
    private.place(2, 10).await;
    flows(40, async || private.sold().await).await;
    Ops::of(&consumer).await.until_ready().await;
}
