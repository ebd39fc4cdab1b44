//! The commands of the real executable at random moments, while writers write, and relays work of
//! which one comes and goes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use local_stack::testing::{Spawned, eventually};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use storage::Database;
use storage::outbox::verify;

use crate::commands::told;
use crate::support::{Fixture, PATIENCE};
use crate::writers::{KEYS, Writers, assert_published_in_order};

/// Any of the commands that change something, about anything.
fn any_command(fixture: &Fixture, random: &mut StdRng) -> String {
    let of = format!(
        "--topic {} --key k{}",
        fixture.topic,
        random.random_range(0..KEYS)
    );
    match random.random_range(0..6) {
        0 => "dead-letters redrive --all".to_owned(),
        1 | 2 => format!("dead-letters redrive {of}"),
        3 => format!("dead-letters discard {of}"),
        4 => format!("replay {of}"),
        _ => {
            let from = random.random_range(1..200);
            format!("replay --from-id {from} --to-id {}", from + 20)
        }
    }
}

impl Fixture {
    /// Runs it, which must succeed.
    async fn must(&self, command: &str) -> String {
        let (code, text) = told(self, command).await;
        assert_eq!(code, 0, "{command}: {text}");
        text
    }
}

/// Acts until nobody writes any more and each kind of command has found something to do.
async fn act(fixture: &Fixture, relays: &mut [Spawned; 2], writers: &Writers, random: &mut StdRng) {
    let mut acted: HashMap<String, usize> = HashMap::new();
    let mut commands = 0;
    while writers.are_writing() || acted.len() < 3 {
        let said = fixture.must(&any_command(fixture, random)).await;
        let (verb, count) = said.split_once(' ').unwrap();
        if !count.starts_with("0 ") {
            *acted.entry(verb.to_owned()).or_default() += 1;
        }
        fixture.must("status --verify").await;
        commands += 1;
        if commands % 10 == 0 {
            relays.rotate_left(1);
            relays[1].terminate();
            assert_eq!(relays[1].exit_code(PATIENCE).await, Some(0));
            relays[1] = fixture.start_relay("3s");
        }
        // No wait: the next command comes at any moment of what the relays do.
        let pause = random.random_range(0..30);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    println!("{commands} commands, of which did something: {acted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_p8_commands_at_any_moment_beside_relays_lose_nothing_and_keep_order() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let fixture = Arc::new(Fixture::new().await);
    let mut relays = [fixture.start_relay("3s"), fixture.start_relay("3s")];
    fixture.until_shared_by(2).await;
    let writers = Writers::start(&fixture, seed, 300).await;
    let acting = act(&fixture, &mut relays, &writers, &mut random);
    tokio::time::timeout(PATIENCE * 3, Box::pin(acting))
        .await
        .expect("the writers end");
    writers.end(&fixture).await;
    eventually("nothing to stay behind", PATIENCE, async || {
        fixture.must("dead-letters redrive --all").await;
        let open = "select (select count(*) from outbox_pending)
                         + (select count(*) from outbox_held where discarded_at is null)";
        (fixture.number(open).await == 0).then_some(())
    })
    .await;
    let database: Database = fixture.database.url().parse().unwrap();
    let session = storage::Session::long_running("test").with_index_plans();
    let mut conn = database.connect(&session).await.unwrap();
    let verified = verify(&mut conn, 10).await.unwrap();
    assert_eq!(verified.offenders, []);
    let discarded = "select count(*) from outbox_held where discarded_at is not null";
    let discarded = fixture.number(discarded).await;
    assert_published_in_order(&fixture, verified.events - discarded).await;
}
