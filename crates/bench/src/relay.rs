//! Drains a backlog with the real relay, and with what it is compared to.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use storage::Database;

use crate::RelayArgs;
use crate::check;
use crate::cpu::{self, Cpu};
use crate::process::Service;
use crate::report::{Aim, Report};
use crate::seed::Bench;
use crate::{bare, usual};

const RELAY: &str = "relay, 200 B";
const BARE: &str = "bare loop (read and produce), 200 B";
const RELAY_KB: &str = "relay, 1 kB";
const BARE_KB: &str = "bare loop (read and produce), 1 kB";
const PUBLISHED: &str = "relay, 200 B, as many published in the table";
const OPEN: &str = "relay, 200 B, beside an open transaction";
const USUAL: &str = "usual outbox, 200 B";
const USUAL_KB: &str = "usual outbox, 1 kB";
const USUAL_BY_KEY: &str = "usual outbox with an index by key, 200 B";
const USUAL_BY_KEY_KB: &str = "usual outbox with an index by key, 1 kB";
const USUAL_PUBLISHED: &str = "usual outbox, 200 B, as many published in the table";
const USUAL_OPEN: &str = "usual outbox, 200 B, beside an open transaction";
const READ: &str = "raw reads of event rows, 200 B";
const PRODUCE: &str = "raw produce, 200 B";
const MEMORY: &str = "memory of the relay while draining";
const IDLE: &str = "idle relay";

const AIMS: [Aim; 10] = [
    Aim {
        name: "relay / bare loop, 200 B",
        of: RELAY,
        to: BARE,
        least: 0.30,
    },
    Aim {
        name: "relay / bare loop, 1 kB",
        of: RELAY_KB,
        to: BARE_KB,
        least: 0.30,
    },
    Aim {
        name: "with as many published / clean",
        of: PUBLISHED,
        to: RELAY,
        least: 0.90,
    },
    Aim {
        name: "beside an open transaction / clean",
        of: OPEN,
        to: RELAY,
        least: 0.60,
    },
    Aim {
        name: "relay / usual outbox, 200 B",
        of: RELAY,
        to: USUAL,
        least: 2.0,
    },
    Aim {
        name: "relay / usual outbox, 1 kB",
        of: RELAY_KB,
        to: USUAL_KB,
        least: 2.0,
    },
    Aim {
        name: "relay / usual outbox with an index by key, 200 B",
        of: RELAY,
        to: USUAL_BY_KEY,
        least: 2.0,
    },
    Aim {
        name: "relay / usual outbox with an index by key, 1 kB",
        of: RELAY_KB,
        to: USUAL_BY_KEY_KB,
        least: 2.0,
    },
    Aim {
        name: "relay / usual outbox, with as many published",
        of: PUBLISHED,
        to: USUAL_PUBLISHED,
        least: 2.0,
    },
    Aim {
        name: "relay / usual outbox, beside an open transaction",
        of: OPEN,
        to: USUAL_OPEN,
        least: 2.0,
    },
];

