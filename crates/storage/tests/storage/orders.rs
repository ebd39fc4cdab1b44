//! Whether an order is committed, asked while its commit is under way, and before and after.

use domain::{Order, Quantity};
use storage::orders::{insert, is_committed};
use time::OffsetDateTime;

use crate::support::Fixture;

#[tokio::test]
async fn a_commit_that_is_under_way_is_waited_for() {
    let fixture = Fixture::new().await;
    let mut conn = fixture.connect().await;
    let quantity = Quantity::try_from(1).unwrap();
    let order = Order::place("P".parse().unwrap(), quantity, OffsetDateTime::now_utc());
    assert!(!is_committed(&mut conn, &order).await.unwrap());
    assert_eq!(fixture.number("select count(*) from orders").await, 0);

    for (end, expected) in [("rollback", false), ("commit", true)] {
        let begun = format!(
            "begin; insert into orders (id, product_id, quantity) values ('{}', 'P', 1)",
            order.id
        );
        fixture.run(&begun).await;
        let ending = async {
            let waits = "select count(*) from pg_locks where not granted
                         and locktype = 'transactionid' and transactionid = pg_current_xact_id()::xid";
            while fixture.number(waits).await == 0 {
                tokio::task::yield_now().await;
            }
            fixture.run(end).await;
        };
        let (committed, ()) = tokio::join!(is_committed(&mut conn, &order), ending);
        assert_eq!(committed.unwrap(), expected, "{end}");
    }

    assert!(is_committed(&mut conn, &order).await.unwrap());
    let again = insert(&mut conn, &[&order]).await.unwrap_err();
    assert!(again.is_duplicate() && again.is_refusal(), "{again}");
    assert_eq!(fixture.number("select count(*) from orders").await, 1);
}
