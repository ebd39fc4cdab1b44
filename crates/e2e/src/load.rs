//! A burst: several clients place orders at the same time, and a writer of SQL commits events of a
//! few keys beside them, until they are told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use anyhow::Result;
use domain::Order;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::api::Api;
use crate::books::Books;
use crate::eventually::{Seen, eventually};
use crate::world::World;

const CLIENTS: usize = 4;
/// Few keys of many events each, so that their order can be seen.
const FOREIGN_KEYS: usize = 3;

/// A burst under way; dropped, it ends.
pub(crate) struct Load {
    product: String,
    shared: Arc<Shared>,
    clients: JoinSet<Result<Vec<Order>>>,
    /// Returns how many events it wrote.
    writer: JoinSet<Result<usize>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    accepted: AtomicI64,
}

impl Load {
    /// Orders are for `product`, events by SQL for the same with `-sql` behind.
    pub(crate) async fn start(world: &World, product: &str) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let (api, product) = (world.api.clone(), product.to_owned());
            clients.spawn(place(api, product, Arc::clone(&shared)));
        }
        let books = Books::open(&world.addresses.database_url).await?;
        let mut writer = JoinSet::new();
        writer.spawn(write(books, foreign(product), Arc::clone(&shared)));
        Ok(Self {
            product: product.to_owned(),
            shared,
            clients,
            writer,
        })
    }

    /// Waits until so many more orders were accepted, and returns how many they were.
    pub(crate) async fn more(&self, orders: i64) -> Result<i64> {
        let before = self.shared.accepted.load(Ordering::Relaxed);
        eventually("more orders to be accepted", async || {
            let accepted = self.shared.accepted.load(Ordering::Relaxed) - before;
            Ok(if accepted >= orders {
                Seen::Done(accepted)
            } else {
                Seen::NotYet(format!("{accepted} were"))
            })
        })
        .await
    }

    /// Ends the burst and enters what was accepted into the account.
    pub(crate) async fn finish(mut self, world: &mut World) -> Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        while let Some(placed) = self.clients.join_next().await {
            for order in placed?? {
                world.account.accepted(&order);
            }
        }
        while let Some(written) = self.writer.join_next().await {
            for _ in 0..written?? {
                world.account.foreign(&foreign(&self.product));
            }
        }
        Ok(())
    }
}

fn foreign(product: &str) -> String {
    format!("{product}-sql")
}

async fn place(api: Api, product: String, shared: Arc<Shared>) -> Result<Vec<Order>> {
    let mut orders = Vec::new();
    while !shared.stop.load(Ordering::Relaxed) {
        orders.push(api.place(&product, 2).await?);
        shared.accepted.fetch_add(1, Ordering::Relaxed);
    }
    Ok(orders)
}

async fn write(books: Books, product: String, shared: Arc<Shared>) -> Result<usize> {
    let keys = [(); FOREIGN_KEYS].map(|()| Uuid::now_v7().to_string());
    let mut written = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        books
            .write_event(&keys[written % FOREIGN_KEYS], &product)
            .await?;
        written += 1;
    }
    Ok(written)
}
