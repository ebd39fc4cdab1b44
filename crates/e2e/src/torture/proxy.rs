//! A way to a server through which everything of one client goes, and what can be wrong with it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Answers with addresses of brokers are shorter, and searching long ones takes time.
const LONGEST_SEARCHED: usize = 32 << 10;
const CHUNK: usize = 16 << 10;

/// What a way is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    Open,
    /// Connections are closed, old ones and new ones.
    Cut,
    /// Whatever is sent takes this much longer, in either direction.
    Slow(Duration),
    /// Connections stay and are accepted, and nothing comes through before this ends.
    Mute,
    /// The server gets the requests, and its answers do not come through before this ends.
    WithoutAnswers,
}

impl Condition {
    /// In a report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Cut => "cut",
            Self::Slow(_) => "slow",
            Self::Mute => "mute",
            Self::WithoutAnswers => "without answers",
        }
    }

    fn passes(self, direction: Direction) -> bool {
        match self {
            Self::Open | Self::Slow(_) => true,
            Self::Cut | Self::Mute => false,
            Self::WithoutAnswers => direction == Direction::Requests,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Requests,
    Answers,
}

/// Addresses as brokers give them out, and those to be given out instead, as the protocol writes
/// them. Empty before it is set.
pub(crate) type Addresses = Arc<OnceLock<Vec<(Vec<u8>, Vec<u8>)>>>;

/// See the module. Ends with this value.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    target: watch::Sender<u16>,
    condition: watch::Sender<Condition>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// Listens on a free port and leads to the Postgres at `target`, a port of this machine.
    pub(crate) async fn to_postgres(target: u16) -> Result<Self> {
        Self::start(target, None).await
    }

    /// The same to a broker. What it says about addresses is replaced.
    pub(crate) async fn to_kafka(target: u16, addresses: &Addresses) -> Result<Self> {
        Self::start(target, Some(Arc::clone(addresses))).await
    }

    async fn start(target: u16, addresses: Option<Addresses>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let (target, leads_to) = watch::channel(target);
        let (condition, conditions) = watch::channel(Condition::Open);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let target = *leads_to.borrow();
                let (conditions, addresses) = (conditions.clone(), addresses.clone());
                connections.spawn(connection(client, target, conditions, addresses));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self {
            port,
            target,
            condition,
            _tasks: tasks,
        })
    }

    /// On `127.0.0.1`.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Leads new connections to another server. Those that exist stay where they are.
    pub(crate) fn lead_to(&self, target: u16) {
        self.target.send_replace(target);
    }

    /// What it is like from now on.
    pub(crate) fn set(&self, condition: Condition) {
        self.condition.send_replace(condition);
    }
}

/// Host and port as Kafka's answers have them.
pub(crate) fn address(port: u16) -> Vec<u8> {
    [b"127.0.0.1".as_slice(), &u32::from(port).to_be_bytes()].concat()
}

async fn connection(
    client: TcpStream,
    target: u16,
    mut condition: watch::Receiver<Condition>,
    addresses: Option<Addresses>,
) {
    if *condition.borrow() == Condition::Cut {
        return;
    }
    // Behind a way that is mute nobody is asked.
    passable(&mut condition, Direction::Requests).await;
    let server = SocketAddr::from((Ipv4Addr::LOCALHOST, target));
    let Ok(server) = TcpStream::connect(server).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let (mut requests, mut answers) = (condition.clone(), condition.clone());
    // Either direction ending ends the connection.
    tokio::select! {
        _ = pass(client_read, server_write, &mut requests) => {}
        _ = async { match addresses {
            None => pass_answers(server_read, client_write, &mut answers).await,
            Some(addresses) => rewrite(server_read, client_write, &mut answers, &addresses).await,
        }} => {}
        _ = condition.wait_for(|condition| *condition == Condition::Cut) => {}
    }
}

/// Returns once something may come through, as late as it does.
async fn passable(condition: &mut watch::Receiver<Condition>, direction: Direction) {
    let passes = condition.wait_for(|condition| condition.passes(direction));
    // The proxy ends with all that it passes on.
    let Ok(condition) = passes.await.map(|condition| *condition) else {
        return;
    };
    if let Condition::Slow(delay) = condition {
        tokio::time::sleep(delay).await;
    }
}

async fn pass(
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    condition: &mut watch::Receiver<Condition>,
) -> std::io::Result<()> {
    pass_bytes(from, to, condition, Direction::Requests).await
}

async fn pass_answers(
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    condition: &mut watch::Receiver<Condition>,
) -> std::io::Result<()> {
    pass_bytes(from, to, condition, Direction::Answers).await
}

async fn pass_bytes(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    condition: &mut watch::Receiver<Condition>,
    direction: Direction,
) -> std::io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = from.read(&mut chunk).await?;
        passable(condition, direction).await;
        if length == 0 {
            return Ok(());
        }
        to.write_all(&chunk[..length]).await?;
    }
}

/// Passes Kafka's answers on, each a length in four bytes and then as many, with other addresses.
async fn rewrite(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    condition: &mut watch::Receiver<Condition>,
    addresses: &Addresses,
) -> std::io::Result<()> {
    loop {
        let length = from.read_u32().await?;
        let mut answer = vec![0; usize::try_from(length).map_err(std::io::Error::other)?];
        from.read_exact(&mut answer).await?;
        replace(&mut answer, addresses.get().map_or(&[], Vec::as_slice));
        passable(condition, Direction::Answers).await;
        to.write_all(&[&length.to_be_bytes(), answer.as_slice()].concat())
            .await?;
    }
}

fn replace(answer: &mut [u8], addresses: &[(Vec<u8>, Vec<u8>)]) {
    if answer.len() > LONGEST_SEARCHED {
        return;
    }
    for place in 0..answer.len() {
        for (theirs, ours) in addresses {
            if answer[place..].starts_with(theirs) {
                answer[place..place + ours.len()].copy_from_slice(ours);
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_replaced_once() {
        // The first broker's port is what the second is led to.
        let addresses = [(address(1), address(2)), (address(2), address(3))];
        let mut answer = [address(2), vec![9], address(1), address(4)].concat();
        replace(&mut answer, &addresses);
        assert_eq!(
            answer,
            [address(3), vec![9], address(2), address(4)].concat()
        );
    }
}
