//! What the role and the database are set to is no matter.

use std::time::{Duration, Instant};

use local_stack::testing::eventually;
use uuid::Uuid;

use crate::support::{Fixture, PATIENCE};

#[tokio::test(flavor = "multi_thread")]
async fn readiness_does_not_flap_under_settings_meant_for_others() {
    tokio::join!(
        does_not_flap_with("default_transaction_isolation = serializable"),
        does_not_flap_with("default_transaction_isolation = 'repeatable read'"),
        does_not_flap_with("idle_session_timeout = '300ms'"),
    );
}

async fn does_not_flap_with(setting: &str) {
    let fixture = Fixture::on_the_real_topic().await;
    let name = fixture.text("select current_database()::text").await;
    let statement = format!("alter database {name} set {setting}");
    fixture.sql.batch_execute(&statement).await.unwrap();
    let consumer = fixture.start();
    let ops = consumer.ops_address(PATIENCE).await;
    let ready = async || {
        let answer = reqwest::get(format!("http://{ops}/readyz")).await.unwrap();
        let ready = answer.status() == 200;
        (ready, answer.text().await.unwrap())
    };
    eventually("readiness", PATIENCE, async || {
        ready().await.0.then_some(())
    })
    .await;
    let product = Uuid::now_v7().to_string();
    let (begun, mut placed) = (Instant::now(), 0);
    // Only time proves that it does not flap.
    while begun.elapsed() < Duration::from_secs(6) {
        // Pauses, in which connections are idle, and then work for all partitions at once.
        fixture.place(&product, 30).await;
        placed += 30;
        for _ in 0..8 {
            let (is_ready, report) = ready().await;
            assert!(is_ready, "{setting}: {report}\n{}", consumer.log());
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
    }
    fixture.until_sold(&product, placed).await;
    let log = consumer.log();
    assert!(!log.contains("postgres: "), "{setting}: {log}");
}
