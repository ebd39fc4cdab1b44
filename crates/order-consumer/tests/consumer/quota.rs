//! A quota of Kafka makes a consumer slow, and nothing else.

use local_stack::testing::{Quota, set_quota};

use crate::ops::Ops;
use crate::progress::flows;
use crate::servers::Private;

/// As the services call themselves.
const CLIENT_ID: &str = "transactional-outbox";

#[tokio::test(flavor = "multi_thread")]
async fn p11_a_throttled_fetch_is_an_answer_and_no_fault() {
    let private = Private::new().await;
    let brokers = &private.brokers;
    set_quota(brokers, CLIENT_ID, Quota::Fetch, Some(20_000.0)).await;
    let consumer = private.start();
    let ops = Ops::of(&consumer).await;
    ops.until_ready().await;
    let before = ops.metrics().await;
    println!("{before}");
    // Half a minute's worth, of some 700 bytes each.
    private.place(2, 400).await;
    flows(800, async || {
        let (status, report) = ops.readiness().await;
        assert_eq!(status, 200, "{report}");
        private.sold().await
    })
    .await;
    let log = consumer.log();
    assert!(!log.contains("WARN"), "{log}");
    let throttled = ops.metric("inbox_throttled_seconds_total").await;
    assert!(throttled > Some(1.0), "{throttled:?}");
}
