//! The command line as an operator uses it. Other tests write to the topic too: keys and products
//! tell their records apart.

use std::collections::BTreeSet;

use local_stack::testing::eventually;
use messaging::{OutgoingRecord, partition_of};
use serde_json::Value;
use uuid::Uuid;

use crate::servers::TOPIC;
use crate::support::{Fixture, PATIENCE, event_id, next_of_key, order};

impl Fixture {
    /// What a command says that succeeds.
    pub(crate) async fn told(&self, arguments: &[&str]) -> String {
        let (code, said) = self.command(arguments).await;
        assert_eq!(code, Some(0), "{arguments:?}: {said}");
        said
    }

    /// What a command says that fails.
    pub(crate) async fn refused(&self, arguments: &[&str]) -> String {
        let (code, said) = self.command(arguments).await;
        assert!(matches!(code, Some(1..)), "{arguments:?}: {code:?} {said}");
        said
    }

    /// The rows that `dead-letters list --json` has of a key.
    async fn listed(&self, key: &str, settled: bool) -> Vec<Value> {
        let mut arguments = vec!["dead-letters", "list", "--json"];
        arguments.extend(settled.then_some("--settled"));
        let said = self.told(&arguments).await;
        let rows: Vec<Value> = serde_json::from_str(&said).unwrap();
        rows.into_iter().filter(|row| row["key"] == key).collect()
    }

    /// What the commands may change.
    async fn state(&self) -> String {
        self.text(
            "select concat_ws(' ',
                 (select count(*) from inbox), (select sum(orders) from product_sales),
                 (select string_agg(concat(\"offset\", settled_as), ' ' order by partition, \"offset\")
                  from inbox_dead_letter),
                 (select string_agg(next_offset::text, ' ' order by partition) from inbox_offset),
                 (select count(*) from outbox_event))",
        )
        .await
    }
}

/// One that cannot be read and two behind it, held by a consumer that has ended since.
struct Held {
    fixture: Fixture,
    product: String,
    broken: OutgoingRecord,
    /// Its key as text.
    key: String,
    partition: i32,
    offset: i64,
}

impl Held {
    async fn new() -> Self {
        let fixture = Fixture::on_the_real_topic().await;
        fixture
            .told(&["offsets", "reset", "--all-topics", "--to", "latest"])
            .await;
        let product = Uuid::now_v7().to_string();
        let mut broken = order(&product, 1);
        broken.value = Some(b"{".to_vec());
        let key = String::from_utf8(broken.key.clone()).unwrap();
        let partition = partition_of(&broken.key, fixture.partitions().await);
        let behind = || next_of_key(&broken, &product, 1);
        let records = vec![broken.clone(), behind(), behind()];
        let offset = fixture.produce(partition, records).await;
        let held = Self {
            fixture,
            product,
            broken,
            key,
            partition,
            offset,
        };
        let mut consumer = held.fixture.start();
        eventually("all to be held", PATIENCE, async || {
            (held.unsettled().await == 3).then_some(())
        })
        .await;
        consumer.terminate();
        assert_eq!(consumer.exit_code(PATIENCE).await, Some(0));
        held
    }

    async fn unsettled(&self) -> i64 {
        let query = "select count(*) from inbox_dead_letter
                     where convert_from(key, 'UTF8') = $1 and settled_at is null";
        let row = self.fixture.sql.query_one(query, &[&self.key]).await;
        row.unwrap().get(0)
    }

