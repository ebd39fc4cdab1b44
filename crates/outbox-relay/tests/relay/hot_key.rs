//! A partition that fails while one key writes most of what there is.

use local_stack::testing::{Fault, KafkaProxy, Spawned};

use crate::process::BINARY;
use crate::support::{Fixture, assert_in_order};

const UNWRITABLE: i32 = 2;
const OF_THE_HOT_KEY: i32 = 20_000;
const OTHERS: i32 = 100;

#[tokio::test(flavor = "multi_thread")]
async fn p3_p11_a_hot_key_comes_back_with_its_partition_and_holds_up_no_other() {
    let fixture = Fixture::new().await;
    let proxy = KafkaProxy::start(&fixture.brokers).await;
    let broken = fixture.in_requests(UNWRITABLE);
    proxy.set(&broken, Some(Fault::Refuse));
    let mut variables = fixture.variables();
    variables.push(("KAFKA_BROKERS", proxy.brokers()));
    let relay = Spawned::start(BINARY, &["run"], variables);
    fixture.write_to_partition(0, 1).await;
    let mut keys = Fixture::keys_of("k", UNWRITABLE, 101);
    let hot = vec![keys.remove(0)];
    fixture.write_over(&hot, OF_THE_HOT_KEY, 10).await;
    fixture.write_over(&keys, OTHERS, 10).await;
    fixture
        .until_unavailable(i64::from(OF_THE_HOT_KEY + OTHERS))
        .await;
    proxy.set(&broken, None);
    fixture.assert_progress(&[&relay], &[]).await;
    let (by_key, _) = fixture.published_by_key().await;
    assert_in_order(&by_key);
    let published = by_key[&hot[0]].len();
    assert_eq!(i32::try_from(published).unwrap(), OF_THE_HOT_KEY);
}