/// Runs all measurements in turn, round by round.
pub(crate) async fn bench(args: &RelayArgs) -> Result<()> {
    let bench = Bench::start()?;
    let events = args.events;
    let topic = bench.topic().await?;
    println!("seeding {events} events");
    bench.seed("seed_small", &topic, events, 200).await?;
    bench.seed("seed_large", &topic, events, 1_000).await?;
    let mut report = Report::default();
    let wanted = |name: &str| {
        args.only.is_empty()
            || args.only.iter().any(|o| {
                o.strip_prefix("=")
                    .map_or(name.contains(o.as_str()), |o| name == o)
            })
    };
    // A JVM that is cold compiles; that would be counted against whoever comes first.
    bare::produce_only(&bench.cluster, &topic, 10_000_000, 200).await?;
    for round in 1..=args.rounds {
        println!("round {round}");
        for (name, seed) in [(RELAY, "seed_small"), (RELAY_KB, "seed_large")] {
            if wanted(name) {
                let run = drain(&bench, seed, &topic, events, Beside::Nothing).await?;
                report.add(name, run.rate);
                report.add(MEMORY, run.megabytes);
                report.cpu(name, run.cpu, run.own_cpu);
            }
        }
        for (name, seed) in [(BARE, "seed_small"), (BARE_KB, "seed_large")] {
            if wanted(name) {
                let begin = check::ends(&bench.cluster, &topic).await?;
                let database: Database = bench.url(seed).parse()?;
                let (before, own) = (bench.cpu(), cpu::own());
                let took = bare::read_and_produce(&database, &bench.cluster).await?;
                let spent = bench.cpu().per_event_since(before, events);
                let own = per_event(cpu::own() - own, events);
                let sql = bench.connect(seed).await?;
                check::published(&bench.cluster, &topic, &begin, &sql, events).await?;
                report.add(name, rate(events, took));
                report.cpu(name, spent, own);
            }
        }
        for (name, beside) in [(PUBLISHED, Beside::Published), (OPEN, Beside::Open)] {
            if wanted(name) {
                let run = drain(&bench, "seed_small", &topic, events, beside).await?;
                report.add(name, run.rate);
            }
        }
        for (name, seed, by_key, beside) in [
            (USUAL, "seed_small", false, Beside::Nothing),
            (USUAL_KB, "seed_large", false, Beside::Nothing),
            (USUAL_BY_KEY, "seed_small", true, Beside::Nothing),
            (USUAL_BY_KEY_KB, "seed_large", true, Beside::Nothing),
            (USUAL_PUBLISHED, "seed_small", false, Beside::Published),
            (USUAL_OPEN, "seed_small", false, Beside::Open),
        ] {
            if wanted(name) {
                let run = usual_drain(&bench, seed, &topic, by_key, beside).await?;
                report.add(name, run.rate);
                report.cpu(name, run.cpu, run.own_cpu);
            }
        }
        if wanted(READ) {
            let database: Database = bench.url("seed_small").parse()?;
            report.add(READ, rate(events, bare::read_only(&database).await?));
        }
        if wanted(PRODUCE) {
            let took = bare::produce_only(&bench.cluster, &topic, events, 200).await?;
            report.add(PRODUCE, rate(events, took));
        }
        if wanted(IDLE) {
            report.add(IDLE, idle(&bench).await?);
        }
    }
    report.print(&AIMS);
    if let Some(file) = &args.json {
        report.write(file, &AIMS)?;
    }
    bench.stop()
}

/// What else is in the database while the relay drains.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    /// As many events as are pending, published earlier; not analyzed since they were pending, as
    /// after a busy hour.
    Published,
    /// A transaction that inserted 100,000 events and stays open.
    Open,
}

struct Run {
    rate: f64,
    /// Of the servers, per event.
    cpu: Cpu,
    /// Of the relay, per event, in microseconds.
    own_cpu: f64,
    megabytes: f64,
}

/// Microseconds.
fn per_event(seconds: f64, events: i64) -> f64 {
    1e6 / rate(events, Duration::from_secs_f64(seconds))
}

fn rate(events: i64, took: Duration) -> f64 {
    f64::from(u32::try_from(events).unwrap_or(u32::MAX)) / took.as_secs_f64()
}