    fn place(&self, nth: i64) -> String {
        format!("{TOPIC}/{}/{}", self.partition, self.offset + nth)
    }
}

/// The names of an object's members.
fn names(object: &Value) -> BTreeSet<&str> {
    let members = object.as_object().unwrap().keys();
    members.map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_what_is_held_and_what_waits_behind_it() {
    let held = Held::new().await;
    let Held {
        fixture,
        key,
        partition,
        offset,
        ..
    } = &held;
    let rows = fixture.listed(key, false).await;
    let expected = [
        "attempts",
        "cause",
        "eventId",
        "heldAt",
        "key",
        "offset",
        "partition",
        "reason",
        "settledAs",
        "settledAt",
        "topic",
        "valueBytes",
    ];
    for (nth, row) in (0..).zip(&rows) {
        assert_eq!(names(row), expected.into());
        assert_eq!(row["topic"], TOPIC);
        assert_eq!(row["partition"], *partition);
        assert_eq!(row["offset"], offset + nth);
        assert!(row["heldAt"].as_str().unwrap().starts_with("20"), "{row}");
        assert!(row["settledAt"].is_null() && row["settledAs"].is_null());
        let (cause, attempts) = if nth == 0 {
            ("dead", 1)
        } else {
            ("blocked", 0)
        };
        assert_eq!(
            (&row["cause"], &row["attempts"]),
            (&cause.into(), &attempts.into())
        );
    }
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[0]["eventId"], event_id(&held.broken));
    assert_eq!(rows[0]["valueBytes"], 1);
    assert!(rows[0]["reason"].as_str().unwrap().contains("version 2"));
    assert_eq!(rows[1]["reason"], "blocked by a dead letter of its key");

    let table = fixture.told(&["dead-letters", "list"]).await;
    let heads = table.lines().next().unwrap().split_whitespace();
    assert!(
        heads.eq(["POSITION", "STATE", "KEY", "EVENT", "REASON"]),
        "{table}"
    );
    for (nth, state) in [(0, "dead"), (1, "blocked")] {
        let place = held.place(nth);
        let mut lines = table.lines().map(|line| line.split_whitespace());
        let line = lines.find(|line| line.clone().next() == Some(&place));
        let line: Vec<&str> = line.unwrap().collect();
        assert_eq!((line[1], line[2]), (state, key.as_str()), "{table}");
    }
    let one = fixture
        .told(&["dead-letters", "list", "--limit", "1"])
        .await;
    assert_eq!(one.lines().count(), 2, "{one}");

    shows_its_status(&held).await;
}

/// `status` says where the group stands in each partition, and what is held there.
async fn shows_its_status(held: &Held) {
    let Held {
        fixture,
        partition,
        offset,
        ..
    } = held;
    let status = fixture.told(&["status", "--json"]).await;
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(names(&status), ["group", "lag", "partitions"].into());
    let partitions = status["partitions"].as_array().unwrap();
    let lag = partitions.iter().map(|p| p["lag"].as_i64().unwrap());
    assert_eq!(status["lag"], lag.sum::<i64>());
    let own = &partitions[usize::try_from(*partition).unwrap()];
    let expected = [
        "blocked",
        "dead",
        "lag",
        "lagSeconds",
        "logEnd",
        "logStart",
        "nextOffset",
        "owner",
        "partition",
        "topic",
    ];
    assert_eq!(names(own), expected.into());
    let number = |name: &str| own[name].as_i64().unwrap();
    assert!(number("dead") >= 1 && number("blocked") >= 2, "{own}");
    assert!(number("nextOffset") >= offset + 3, "{own}");
    assert_eq!(number("lag"), number("logEnd") - number("nextOffset"));
    assert!(own["owner"].is_null(), "nobody runs: {own}");
    let table = fixture.told(&["status"]).await;
    let mut lines = table.lines();
    assert!(lines.next().unwrap().starts_with("group the-group, lag "));
    assert!(
        lines.next().unwrap().split_whitespace().eq([
            "TOPIC",
            "PARTITION",
            "NEXT",
            "START",
            "END",
            "LAG",
            "OLDEST",
            "OWNER",
            "DEAD",
            "BLOCKED",
        ]),
        "{table}"
    );
    assert_eq!(lines.count(), partitions.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_gives_a_dead_letter_up_and_the_next_of_its_key_go_on() {
    let held = Held::new().await;
    let Held {
        fixture,
        product,
        broken,
        key,
        ..
    } = &held;
    let place = held.place(0);
    let before = fixture.state().await;
    let waits = fixture
        .refused(&["dead-letters", "discard", &held.place(1)])
        .await;
    assert!(waits.contains("discard that record first"), "{waits}");
    let nowhere = format!("{TOPIC}/{}/999999999", held.partition);
    let nothing = fixture
        .refused(&["dead-letters", "discard", &nowhere])
        .await;
    assert!(nothing.contains("no record is held"), "{nothing}");
    fixture.refused(&["dead-letters", "discard"]).await;
    fixture
        .refused(&["dead-letters", "discard", "--all", &place])
        .await;
    let would = fixture
        .told(&["dead-letters", "discard", &place, "--dry-run"])
        .await;
    let expected =
        "would be applied: 2, applied before: 0, would be discarded: 1, keys still held: 0";
    assert_eq!(would.trim(), expected);
    assert_eq!(fixture.state().await, before);

    // A slip among several positions is found before anything is done.
    let slip = fixture
        .refused(&["dead-letters", "discard", &place, &nowhere])
        .await;
    assert!(slip.contains("no record is held"), "{slip}");
    assert_eq!(fixture.state().await, before);

    // A key is decided on once, however many of its records are named.
    let (second, third) = (held.place(1), held.place(2));
    let all = ["dead-letters", "redrive", &place, &second, &third];
    for arguments in [&[&all[..], &["--dry-run"]].concat(), &all[..]] {
        let stuck = fixture.refused(arguments).await;
        let lines: Vec<&str> = stuck.lines().collect();
        assert!(lines[0].contains("still cannot be applied"), "{stuck}");
        assert!(lines[1].ends_with("keys still held: 1"), "{stuck}");
        assert_eq!(lines.len(), 2, "{stuck}");
    }
    assert_eq!(fixture.state().await, before);
    let would = fixture
        .told(&["dead-letters", "discard", &place, &second, "--dry-run"])
        .await;
    assert_eq!(would.trim(), expected);

    let did = fixture
        .told(&["dead-letters", "discard", &place, &second])
        .await;
    let expected = "applied: 2, applied before: 0, discarded: 1, keys still held: 0";
    assert_eq!(did.trim(), expected);
    assert_eq!(fixture.sales(product).await, (2, 2));
    let row = "select topic || '/' || partition || '/' || \"offset\" from inbox where event_id::text = $1";
    let row = fixture
        .sql
        .query_one(row, &[&event_id(broken)])
        .await
        .unwrap();
    assert_eq!(row.get::<_, String>(0), place);
    assert_eq!(fixture.listed(key, false).await.len(), 0);
    let settled = fixture.listed(key, true).await;
    let ended: Vec<&str> = settled
        .iter()
        .filter_map(|row| row["settledAs"].as_str())
        .collect();
    assert_eq!(ended, ["discarded", "redriven", "redriven"]);
    assert!(settled.iter().all(|row| row["settledAt"].is_string()));
    let again = fixture.refused(&["dead-letters", "discard", &place]).await;
    assert!(again.contains("no record is held"), "{again}");

    // The event counts as applied: one with its id that could be read has no effect. The key is free.
    let mut repaired = next_of_key(broken, product, 100);
    repaired.headers.clone_from(&broken.headers);
    let _consumer = fixture.start();
    let after = next_of_key(broken, product, 1);
    fixture.produce(held.partition, vec![repaired, after]).await;
    fixture.until_sold(product, 3).await;
}
