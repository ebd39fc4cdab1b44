//! Members that join, leave, die and fall asleep at random moments, also in the middle of sending,
//! settling and holding, with leases so short that who sleeps loses them.
//!
//! Each works as a relay does, on the statements of this crate; what left it lies in one log for
//! all, as in Kafka. The database itself watches the leases: a change that must not be is refused,
//! which fails whoever asked for it.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use domain::Slot;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use storage::Session;
use storage::lease::{Keeper, snapshot};
use storage::outbox::append;

use crate::member::{Log, Member, POISON, SCOPE};
use crate::support::{Fixture, event};

pub(crate) const TTL: Duration = Duration::from_millis(900);
const DISTURBED_FOR: Duration = Duration::from_secs(8);
const MOST_MEMBERS: usize = 5;
const KEYS: u32 = 60;

/// Refuses what must never happen to a lease. A hold that has passed the fence dwells behind it, so
/// that others have the time to come.
const WATCH: &str = "\
create function watch_lease() returns trigger language plpgsql as $$
begin
    if new.owner is distinct from old.owner and new.owner is not null then
        if new.epoch <= old.epoch then
            raise 'unit % changes hands under epoch %', old.unit, old.epoch;
        end if;
        if exists (select from lease_member m where m.scope = old.scope
                   and m.member_id = old.owner and m.expires_at > clock_timestamp()) then
            raise 'unit % is taken from a live member', old.unit;
        end if;
    end if;
    if not pg_try_advisory_xact_lock(4711, old.unit) then
        raise 'unit % changes hands while its owner is behind the fence', old.unit;
    end if;
    return new;
end $$;
create trigger watch before update on lease for each row execute function watch_lease();
create function dwell() returns trigger language plpgsql as $$
begin
    perform pg_advisory_xact_lock_shared(4711, new.slot);
    perform pg_sleep(random() * 0.3);
    return new;
end $$;
create trigger dwell before insert on outbox_held for each row execute function dwell();";

fn key(random: &mut StdRng) -> String {
    if random.random_bool(0.04) {
        format!("{POISON}{}", random.random_range(0..30))
    } else {
        format!("k{}", random.random_range(0..KEYS))
    }
}

fn member(fixture: &Fixture) -> Member {
    let session = Session::leased("test", TTL);
    let units = Slot::COUNT.into();
    let (keeper, leases) = Keeper::new(fixture.database.clone(), session, SCOPE, TTL, units);
    Member::new(fixture.database.clone(), keeper, leases)
}

/// No two members may believe that they own the same slot, whether they are awake or not.
fn assert_no_slot_is_owned_twice(members: &[Member]) {
    let mut seen = HashSet::new();
    for member in members {
        for (unit, _) in member.leases.ownership().units() {
            assert!(seen.insert(unit), "two members own slot {unit}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_p3_p4_p6_whoever_sleeps_or_dies_in_the_middle_the_fences_hold() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let fixture = Fixture::new().await;
    fixture.run(WATCH).await;
    let mut writer = fixture.connect().await;
    let mut log = Log::default();
    let mut members = vec![member(&fixture), member(&fixture)];
    let mut deaths = 0;

    let began = Instant::now();
    let (mut next_write, mut next_change) = (began, began);
    while began.elapsed() < DISTURBED_FOR {
        let now = Instant::now();
        if now >= next_write {
            next_write = now + Duration::from_millis(random.random_range(1..20));
            let events: Vec<_> = (0..random.random_range(1..5))
                .map(|_| event(&key(&mut random)))
                .collect();
            append(&mut writer, &events).await.unwrap();
        }
        let one = random.random_range(0..members.len());
        if now >= next_change {
            next_change = now + TTL.mul_f64(random.random_range(0.1..0.8));
            match random.random_range(0..5) {
                0..3 if members.len() < MOST_MEMBERS => members.push(member(&fixture)),
                3 if members.len() > 1 => members.swap_remove(one).leave().await,
                4 if members.len() > 1 => {
                    // By a crash: what it knows is gone.
                    drop(members.swap_remove(one));
                    deaths += 1;
                }
                _ => {}
            }
        } else {
            members[one].step(&mut random, &mut log, &fixture).await;
        }
        assert_no_slot_is_owned_twice(&members);
    }

    members.iter_mut().for_each(Member::sleep_no_more);
    // Everybody awake and nobody disturbed: all is relayed and shared.
    let give_up = Instant::now() + Duration::from_secs(30);
    while fixture.number("select count(*) from outbox_pending").await > 0
        || members
            .iter()
            .any(|member| !member.has_fair_share(members.len()))
    {
        assert!(Instant::now() < give_up, "it does not come to rest");
        for member in &mut members {
            member.step(&mut random, &mut log, &fixture).await;
        }
        assert_no_slot_is_owned_twice(&members);
    }
    let found = snapshot(&mut writer, SCOPE).await.unwrap();
    assert!(found.units.iter().all(|unit| unit.owner.is_some()));
    check(&fixture, &log, deaths).await;
}

/// Each event is published and in the log, or held; in order by key; and copies are few.
async fn check(fixture: &Fixture, log: &Log, deaths: usize) {
    let published = fixture
        .number("select count(*) from outbox_published")
        .await;
    let held = fixture.number("select count(*) from outbox_held").await;
    let written = fixture.number("select count(*) from outbox_event").await;
    assert_eq!(published + held, written);
    let mut first: HashMap<&str, Vec<i64>> = HashMap::new();
    let mut seen = HashSet::new();
    for (key, id) in &log.sent {
        if seen.insert(*id) {
            first.entry(key).or_default().push(*id);
        }
    }
    for (key, ids) in first {
        assert!(ids.is_sorted(), "key {key}: {ids:?}");
    }
    assert_eq!(i64::try_from(seen.len()).unwrap(), published);
    let copies = log.sent.len() - seen.len();
    println!(
        "{published} published, {held} held, {copies} copies, {deaths} deaths, {} sleeps, \
         {} stale holds refused, {} late marks",
        log.sleeps, log.refused, log.late_marks
    );
    assert!(
        copies <= (deaths + log.sleeps) * Member::MOST_IN_FLIGHT,
        "{copies}"
    );
    // Else the test has not met what it is for.
    assert!(copies > 0 && log.refused + log.late_marks > 0);
}
