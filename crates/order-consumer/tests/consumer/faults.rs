//! Faults of the real executable and of what it stands on.

use std::time::Duration;

use local_stack::testing::{Spawned, eventually};
use rand::RngExt;
use uuid::Uuid;

use crate::process::BINARY;
use crate::support::{Fixture, PATIENCE, next_of_key, order};

impl Fixture {
    /// Exit status and what was said.
    pub(crate) async fn command(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let mut command = Spawned::start(BINARY, arguments, self.variables());
        let code = command.exit_code(PATIENCE).await;
        (code, command.log())
    }

    async fn owners(&self) -> String {
        let query = "select count(distinct owner) || ' of ' || count(*) || ' ' || count(owner)
                     from lease where scope like '%/order.created'
                     and (owner is null or owner in (select member_id from lease_member
                                                     where expires_at > now()))";
        self.text(query).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p6_stopped_past_its_lease_and_back_it_does_no_harm() {
    let fixture = Fixture::on_the_real_topic().await;
    let product = Uuid::now_v7().to_string();
    let frozen = fixture.start();
    fixture.place(&product, 50).await;
    fixture.until_sold(&product, 50).await;
    fixture.place(&product, 200).await;
    frozen.pause();
    let _second = fixture.start();
    fixture.place(&product, 50).await;
    fixture.until_sold(&product, 300).await;
    frozen.resume();
    fixture.place(&product, 100).await;
    fixture.until_sold(&product, 400).await;
    let partitions = fixture.partitions().await;
    let shared = format!("2 of {partitions} {partitions}");
    eventually("both to share the partitions", PATIENCE, async || {
        (fixture.owners().await == shared).then_some(())
    })
    .await;
    fixture.place(&product, 100).await;
    fixture.until_sold(&product, 500).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_two_to_four_come_and_go() {
    let fixture = Fixture::on_the_real_topic().await;
    let product = Uuid::now_v7().to_string();
    let mut consumers: Vec<Spawned> = (0..2).map(|_| fixture.start()).collect();
    // Kept, so that they end as they were asked to, and counted no more.
    let mut leaving = Vec::new();
    let mut placed = 0;
    for _ in 0..14 {
        let (chance, victim) = {
            let mut random = rand::rng();
            let victim = random.random_range(0..consumers.len());
            (random.random_range(0..3), victim)
        };
        match chance {
            0 if consumers.len() > 2 => consumers.swap_remove(victim).kill(),
            1 if consumers.len() > 2 => {
                let consumer = consumers.swap_remove(victim);
                consumer.terminate();
                leaving.push(consumer);
            }
            _ if consumers.len() < 4 => consumers.push(fixture.start()),
            _ => {}
        }
        fixture.place(&product, 60).await;
        placed += 60;
        let before = fixture.sales(&product).await.0;
        eventually("some to be sold", PATIENCE, async || {
            (fixture.sales(&product).await.0 > before.min(placed - 1)).then_some(())
        })
        .await;
    }
    consumers.push(fixture.start());
    fixture.until_sold(&product, placed).await;
}

/// One event in a thousand fails, whoever owns its partition may be killed, and while operators
/// re-drive, new events of its key arrive.
#[tokio::test(flavor = "multi_thread")]
async fn p8_one_event_in_a_thousand_fails_and_is_redriven() {
    let fixture = Fixture::on_the_real_topic().await;
    let product = Uuid::now_v7().to_string();
    let bad_product = format!("bad-{}", Uuid::now_v7().simple());
    let refuse = format!(
        "create function refuse() returns trigger language plpgsql as $$ begin
             if new.product_id = '{bad_product}' then raise exception 'no such product'; end if;
             return new; end $$;
         create trigger refuse before insert on product_sales for each row execute function refuse()"
    );
    fixture.sql.batch_execute(&refuse).await.unwrap();
    let bad = order(&bad_product, 1);
    let partition = messaging::partition_of(&bad.key, fixture.partitions().await);
    let mut consumer = fixture.start();
    fixture.place(&product, 500).await;
    fixture.produce(partition, vec![bad.clone()]).await;
    fixture.place(&product, 500).await;
    fixture
        .produce(partition, vec![next_of_key(&bad, &product, 1)])
        .await;
    fixture.until_sold(&product, 1_000).await;
    let key = String::from_utf8(bad.key.clone()).unwrap();
    let held = format!(
        "select count(*)::text from inbox_dead_letter where settled_at is null and key = '{key}'"
    );
    let held = held.as_str();
    eventually("both to be held", PATIENCE, async || {
        (fixture.text(held).await == "2").then_some(())
    })
    .await;
    let (code, listed) = fixture.command(&["dead-letters", "list", "--json"]).await;
    assert_eq!(code, Some(0), "{listed}");
    let listed: Vec<serde_json::Value> = serde_json::from_str(&listed).unwrap();
    let listed: Vec<_> = listed.into_iter().filter(|row| row["key"] == key).collect();
    let place = format!("order.created/{partition}/{}", listed[0]["offset"]);
    assert_eq!(listed[0]["cause"], "dead");
    assert_eq!(listed[0]["attempts"], 4);
    assert!(
        listed[0]["reason"]
            .as_str()
            .unwrap()
            .contains("no such product")
    );
    assert_eq!(listed[1]["cause"], "blocked");

    let (code, stuck) = fixture.command(&["dead-letters", "redrive", &place]).await;
    assert_eq!(code, Some(1), "{stuck}");
    assert!(stuck.contains("no such product"), "{stuck}");
    consumer.kill();
    consumer.exit_code(PATIENCE).await;
    let _consumer = fixture.start();
    let mend = "drop trigger refuse on product_sales";
    fixture.sql.batch_execute(mend).await.unwrap();
    let (code, dry) = fixture
        .command(&["dead-letters", "redrive", "--all", "--dry-run"])
        .await;
    // Other tests write what cannot be read at all: 0 is for all, 1 while something is left.
    let left = |said: &str| Some(i32::from(!said.contains("keys still held: 0")));
    assert_eq!(code, left(&dry), "{dry}");
    assert!(dry.contains("would be applied: 2"), "{dry}");
    assert_eq!(fixture.text(held).await, "2");
    for _ in 0..20 {
        fixture
            .produce(partition, vec![next_of_key(&bad, &product, 1)])
            .await;
    }
    let (code, redriven) = fixture.command(&["dead-letters", "redrive", "--all"]).await;
    assert_eq!(code, left(&redriven), "{redriven}");
    fixture.until_sold(&product, 1_021).await;
    fixture.until_sold(&bad_product, 1).await;
    assert_eq!(fixture.text(held).await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_where_the_group_stands_and_moves_it() {
    let fixture = Fixture::on_the_real_topic().await;
    let product = Uuid::now_v7().to_string();
    let (code, said) = fixture
        .command(&["offsets", "reset", "--all-topics", "--to", "latest"])
        .await;
    assert_eq!(code, Some(0), "{said}");
    let consumer = fixture.start();
    fixture.place(&product, 40).await;
    fixture.until_sold(&product, 40).await;
    let (code, said) = fixture.command(&["status", "--json"]).await;
    assert_eq!(code, Some(0), "{said}");
    let status: serde_json::Value = serde_json::from_str(&said).unwrap();
    let first = &status["partitions"][0];
    assert_eq!(status["group"], "the-group");
    assert!(
        first["owner"].is_string() && first["nextOffset"].is_i64(),
        "{said}"
    );
    // Beyond the end is refused; a dry run changes nothing.
    let beyond = ["offsets", "reset", "--all-topics", "--to", "99999999999"];
    let (code, said) = fixture.command(&beyond).await;
    assert!(
        code == Some(1) && said.contains("is out of range"),
        "{said}"
    );
    let places = "select string_agg(next_offset::text, ' ' order by partition) from inbox_offset";
    let start = time::OffsetDateTime::now_utc() - Duration::from_hours(1);
    let start = start.format(&time::format_description::well_known::Rfc3339);
    let start = start.unwrap();
    let reset = [
        "offsets",
        "reset",
        "--all-topics",
        "--to",
        &start,
        "--dry-run",
    ];
    // Others write to the topic all the time; without an owner the places stand still.
    drop(consumer);
    let before = fixture.text(places).await;
    let (code, said) = fixture.command(&reset).await;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(fixture.text(places).await, before);
    // Delivered again, every event is a copy.
    let (code, said) = fixture
        .command(&["offsets", "reset", "--all-topics", "--to", "earliest"])
        .await;
    assert_eq!(code, Some(0), "{said}");
    let _consumer = fixture.start();
    fixture.place(&product, 10).await;
    fixture.until_sold(&product, 50).await;
    for arguments in [
        vec!["--help"],
        vec!["status", "--help"],
        vec!["dead-letters", "discard", "--help"],
        vec!["offsets", "reset", "--help"],
    ] {
        let (code, said) = fixture.command(&arguments).await;
        assert!(code == Some(0) && said.contains("Usage"), "{said}");
    }
}
