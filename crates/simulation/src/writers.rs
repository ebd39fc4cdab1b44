//! Those who write events: one by one and in bulk, with commits that come late, in one phase or two,
//! and some that never come.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::RngExt;
use rand::seq::IndexedRandom;

use crate::check::Kind;
use crate::event::{TOPICS, ticked};
use crate::ports::Session;
use crate::world::{Sim, World};

/// What writers do.
#[derive(Debug, Clone)]
pub struct Habits {
    pub keys: u32,
    /// Longest pause between two transactions of a writer.
    pub pause: Duration,
    /// Of a hundred transactions, so many stay open for a while.
    pub late: u32,
    /// Longest time that one stays open.
    pub longest: Duration,
    /// Of a hundred events, so many are special.
    pub special: u32,
    /// The most events of one transaction.
    pub bulk: u32,
    /// The most events of one writer.
    pub events: u32,
}

/// Writes until `until`.
pub async fn write(sim: Sim, writer: u32, habits: Habits, until: Duration) {
    let (mut transaction, mut written) = (0, 0);
    while sim.now() < until && written < habits.events {
        transaction += 1;
        let pause = {
            let random = &mut sim.world().random;
            habits.pause.mul_f64(random.random())
        };
        tokio::time::sleep(pause).await;
        written += write_once(&sim, (writer, transaction), &habits).await;
    }
}

/// Returns how many events it tried to write.
async fn write_once(sim: &Sim, (writer, transaction): (u32, u32), habits: &Habits) -> u32 {
    let (events, open_for, two_phase, commits) = {
        let World { random, busy, .. } = &mut *sim.world();
        let mut mine = BTreeSet::new();
        let count = if random.random_range(0..10) == 0 {
            random.random_range(1..=habits.bulk)
        } else {
            1
        };
        let events: Vec<_> = (0..count)
            .filter_map(|nth| {
                let topic = TOPICS.choose(random).expect("there are topics");
                let key = format!("k{}", random.random_range(0..habits.keys));
                // The writers of a key take turns: that is what the order of its events is.
                let place = (*topic, key.clone());
                if !mine.contains(&place) && !busy.insert(place.clone()) {
                    return None;
                }
                mine.insert(place);
                let special = random.random_range(0..100) < habits.special;
                let kinds = [Kind::TooLarge, Kind::Unreadable, Kind::Refused];
                let kind = if special {
                    *kinds.choose(random).expect("there are kinds")
                } else {
                    Kind::Plain
                };
                let number = (u128::from(writer) << 64) + (u128::from(transaction) << 32);
                Some((number + u128::from(nth), *topic, key, kind))
            })
            .collect();
        let late = random.random_range(0..100) < habits.late;
        let open_for = late.then(|| habits.longest.mul_f64(random.random()));
        let two_phase = random.random_range(0..4) == 0;
        (events, open_for, two_phase, random.random_range(0..20) > 0)
    };
    if events.is_empty() {
        return 0;
    }
    write_events(
        sim,
        (writer, transaction),
        &events,
        open_for.map(|t| (t, two_phase)),
        commits,
    )
    .await;
    let busy = &mut sim.world().busy;
    let count = u32::try_from(events.len()).unwrap_or(u32::MAX);
    for (_, topic, key, _) in events {
        busy.remove(&(topic, key));
    }
    count
}

/// The number of an event, its topic, its key, and what is special about it.
type Draft = (u128, &'static str, String, Kind);

/// `open` is for how long the transaction stays open, and whether it is prepared meanwhile.
async fn write_events(
    sim: &Sim,
    (writer, transaction): (u32, u32),
    events: &[Draft],
    open: Option<(Duration, bool)>,
    commits: bool,
) {
    let session = Session::open(sim);
    if session.now(|conn| conn.begin()).is_none() {
        return;
    }
    let rows: Vec<_> = events
        .iter()
        .map(|(number, topic, key, kind)| ticked(*number, topic, key, *kind != Kind::Unreadable))
        .collect();
    // One after the other, as services do it; the writers of a key take turns.
    let appended = session
        .run(Duration::from_secs(30), |conn| conn.append(&rows))
        .await;
    let Some(Ok(ids)) = appended else {
        return;
    };
    for ((number, topic, key, kind), id) in events.iter().zip(&ids) {
        let oracle = &mut sim.world().oracle;
        oracle.drawn(*number, *id, (topic, key), *kind);
    }
    sim.note(|| {
        let keys: Vec<_> = events
            .iter()
            .zip(&ids)
            .map(|((_, topic, key, kind), id)| format!("{id} of {topic}/{key} ({kind:?})"))
            .collect();
        format!("writer {writer} inserts {keys:?}, and ends after {open:?}")
    });
    let name = format!("{writer}-{transaction}");
    if let Some((open_for, two_phase)) = open {
        if two_phase {
            let prepared = session.now(|conn| conn.prepare(&name));
            if !matches!(prepared, Some(Ok(()))) {
                return;
            }
        }
        tokio::time::sleep(open_for).await;
    }
    let numbers: Vec<u128> = events.iter().map(|(number, ..)| *number).collect();
    let ended = if open.is_some_and(|(_, two_phase)| two_phase) {
        let world = &mut *sim.world();
        let database = &mut world.database;
        if commits {
            let committed = database.commit_prepared(&name);
            if committed {
                world.oracle.committed(&numbers);
            }
            committed
        } else {
            database.rollback_prepared(&name);
            false
        }
    } else if commits {
        let committed = session.now(|conn| conn.commit());
        let committed = matches!(committed, Some(Ok(())));
        if committed {
            sim.world().oracle.committed(&numbers);
        }
        committed
    } else {
        false
    };
    sim.transaction_ended().notify_waiters();
    sim.note(|| format!("writer {writer} ends {ids:?}: committed {ended}"));
    if ended && sim.chance() < 0.9 {
        sim.committed().notify_waiters();
    }
}
