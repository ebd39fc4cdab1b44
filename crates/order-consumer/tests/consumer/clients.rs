//! Records as other clients write them.

use order_consumer::partition::Step;
use service::CancellationToken;

use crate::java::Script;
use crate::support::{Fixture, drain, order};

#[tokio::test(flavor = "multi_thread")]
async fn whatever_other_clients_write_is_read() {
    let fixture = Fixture::new().await;
    let brokers = fixture.brokers.clone();
    let place = (fixture.topic.as_str(), 0);
    let id = uuid::Uuid::now_v7();

    let mut script = Script::default();
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        script = script.line(&format!("producer {codec} -"));
        for _ in 0..3 {
            script = script.send_whole(place, &order("P-codec", 1));
        }
    }
    let mut large = order("P-large", 1);
    let mut value = large.value.take().unwrap();
    value.pop();
    let padding = format!(r#","padding":"{}"}}"#, "x".repeat(1_000_000));
    value.extend(padding.bytes());
    large.value = Some(value);
    let odd = order("P-odd", 1);
    let broken = order("P-odd", 1);
    script = script
        .line("producer none -")
        .send_whole(place, &large)
        // Without a key, and with headers that come twice, say nothing, or are of no interest.
        .send(
            place,
            &odd,
            (None, odd.value.as_deref()),
            &[
                ("ce_id", Some(b"an earlier one")),
                ("none", None),
                ("", Some(b"")),
            ],
        )
        .send(place, &broken, (None, None), &[])
        .send(place, &broken, (None, Some(b"")), &[])
        .line(&format!("producer lz4 {id}"))
        .line("begin")
        .send_whole(place, &order("P-committed", 1))
        .line("commit")
        .line("begin")
        .send_whole(place, &order("P-aborted", 1))
        .line("abort")
        .line("begin")
        .send_whole(place, &order("P-committed", 1))
        .line("commit")
        .line("begin")
        .send_whole(place, &order("P-aborted", 1))
        .line("abort");
    tokio::task::spawn_blocking(move || script.run(&brokers))
        .await
        .unwrap();

    let (_keeper, leases) = fixture.owner().await;
    let (mut consumer, metrics) = fixture.consumer(0, &leases);
    assert_eq!(drain(&mut consumer).await, 19);
    assert_eq!(fixture.sales("P-codec").await, (15, 15));
    assert_eq!(fixture.sales("P-large").await, (1, 1));
    assert_eq!(fixture.sales("P-odd").await, (1, 1));
    assert_eq!(fixture.sales("P-committed").await, (2, 2));
    assert_eq!(fixture.sales("P-aborted").await, (0, 0));
    assert_eq!((metrics.dead.get(), metrics.duplicates.get()), (2, 0));
    let reasons = fixture
        .text("select string_agg(reason, '; ' order by \"offset\") from inbox_dead_letter")
        .await;
    assert!(reasons.starts_with("tombstone: "), "{reasons}");
    // What ends the partition is no record: it is passed all the same, and nothing after it is lost.
    let end = "select next_offset::text from inbox_offset";
    assert_eq!(fixture.text(end).await, "27");
    assert_eq!(
        consumer.step(&CancellationToken::new()).await.unwrap(),
        Step::Empty
    );
    fixture.produce(0, vec![order("P-after", 1)]).await;
    assert_eq!(drain(&mut consumer).await, 1);
}
