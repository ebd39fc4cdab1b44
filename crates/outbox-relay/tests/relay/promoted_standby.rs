//! The primary crashes under load, and its standby takes its place.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use local_stack::testing::{PostgresServer, Spawned, Switch, eventually};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use crate::process::BINARY;
use crate::soak::alone;
use crate::support::{Fixture, PATIENCE, assert_in_order};

/// How soon after the promotion everything goes on, without a restart.
const BACK_WITHIN: Duration = Duration::from_secs(15);
const LOADED: Duration = Duration::from_secs(5);
const KEYS: i64 = 61;

/// One of `make soak`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute"]
async fn p2_p3_p11_a_promoted_standby_takes_over_under_load() {
    let _alone = alone().await;
    for hosts in [Hosts::OneThatMoves, Hosts::Both] {
        a_standby_takes_over(hosts).await;
    }
}

/// What `DATABASE_URL` names.
#[derive(Debug, Clone, Copy)]
enum Hosts {
    /// An address that leads to the standby after the crash, also before that is promoted.
    OneThatMoves,
    /// The standby, and then the primary.
    Both,
}

async fn a_standby_takes_over(hosts: Hosts) {
    let primary = PostgresServer::start(&[]);
    let standby = primary.standby(&[]);
    // From here on what is committed is on both.
    let sql = primary.connect().await;
    for statement in [
        "alter system set synchronous_standby_names = '*'",
        "select pg_reload_conf()",
    ] {
        sql.batch_execute(statement).await.unwrap();
    }
    eventually("a synchronous standby", PATIENCE, async || {
        let synchronous = "select count(*) from pg_stat_replication where sync_state = 'sync'";
        let synchronous: i64 = sql.query_one(synchronous, &[]).await.unwrap().get(0);
        (synchronous == 1).then_some(())
    })
    .await;
    let ports = [standby.port(), primary.port()];
    let switch = Switch::start(primary.port()).await;
    let named = match hosts {
        Hosts::OneThatMoves => url(&[switch.port()]),
        Hosts::Both => url(&ports),
    };

    let mut fixture = Fixture::new().await;
    let services = Services::start(&fixture, &named).await;
    let load = Load::start(&fixture, &services, url(&ports));
    tokio::time::sleep(LOADED).await;

    primary.kill();
    switch.lead_to(standby.port());
    // Long enough for everybody to ask the one that cannot be written yet.
    tokio::time::sleep(Duration::from_secs(3)).await;
    standby.promote().await;
    let promoted = Instant::now();
    let before = load.acknowledged.len();
    fixture.sql = standby.connect().await;
    let now = fixture.text("select clock_timestamp()::text").await;
    loop {
        let (orders, events) = load.acknowledged.len();
        let published = fixture.is_published_after(&now).await;
        if orders > before.0 && events > before.1 && published {
            break;
        }
        assert!(
            promoted.elapsed() < BACK_WITHIN,
            "{before:?} were acknowledged before, now {orders} and {events}; published: {published}\n{}",
            services.complaints()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!(
        "{hosts:?}: back {:?} after the promotion",
        promoted.elapsed()
    );
    eventually("readiness", BACK_WITHIN, async || {
        services.are_ready().await.then_some(())
    })
    .await;
    tokio::time::sleep(LOADED).await;

    let (orders, events) = load.end().await;
    println!(
        "{hosts:?}: {} orders and {} events",
        orders.len(),
        events.len()
    );
    eventually("an empty outbox", PATIENCE * 2, async || {
        (fixture.number("select count(*) from outbox_pending").await == 0).then_some(())
    })
    .await;
    assert_eq!(fixture.number("select count(*) from outbox_held").await, 0);
    fixture.assert_published("e.key", &orders).await;
    fixture.assert_published("e.event_id::text", &events).await;
    let placed = "select count(*) from orders where product_id = $1";
    let placed: i64 = fixture.of_product(placed, &services.product).await;
    eventually("the effects", PATIENCE, async || {
        let sold = "select coalesce(sum(orders), 0)::bigint from product_sales
                    where product_id = $1";
        (fixture.of_product(sold, &services.product).await == placed).then_some(())
    })
    .await;
    let topic = fixture.topic.clone();
    fixture.look_at(topic).await;
    let (by_key, copies) = fixture.published_by_key().await;
    assert_in_order(&by_key);
    // No more than what was in flight when the answers were lost.
    println!("{hosts:?}: {copies} copies");
}

fn url(ports: &[u16]) -> String {
    let hosts: Vec<_> = ports
        .iter()
        .map(|port| format!("127.0.0.1:{port}"))
        .collect();
    format!("postgres://outbox:outbox@{}/outbox", hosts.join(","))
}

/// The three executables. Those of the other packages lie beside the relay's: `make soak` builds all.
struct Services {
    processes: Vec<Spawned>,
    api: String,
    product: String,
}

impl Services {
    async fn start(fixture: &Fixture, database_url: &str) -> Self {
        let mut variables = fixture.variables();
        database_url.clone_into(&mut variables[0].1);
        variables.push(("PORT", "0".to_owned()));
        variables.push(("KAFKA_GROUP_ID", format!("group-{}", Uuid::now_v7())));
        let start = |name: &str, command: &str| {
            let executable = Path::new(BINARY).with_file_name(name);
            let executable = executable.to_str().expect("a path of ours");
            Spawned::start(executable, &[command], variables.clone())
        };
        let api = start("order-api", "serve");
        let address = eventually("the API's address", PATIENCE, async || {
            api.log().lines().find_map(|line| {
                let line: serde_json::Value = serde_json::from_str(line).ok()?;
                Some(line.get("address")?.as_str()?.to_owned())
            })
        })
        .await;
        let services = Self {
            processes: vec![
                api,
                start("outbox-relay", "run"),
                start("order-consumer", "run"),
            ],
            api: address.replace("0.0.0.0", "127.0.0.1"),
            product: Uuid::now_v7().to_string(),
        };
        eventually("readiness", PATIENCE, async || {
            services.are_ready().await.then_some(())
        })
        .await;
        services
    }

    /// What they complained of.
    fn complaints(&self) -> String {
        let logs: Vec<String> = self.processes.iter().map(Spawned::log).collect();
        let lines = logs.iter().flat_map(|log| log.lines());
        let lines: Vec<_> = lines.filter(|line| !line.contains("\"INFO\"")).collect();
        lines.join("\n")
    }

    async fn are_ready(&self) -> bool {
        for process in &self.processes {
            let ops = process.ops_address(PATIENCE).await;
            let answer = reqwest::get(format!("http://{ops}/readyz")).await;
            if !answer.is_ok_and(|answer| answer.status() == 200) {
                return false;
            }
        }
        true
    }
}

/// What was acknowledged: the ids of orders, and of events.
#[derive(Default)]
struct Acknowledged {
    orders: std::sync::Mutex<HashSet<String>>,
    events: std::sync::Mutex<HashSet<String>>,
}

impl Acknowledged {
    fn len(&self) -> (usize, usize) {
        let (orders, events) = (self.orders.lock().unwrap(), self.events.lock().unwrap());
        (orders.len(), events.len())
    }
}

struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Acknowledged>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(fixture: &Fixture, services: &Services, database_url: String) -> Self {
        let (stop, acknowledged) = (Arc::default(), Arc::default());
        let body = format!(r#"{{"productId":"{}"}}"#, services.product);
        let mut tasks: Vec<_> = (0..4)
            .map(|_| {
                let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
                tokio::spawn(place(
                    services.api.clone(),
                    body.clone(),
                    stop,
                    acknowledged,
                ))
            })
            .collect();
        let (stopped, written) = (Arc::clone(&stop), Arc::clone(&acknowledged));
        let writing = write(fixture.topic.clone(), database_url, stopped, written);
        tasks.push(tokio::spawn(writing));
        Self {
            stop,
            acknowledged,
            tasks,
        }
    }

    async fn end(self) -> (Vec<String>, Vec<String>) {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
        let all = |set: &std::sync::Mutex<HashSet<String>>| set.lock().unwrap().drain().collect();
        (
            all(&self.acknowledged.orders),
            all(&self.acknowledged.events),
        )
    }
}

/// A client of the API, which goes on whatever the answer.
async fn place(api: String, body: String, stop: Arc<AtomicBool>, acknowledged: Arc<Acknowledged>) {
    let http = reqwest::Client::new();
    while !stop.load(Ordering::SeqCst) {
        let request = http
            .post(format!("http://{api}/orders"))
            .header("content-type", "application/json")
            .body(body.clone());
        if let Ok(answer) = request.send().await
            && answer.status() == 201
        {
            let order: serde_json::Value = answer.json().await.unwrap();
            let id = order["id"].as_str().unwrap().to_owned();
            acknowledged.orders.lock().unwrap().insert(id);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Another writer, of several events a key.
async fn write(
    topic: String,
    database_url: String,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Acknowledged>,
) {
    let mut client: Option<Client> = None;
    let mut written = 0_i64;
    while !stop.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let connected = match client.take() {
            Some(connected) => connected,
            None => match connect(&database_url).await {
                Some(connected) => connected,
                None => continue,
            },
        };
        let ids: Vec<String> = (0..10).map(|_| Uuid::now_v7().to_string()).collect();
        let inserted = connected
            .execute(
                "insert into outbox_event (event_id, topic, key, event_type, payload)
                 select e.id::uuid, $1, 'k' || ($2::bigint + e.n) % $3::bigint, 'T', '{}'
                 from unnest($4::text[]) with ordinality e(id, n) order by e.n",
                &[&topic, &written, &KEYS, &ids],
            )
            .await;
        if inserted.is_ok() {
            written += 10;
            acknowledged.events.lock().unwrap().extend(ids);
            client = Some(connected);
        }
    }
}

async fn connect(database_url: &str) -> Option<Client> {
    let url = format!("{database_url}?target_session_attrs=read-write&connect_timeout=2");
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.ok()?;
    tokio::spawn(connection);
    Some(client)
}

impl Fixture {
    async fn text(&self, query: &str) -> String {
        self.sql.query_one(query, &[]).await.unwrap().get(0)
    }

    async fn of_product(&self, query: &str, product: &str) -> i64 {
        self.sql.query_one(query, &[&product]).await.unwrap().get(0)
    }

    async fn is_published_after(&self, time: &str) -> bool {
        let found = "select exists (select from outbox_published
                     where processed_at > $1::text::timestamptz)";
        self.sql.query_one(found, &[&time]).await.unwrap().get(0)
    }

    /// All that were acknowledged.
    async fn assert_published(&self, column: &str, acknowledged: &[String]) {
        let query = format!(
            "select coalesce(array_agg(a.id), '{{}}') from unnest($1::text[]) a(id)
             where not exists (select from outbox_event e join outbox_published p using (id)
                               where {column} = a.id)"
        );
        let row = self.sql.query_one(&query, &[&acknowledged]).await.unwrap();
        let lost: Vec<String> = row.get(0);
        assert!(!acknowledged.is_empty());
        assert_eq!(lost, Vec::<String>::new(), "of {}", acknowledged.len());
    }
}
