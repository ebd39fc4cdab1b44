//! The commands of the real executable: what they print, what they change, how they end.

use local_stack::testing::Spawned;
use serde_json::{Value, json};

use crate::support::{Fixture, PATIENCE};

const BINARY: &str = env!("CARGO_BIN_EXE_outbox-relay");

/// Runs a command that knows nothing but the database; returns its exit status and what it wrote.
async fn command(database_url: &str, arguments: &[&str]) -> (i32, String) {
    let variables = [("DATABASE_URL", database_url.to_owned())];
    let mut process = Spawned::start(BINARY, arguments, variables);
    let code = process.exit_code(PATIENCE).await;
    (code.expect("no signal ended it"), process.log())
}

pub(crate) async fn told(fixture: &Fixture, line: &str) -> (i32, String) {
    let arguments: Vec<&str> = line.split(' ').collect();
    command(fixture.database.url(), &arguments).await
}

async fn json_of(fixture: &Fixture, line: &str) -> Value {
    let (code, text) = told(fixture, &format!("{line} --json")).await;
    assert_eq!(code, 0, "{line}: {text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{line}: {error} in {text}"))
}

async fn states(fixture: &Fixture) -> String {
    let states = "select string_agg(left(state, 2), ' ' order by id) from outbox";
    fixture.sql.query_one(states, &[]).await.unwrap().get(0)
}

/// Keys a and b with three events each, the first of each dead; c published.
async fn fixture() -> Fixture {
    let fixture = Fixture::new().await;
    fixture.write(&["a", "b", "a", "b", "a", "b", "c"]).await;
    fixture
        .sql
        .batch_execute(
            "with moved as (delete from outbox_pending where id < 7 returning slot, id)
             insert into outbox_held (bytes, id, slot, topic, key, cause, error, attempts, blocked_by)
             select 10, m.id, m.slot, e.topic, e.key,
                    case when m.id < 3 then 'dead' else 'blocked' end,
                    case when m.id < 3 then 'too large' end, case when m.id < 3 then 2 end,
                    case when m.id > 2 then 2 - m.id % 2 end
             from moved m join outbox_event e using (id);
             with moved as (delete from outbox_pending where id = 7 returning id)
             insert into outbox_published select id, 0, 0 from moved",
        )
        .await
        .unwrap();
    fixture
}