async fn drain(bench: &Bench, seed: &str, topic: &str, events: i64, beside: Beside) -> Result<Run> {
    bench.copy(seed, "run").await?;
    let sql = bench.connect("run").await?;
    let mut open = bench.connect("run").await?;
    let held_open = open.transaction().await?;
    match beside {
        Beside::Nothing => {}
        Beside::Published => {
            sql.batch_execute(
                "with moved as (delete from outbox_pending returning id)
                 insert into outbox_published (id, kafka_partition, kafka_offset)
                 select id, 0, id from moved;
                 insert into outbox_event (event_id, topic, key, event_type, payload)
                 select gen_random_uuid(), topic, key, event_type, payload from outbox_event
                 order by id",
            )
            .await?;
            sql.batch_execute("vacuum outbox_pending, outbox_published, outbox_event")
                .await?;
        }
        Beside::Open => {
            held_open
                .execute(
                    "insert into outbox_event (event_id, topic, key, event_type, payload)
                     select gen_random_uuid(), 't', n::text, 'T', '{}' from generate_series(1, 100000) n",
                    &[],
                )
                .await?;
        }
    }
    let begin = check::ends(&bench.cluster, topic).await?;
    let before = bench.cpu();
    let relay = RelayProcess::start(bench, "run")?;
    let took = relay.until_published(events).await?;
    let cpu = bench.cpu().per_event_since(before, events);
    let own_cpu = per_event(relay.0.cpu_seconds(), events);
    let megabytes = relay.0.peak_megabytes();
    drop(relay);
    held_open.rollback().await?;
    check::published(&bench.cluster, topic, &begin, &sql, events).await?;
    Ok(Run {
        rate: rate(events, took),
        cpu,
        own_cpu,
        megabytes,
    })
}

async fn usual_drain(
    bench: &Bench,
    seed: &str,
    topic: &str,
    by_key: bool,
    beside: Beside,
) -> Result<Run> {
    bench.copy(seed, "run").await?;
    let sql = bench.connect("run").await?;
    usual::prepare(&sql, beside == Beside::Published, by_key).await?;
    let mut open = bench.connect("run").await?;
    let held_open = open.transaction().await?;
    if beside == Beside::Open {
        held_open.execute(usual::INSERT_100_000, &[]).await?;
    }
    let begin = check::ends(&bench.cluster, topic).await?;
    let (before, own) = (bench.cpu(), cpu::own());
    let (published, took) = usual::drain(&sql, &bench.cluster, topic).await?;
    let cpu = bench.cpu().per_event_since(before, published);
    let own_cpu = per_event(cpu::own() - own, published);
    held_open.rollback().await?;
    check::published(&bench.cluster, topic, &begin, &sql, published).await?;
    Ok(Run {
        rate: rate(published, took),
        cpu,
        own_cpu,
        megabytes: f64::NAN,
    })
}

/// CPU time of a relay with nothing to do, in percent of a core.
async fn idle(bench: &Bench) -> Result<f64> {
    const WINDOW: Duration = Duration::from_secs(20);
    bench.seed("run", "nothing", 0, 200).await?;
    let relay = RelayProcess::start(bench, "run")?;
    // Its pace slows down while it finds nothing.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = relay.0.cpu_seconds();
    tokio::time::sleep(WINDOW).await;
    let used = relay.0.cpu_seconds() - before;
    drop(relay);
    Ok(used / WINDOW.as_secs_f64() * 100.0)
}

/// The relay, watched by its metrics.
struct RelayProcess(Service);

impl RelayProcess {
    fn start(bench: &Bench, database: &str) -> Result<Self> {
        Ok(Self(Service::start(bench, "outbox-relay", database, &[])?))
    }

    /// From the first published event seen to the last.
    async fn until_published(&self, events: i64) -> Result<Duration> {
        let deadline = Instant::now() + Duration::from_mins(5);
        let mut first: Option<(Instant, i64)> = None;
        while Instant::now() < deadline {
            let published = self.published().await.unwrap_or(0);
            match first {
                None if published > 0 => first = Some((Instant::now(), published)),
                Some((at, before)) if published >= events => {
                    // What was published before the clock started does not count.
                    let counted = rate(events, Duration::from_secs(1));
                    let share = rate(events - before, Duration::from_secs(1)) / counted;
                    return Ok(at.elapsed().div_f64(share));
                }
                None | Some(_) => {}
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("the relay did not finish within five minutes")
    }

    async fn published(&self) -> Option<i64> {
        let metrics = format!("{}/metrics", self.0.ops);
        let text = reqwest::get(metrics).await.ok()?.text().await.ok()?;
        let line = text
            .lines()
            .find(|l| l.starts_with("outbox_published_total "))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }
}
