//! An event with a low id that is committed late, while the events around it come back.

use local_stack::testing::{Fault, KafkaProxy, Spawned, eventually};

use crate::process::BINARY;
use crate::support::{Fixture, PARTITIONS, PATIENCE, assert_in_order};

const BACK: i32 = 0;
const FAILING: i32 = 1;
const SLOT: i16 = 7;
const EVENTS: i32 = 9_000;
/// Each time an event is held is noted.
const AUDIT: &str = "\
create table audit (id bigint);
create function audit_held() returns trigger language plpgsql as $$
begin
    insert into audit values (new.id);
    return null;
end $$;
create trigger audit after insert on outbox_held for each row execute function audit_held();";

#[tokio::test(flavor = "multi_thread")]
async fn p3_p11_an_event_that_is_held_behind_those_on_their_way_back_is_not_forgotten() {
    let fixture = Fixture::new().await;
    fixture.sql.batch_execute(AUDIT).await.unwrap();
    let proxy = KafkaProxy::start(&fixture.brokers).await;
    let (back, failing) = (fixture.in_requests(BACK), fixture.in_requests(FAILING));
    for broken in [&back, &failing] {
        proxy.set(broken, Some(Fault::Refuse));
    }
    let of_back = fixture.keys_of_slot(BACK, SLOT, 200).await;
    let late = fixture.keys_of_slot(FAILING, SLOT, 1).await;
    let other = fixture.keys_of_slot(FAILING, SLOT + 1, 1).await;
    let mut variables = fixture.variables();
    variables.push(("KAFKA_BROKERS", proxy.brokers()));
    let relay = Spawned::start(BINARY, &["run"], variables);
    fixture.write_to_partition(PARTITIONS - 1, 1).await;
    fixture.until_published(1).await;
    fixture.write_over(&other, 1, 10).await;
    fixture.write_over(&of_back, EVENTS / 100, 10).await;
    // It draws its id, and commits when most others are on their way back.
    let writer = fixture.database.connect().await;
    writer.batch_execute("begin").await.unwrap();
    let insert = "insert into outbox_event (event_id, topic, key, event_type, payload)
                  values (gen_random_uuid(), $1, $2, 'T', '{}')";
    let key = &late[0];
    writer
        .execute(insert, &[&fixture.topic, key])
        .await
        .unwrap();
    fixture.write_over(&of_back, EVENTS, 10).await;
    let held = EVENTS + EVENTS / 100 + 1;
    fixture.until_unavailable(held.into()).await;

    proxy.set(&back, None);
    eventually("some to be back", PATIENCE, async || {
        (fixture.count("published").await > i64::from(EVENTS / 20)).then_some(())
    })
    .await;
    writer.batch_execute("commit").await.unwrap();
    fixture
        .assert_progress(&[&relay], &[(&fixture.topic, FAILING)])
        .await;
    fixture.sql.batch_execute("truncate audit").await.unwrap();
    proxy.set(&failing, None);
    fixture.write_over(&late, 10, 10).await;
    fixture.assert_progress(&[&relay], &[]).await;
    let (by_key, _) = fixture.published_by_key().await;
    assert_in_order(&by_key);
    assert_eq!(by_key[key].len(), 11);
    // As their partition works, they may still be held behind those before them, but not for long.
    let moves = "select coalesce(max(count), 0) from (select count(*) from audit group by id) a";
    let moves = fixture.number(moves).await;
    assert!(moves <= 5, "one event was held {moves} times");
}