#[tokio::test(flavor = "multi_thread")]
async fn p8_dead_letters_are_listed_redriven_and_discarded() {
    let fixture = fixture().await;
    let held = "de de bl bl bl bl pu";
    let listed = json_of(&fixture, "dead-letters list --key a").await;
    let ids: Vec<i64> = listed["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["id"].as_i64().unwrap())
        .collect();
    assert_eq!(ids, [1, 3, 5]);
    assert_eq!(listed["items"][0]["error"], "too large");
    assert_eq!(listed["items"][1]["blockedBy"], 1);
    let (code, table) = told(&fixture, "dead-letters list --cause dead --limit 1").await;
    assert_eq!(code, 0);
    for part in ["EVENT", "dead", "too large", "--limit"] {
        assert!(table.contains(part), "{part} in\n{table}");
    }
    assert!(!table.contains("blocked"), "{table}");

    let key = format!("--topic {} --key a", fixture.topic);
    let redrive = format!("dead-letters redrive {key}");
    let said = json!({ "dryRun": true, "keys": 1, "dead": 1, "blocked": 2 });
    let dry = json_of(&fixture, &format!("{redrive} --dry-run")).await;
    assert_eq!(dry, said);
    assert_eq!(states(&fixture).await, held, "a dry run changes nothing");
    let (code, text) = told(&fixture, &redrive).await;
    assert_eq!(
        (code, text.as_str()),
        (0, "redrove 1 event of 1 key, with 2 blocked events\n")
    );
    assert_eq!(states(&fixture).await, "pe de pe bl pe bl pu");
    let (code, text) = told(&fixture, &redrive).await;
    assert_eq!(
        (code, text.as_str()),
        (0, "redrove 0 events of 0 keys, with 0 blocked events\n")
    );

    let id = |id: i64| format!("select event_id::text from outbox_event where id = {id}");
    let dead: String = fixture.sql.query_one(&id(2), &[]).await.unwrap().get(0);
    let behind: String = fixture.sql.query_one(&id(4), &[]).await.unwrap().get(0);
    let discard = async |what: &str| told(&fixture, &format!("dead-letters discard {what}")).await;
    let (code, text) = discard(&format!("--event {behind}")).await;
    assert_eq!(code, 1);
    assert!(text.contains("discard that"), "{text}");
    let dry = json_of(&fixture, "dead-letters discard --all --dry-run").await;
    let said = json!({ "dryRun": true, "keys": 1, "discarded": 1, "returned": 2 });
    assert_eq!(dry, said);
    let (code, text) = discard(&format!("--event {dead}")).await;
    assert_eq!(
        (code, text.as_str()),
        (
            0,
            "discarded 1 event of 1 key, returning to pending 2 blocked events\n"
        )
    );
    assert_eq!(states(&fixture).await, "pe di pe pe pe pe pu");
    let (code, text) = discard(&format!("--event {dead}")).await;
    assert_eq!(code, 1);
    assert!(text.contains("nothing left to decide"), "{text}");
    let (code, text) = discard("--event 0190aaaa-0000-7000-8000-000000000000").await;
    assert_eq!(code, 1);
    assert!(text.contains("no held event"), "{text}");
    let listed = json_of(&fixture, "dead-letters list --cause discarded").await;
    assert_eq!(listed["items"][0]["id"], 2);
    let (_, text) = told(&fixture, "dead-letters list").await;
    assert_eq!(text, "nothing is held\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_event_is_redriven_by_its_id_with_its_key() {
    let fixture = fixture().await;
    let id = "select event_id::text from outbox_event where id = 2";
    let id: String = fixture.sql.query_one(id, &[]).await.unwrap().get(0);
    let redrive = format!("dead-letters redrive --event {id}");
    let dry = json_of(&fixture, &format!("{redrive} --dry-run")).await;
    let said = json!({ "dryRun": true, "keys": 1, "dead": 1, "blocked": 2 });
    assert_eq!(dry, said);
    assert_eq!(states(&fixture).await, "de de bl bl bl bl pu");
    let (code, text) = told(&fixture, &redrive).await;
    assert_eq!(
        (code, text.as_str()),
        (0, "redrove 1 event of 1 key, with 2 blocked events\n")
    );
    assert_eq!(states(&fixture).await, "de pe bl pe bl pe pu");
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_chosen_by_topic_by_key_or_all_of_them() {
    let fixture = fixture().await;
    // The same key of another topic.
    fixture
        .sql
        .batch_execute(
            "insert into outbox_event (event_id, topic, key, event_type, payload)
             select gen_random_uuid(), 'other', 'a', 'T', '{}' from generate_series(8, 9);
             with moved as (delete from outbox_pending where id > 7 returning slot, id)
             insert into outbox_held (bytes, id, slot, topic, key, cause, blocked_by)
             select 10, id, slot, 'other', 'a', case id when 8 then 'dead' else 'blocked' end,
                    nullif(8, id)
             from moved",
        )
        .await
        .unwrap();
    let ids = async |of: &str| -> Vec<i64> {
        let listed = json_of(&fixture, &format!("dead-letters list {of}")).await;
        let items = listed["items"].as_array().unwrap();
        items
            .iter()
            .map(|item| item["id"].as_i64().unwrap())
            .collect()
    };
    assert_eq!(ids("--topic other").await, [8, 9]);
    let of_both = format!("--topic {} --key b", fixture.topic);
    assert_eq!(ids(&of_both).await, [2, 4, 6]);

    let discard = async |what: &str| told(&fixture, &format!("dead-letters discard {what}")).await;
    let said = |text: &str| (0, format!("{text}\n"));
    let one = said("discarded 1 event of 1 key, returning to pending 1 blocked event");
    assert_eq!(discard("--topic other --key a").await, one);
    assert_eq!(states(&fixture).await, "de de bl bl bl bl pu di pe");
    let both = said("discarded 2 events of 2 keys, returning to pending 4 blocked events");
    assert_eq!(discard("--all").await, both);
    assert_eq!(states(&fixture).await, "di di pe pe pe pe pu di pe");
    let none = said("discarded 0 events of 0 keys, returning to pending 0 blocked events");
    assert_eq!(discard("--all").await, none);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_takes_what_lies_within_all_its_bounds() {
    let fixture = fixture().await;
    fixture
        .sql
        .batch_execute(
            "insert into outbox_event (event_id, topic, key, event_type, payload)
             values (gen_random_uuid(), 'other', 'c', 'T', '{}');
             with moved as (delete from outbox_pending where id = 8 returning id)
             insert into outbox_published select id, 0, 1 from moved",
        )
        .await
        .unwrap();
    let replay = async |bounds: &str| told(&fixture, &format!("replay {bounds}")).await;
    let none = (0, "replayed 0 events\n".to_owned());
    let one = (0, "replayed 1 event\n".to_owned());
    assert_eq!(replay("--topic other --key a").await, none);
    assert_eq!(replay("--topic other --to-id 7").await, none);
    assert_eq!(replay("--topic other").await, one);
    assert_eq!(states(&fixture).await, "de de bl bl bl bl pu pe");
    assert_eq!(replay("--from-id 7 --to-id 7").await, one);
    assert_eq!(states(&fixture).await, "de de bl bl bl bl pe pe");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_keys_are_redriven_page_by_page() {
    let fixture = Fixture::new().await;
    let keys: Vec<String> = (0..250).map(|n| format!("k{n}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    fixture.write(&keys).await;
    fixture
        .sql
        .batch_execute(
            "with moved as (delete from outbox_pending returning slot, id)
             insert into outbox_held (bytes, id, slot, topic, key, cause)
             select 10, m.id, m.slot, e.topic, e.key, 'dead'
             from moved m join outbox_event e using (id)",
        )
        .await
        .unwrap();
    let said = |dry_run: bool| json!({ "dryRun": dry_run, "keys": 250, "dead": 250, "blocked": 0 });
    let redrive = "dead-letters redrive --all";
    let dry = json_of(&fixture, &format!("{redrive} --dry-run")).await;
    assert_eq!(dry, said(true));
    assert_eq!(json_of(&fixture, redrive).await, said(false));
    assert_eq!(fixture.count("pending").await, 250);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_publishes_again_and_ends_beside_a_relay() {
    let fixture = Fixture::new().await;
    let mut relay = Spawned::start(BINARY, &["run"], fixture.variables());
    let keys: Vec<String> = (0..600).map(|n| format!("k{}", n % 7)).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    fixture.write(&keys).await;
    fixture.until_published(600).await;
    let dry = json_of(&fixture, "replay --key k3 --dry-run").await;
    assert_eq!(dry, json!({ "dryRun": true, "replayed": 86 }));
    // The relay publishes them again at once, at times and ids within the bounds.
    let (code, text) = told(&fixture, "replay --from 2000-01-01T00:00:00Z").await;
    assert_eq!((code, text.as_str()), (0, "replayed 600 events\n"));
    fixture.until_published(600).await;
    let (by_key, copies) = fixture.published_by_key().await;
    assert_eq!(by_key.values().map(Vec::len).sum::<usize>(), 600);
    assert_eq!(copies, 600, "each once more");
    let (code, text) = told(&fixture, "replay --to 2000-01-01T00:00:00Z").await;
    assert_eq!((code, text.as_str()), (0, "replayed 0 events\n"));
    relay.terminate();
    assert_eq!(relay.exit_code(PATIENCE).await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_who_owns_what_waits_and_what_is_lost() {
    let fixture = fixture().await;
    fixture.write(&["d", "d"]).await;
    let status = json_of(&fixture, "status --verify").await;
    assert_eq!(status["pending"], json!({ "events": 2, "exact": true }));
    assert!(status["oldestSeconds"]["pending"].as_f64().unwrap() >= 0.0);
    assert_eq!(status["published"]["events"], 1);
    assert_eq!(status["held"]["dead"], 2);
    assert_eq!(status["held"]["blocked"], 4);
    assert_eq!(status["slots"].as_array().unwrap().len(), 32);
    assert_eq!(status["verified"]["events"], 9);
    let (code, text) = told(&fixture, "status --verify").await;
    assert_eq!(code, 0, "{text}");
    for part in [
        "pending    2 events",
        "oldest     pending ",
        ", blocked ",
        "2 dead, 4 blocked",
        "0-31",
        "each in exactly one",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }

    fixture
        .sql
        .batch_execute("delete from outbox_pending where id = 8")
        .await
        .unwrap();
    let (code, text) = told(&fixture, "status --verify").await;
    assert_eq!(code, 1);
    assert!(text.contains("unqueued"), "{text}");
    assert_eq!(told(&fixture, "status").await.0, 0, "only when asked");

    let mut relay = Spawned::start(BINARY, &["run"], fixture.variables());
    fixture.until_published(2).await;
    let status = json_of(&fixture, "status").await;
    let live = status["slots"].as_array().unwrap().iter();
    assert!(live.clone().all(|slot| slot["live"] == true), "{status}");
    relay.kill();
    assert_eq!(relay.exit_code(PATIENCE).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_one_line_and_an_exit_status() {
    for usage in [
        "replay",
        "replay --from yesterday",
        "replay --from-id 2 --to-id 1",
        "replay --from 2025-01-02T00:00:00Z --to 2025-01-02T00:00:00Z",
        "dead-letters redrive",
        "dead-letters redrive --topic t",
        "dead-letters discard --all --event 0190aaaa-0000-7000-8000-000000000000",
        "dead-letters discard --event x",
        "dead-letters list --cause bad",
        "dead-letters list --limit 0",
        "dead-letters",
    ] {
        let arguments: Vec<&str> = usage.split(' ').collect();
        let (code, text) = command("", &arguments).await;
        assert_eq!(code, 2, "{usage}: {text}");
    }
    let (code, text) = command("mysql://u:secret@h/d", &["status"]).await;
    assert_eq!(code, 78);
    assert!(
        text.contains("DATABASE_URL") && !text.contains("secret"),
        "{text}"
    );
    for line in [
        "status",
        "dead-letters list",
        "dead-letters redrive --all",
        "replay --key k",
    ] {
        let arguments: Vec<&str> = line.split(' ').collect();
        let (code, text) = command("postgres://u:p@127.0.0.1:1/d", &arguments).await;
        assert_eq!(code, 1, "{line}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("127.0.0.1:1/d"), "{text}");
    }
    let fixture = Fixture::new().await;
    let url = format!("{}?schema=later", fixture.database.url());
    let (code, text) = command(&url, &["status"]).await;
    assert_eq!(code, 1);
    assert!(text.contains("order-api migrate"), "{text}");
}
