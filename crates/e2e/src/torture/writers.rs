//! Programs that write events with SQL, past the API. Each has keys of its own, takes turns on
//! them, and remembers what it committed.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;
use uuid::Uuid;

use crate::torture::ledger::{Ledger, Outcome, Progress, Written};
use crate::torture::random::Random;
use crate::torture::servers::connect;

/// Topics of the services, and one that no service knows.
pub(crate) const TOPICS: [&str; 3] = ["order.created", "order.cancelled", FOREIGN_TOPIC];
pub(crate) const FOREIGN_TOPIC: &str = "torture.foreign";
/// The source of these events.
pub(crate) const SOURCE: &str = "/torture";

const KEYS: usize = 8;
const STATEMENT_WITHIN: Duration = Duration::from_secs(8);
/// Keys are locked, so a session that nobody ends must not stay.
const SESSION: &str = "
    set idle_in_transaction_session_timeout = '15s';
    set lock_timeout = '8s'";
const LOCK: &str = "select pg_advisory_xact_lock(hashtextextended($1, 0))";
const INSERT: &str = "
    insert into outbox_event (event_id, topic, key, event_type, source, payload)
    select e.id::uuid, e.topic, $2, 'OrderCreated', $5,
           json_build_object('orderId', $2::text, 'productId', $3::text, 'more', repeat('x', $4))
    from unnest($1::text[], $6::text[]) with ordinality e(id, topic, n) order by e.n";

/// One writer.
pub(crate) struct Writer {
    port: u16,
    product: String,
    keys: Vec<String>,
    /// Its transactions stay open for seconds.
    is_late: bool,
    random: Random,
    progress: Arc<Progress>,
    client: Option<Client>,
    ledger: Ledger,
}

impl Writer {
    /// It finds Postgres at a port of this machine. Its events are for a product of its own.
    pub(crate) fn new(number: usize, port: u16, random: Random, progress: &Arc<Progress>) -> Self {
        Self {
            port,
            product: format!("written-{number}"),
            keys: (0..KEYS).map(|_| Uuid::now_v7().to_string()).collect(),
            is_late: number == 0,
            random,
            progress: Arc::clone(progress),
            client: None,
            ledger: Ledger::default(),
        }
    }

    /// Writes until it is to stop.
    pub(crate) async fn run(mut self) -> Ledger {
        while !self.progress.is_over() {
            let connected = match self.client.take() {
                Some(client) => Some(client),
                None => open(self.port).await.ok(),
            };
            if let Some(client) = connected
                && self.transaction(&client).await
            {
                self.client = Some(client);
            }
            sleep(self.random.millis(20, 200)).await;
        }
        self.ledger
    }

    /// Does a transaction; false when the connection is of no use any more.
    async fn transaction(&mut self, client: &Client) -> bool {
        let (mut kept, mut taken_back) = (Vec::new(), Vec::new());
        let written = self.write(client, &mut kept, &mut taken_back).await;
        self.remember(taken_back, Outcome::NotDone);
        if written.is_err() {
            // It was not asked to commit, and never will be.
            self.remember(kept, Outcome::NotDone);
            return false;
        }
        let commits = !self.random.one_in(8);
        let end = if commits { "commit" } else { "rollback" };
        let ended = within(client.batch_execute(end)).await;
        let outcome = match (commits, &ended) {
            (true, Ok(())) => Outcome::Done,
            (true, Err(_)) => Outcome::Unknown,
            (false, _) => Outcome::NotDone,
        };
        if outcome == Outcome::Done {
            self.progress.events(kept.len());
        }
        self.remember(kept, outcome);
        ended.is_ok()
    }

    /// All before the end of a transaction: the events that it ends with, and those it took back.
    async fn write(
        &mut self,
        client: &Client,
        kept: &mut Vec<String>,
        taken_back: &mut Vec<String>,
    ) -> Result<()> {
        within(client.batch_execute("begin")).await?;
        let key = self.random.below(KEYS);
        // In the order of their places, as all do who lock several.
        let keys = key..(key + 1 + self.random.below(2)).min(KEYS);
        for key in keys {
            self.insert(client, key, kept).await?;
            if self.random.one_in(6) {
                within(client.batch_execute("savepoint before")).await?;
                self.insert(client, key, taken_back).await?;
                within(client.batch_execute("rollback to before")).await?;
            }
        }
        if self.is_late {
            sleep(self.random.millis(100, 6_000)).await;
        }
        Ok(())
    }

    async fn insert(
        &mut self,
        client: &Client,
        key: usize,
        events: &mut Vec<String>,
    ) -> Result<()> {
        let count = 1 + self
            .random
            .below(if self.random.clone().one_in(5) { 40 } else { 4 });
        let ids: Vec<String> = (0..count).map(|_| Uuid::now_v7().to_string()).collect();
        let topics: Vec<&str> = (0..count)
            .map(|_| self.random.of(&[TOPICS[0], FOREIGN_TOPIC]))
            .collect();
        let size = i32::try_from(self.random.below(400)).expect("it is small");
        let key = &self.keys[key];
        events.extend(ids.iter().cloned());
        within(client.execute(LOCK, &[key])).await?;
        within(client.execute(INSERT, &[&ids, key, &self.product, &size, &SOURCE, &topics]))
            .await?;
        Ok(())
    }

    fn remember(&mut self, events: Vec<String>, outcome: Outcome) {
        if !events.is_empty() {
            self.ledger.transactions.push(Written { events, outcome });
        }
    }
}

async fn open(port: u16) -> Result<Client> {
    let opened = timeout(STATEMENT_WITHIN, async {
        let client = connect(port).await?;
        client.batch_execute(SESSION).await?;
        Ok(client)
    });
    opened.await?
}

async fn within<T>(statement: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T> {
    match timeout(STATEMENT_WITHIN, statement).await {
        Ok(done) => Ok(done?),
        Err(_) => bail!("no answer within {STATEMENT_WITHIN:?}"),
    }
}
