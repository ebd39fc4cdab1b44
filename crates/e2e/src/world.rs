//! What the steps share: the ways into a running deployment, and our own account of what was
//! ordered, which everything else must agree with.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use domain::{EventType, Order, OrderCreated, OrderState};
use messaging::Cluster;
use reqwest::StatusCode;

use crate::api::{Api, parse_order};
use crate::books::{Books, Counts, Sales};
use crate::deployment::Addresses;
use crate::eventually::{Seen, eventually};
use crate::topic::{Topic, first_occurrences};

/// A running deployment, seen from outside.
pub(crate) struct World {
    pub(crate) addresses: Addresses,
    pub(crate) api: Api,
    pub(crate) books: Books,
    pub(crate) cluster: Cluster,
    /// `order.created`.
    pub(crate) topic: Topic,
    pub(crate) account: Account,
}

/// What was ordered.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// Orders that the API accepted.
    orders: i64,
    /// Events that were written by SQL, past the API.
    foreign: i64,
    /// Orders that were cancelled.
    cancelled: i64,
    sales: Sales,
    /// Keys of records that we wrote to Kafka ourselves.
    strays: BTreeSet<Vec<u8>>,
}

impl Account {
    /// The API accepted this order.
    pub(crate) fn accepted(&mut self, order: &Order) {
        self.orders += 1;
        self.sold(order.product_id.as_str(), order.quantity.get().into());
    }

    /// The API cancelled this order.
    pub(crate) fn cancelled(&mut self, order: &Order) {
        self.cancelled += 1;
        let (orders, units) = self.sales.entry(order.product_id.to_string()).or_default();
        *orders -= 1;
        *units -= i64::from(order.quantity.get());
    }

    /// An event for one unit was committed by SQL.
    pub(crate) fn foreign(&mut self, product: &str) {
        self.foreign += 1;
        self.sold(product, 1);
    }

    /// We wrote a record with this key to Kafka, past the outbox.
    pub(crate) fn stray(&mut self, key: &[u8]) {
        self.strays.insert(key.to_vec());
    }

    fn sold(&mut self, product: &str, units: i64) {
        let (orders, sum) = self.sales.entry(product.to_owned()).or_default();
        *orders += 1;
        *sum += units;
    }

    /// Everything that must come through.
    pub(crate) fn events(&self) -> i64 {
        self.orders + self.foreign
    }
}

impl World {
    pub(crate) async fn open(addresses: Addresses) -> Result<Self> {
        let cluster = Cluster::new(addresses.kafka_brokers.parse()?);
        // Partitions that were created a moment ago may have no leader yet.
        let topic = eventually("the topic to be readable", async || {
            Ok(match Topic::open(&cluster, OrderCreated::TOPIC).await {
                Ok(topic) => Seen::Done(topic),
                Err(error) => Seen::NotYet(format!("{error:#}")),
            })
        })
        .await?;
        Ok(Self {
            api: Api::new(&addresses.api)?,
            books: Books::open(&addresses.database_url).await?,
            topic,
            cluster,
            addresses,
            account: Account::default(),
        })
    }

    /// Places an order and enters it into the account.
    pub(crate) async fn place(&mut self, product: &str, quantity: u16) -> Result<Order> {
        let order = self.api.place(product, quantity).await?;
        self.account.accepted(&order);
        Ok(order)
    }

    /// Cancels an order and enters that into the account.
    pub(crate) async fn cancel(&mut self, order: &Order) -> Result<Order> {
        let answer = self.api.cancel(order.id).await?;
        ensure!(answer.status == StatusCode::OK, "{}", answer.body);
        let cancelled = parse_order(&answer.body)?;
        let expected = Order {
            cancelled_at: cancelled.cancelled_at,
            ..order.clone()
        };
        ensure!(
            cancelled.state() == OrderState::Cancelled && cancelled == expected,
            "order {} was cancelled as {}",
            order.id,
            answer.body
        );
        self.account.cancelled(&cancelled);
        Ok(cancelled)
    }

    /// Commits an event by SQL and enters it into the account.
    pub(crate) async fn write_event(&mut self, key: &str, product: &str) -> Result<()> {
        self.books.write_event(key, product).await?;
        self.account.foreign(product);
        Ok(())
    }

    /// Waits until nothing is on its way any more.
    pub(crate) async fn settle(&self) -> Result<()> {
        let expected = self.account.events();
        eventually("every event to arrive in the inbox", async || {
            let counts = self.books.counts().await?;
            let arrived = counts.inbox >= expected && counts.cancelled >= self.account.cancelled;
            Ok(if arrived && counts.pending == 0 {
                Seen::Done(())
            } else {
                Seen::NotYet(format!("{expected} expected, {counts:?}"))
            })
        })
        .await
    }

    /// Every order once: in the orders, the outbox, the inbox and the effect, and nothing else
    /// there; and what Kafka has of each key is in the order it was written.
    pub(crate) async fn check_books(&mut self) -> Result<()> {
        let events = self.account.events();
        let expected = Counts {
            orders: self.account.orders,
            events,
            pending: 0,
            held: 0,
            published: events,
            inbox: events,
            cancelled: self.account.cancelled,
        };
        let counts = self.books.counts().await?;
        ensure!(
            counts == expected,
            "expected {expected:?}, there are {counts:?}"
        );
        let sales = self.books.sales().await?;
        ensure!(
            sales == self.account.sales,
            "product_sales differs from what was ordered: {}",
            differences(&self.account.sales, &sales)
        );
        let written = self.books.events_by_key().await?;
        let mut arrived = first_occurrences(self.topic.read().await?);
        for (key, ids) in &written {
            let there = arrived.remove(key).unwrap_or_default();
            ensure!(
                *ids == there,
                "key {}: written {ids:?}, in Kafka {there:?}",
                String::from_utf8_lossy(key)
            );
        }
        let unknown = arrived
            .keys()
            .find(|key| !self.account.strays.contains(*key));
        ensure!(
            unknown.is_none(),
            "Kafka has records of a key that nobody wrote: {:?}",
            unknown.map(|key| String::from_utf8_lossy(key))
        );
        Ok(())
    }
}

fn differences(expected: &Sales, actual: &Sales) -> String {
    let products: BTreeSet<&String> = expected.keys().chain(actual.keys()).collect();
    let differing = products.into_iter().filter_map(|product| {
        let (wanted, there) = (expected.get(product), actual.get(product));
        (wanted != there).then(|| {
            format!(
                "{product}: ordered {:?}, counted {:?} (orders, units)",
                wanted.unwrap_or(&(0, 0)),
                there.unwrap_or(&(0, 0))
            )
        })
    });
    differing.collect::<Vec<_>>().join("; ")
}
