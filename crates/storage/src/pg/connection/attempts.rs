//! Which address a connection is made to: all of all hosts, in attempts that overlap.
//!
//! A name may stand for several addresses, and the first may drop packets, or take the connection
//! and say nothing. As RFC 8305 has it, the next attempt begins a moment after the last while that
//! one goes on, and the first server that can be used wins. Where that was is remembered: it is
//! tried first the next time, and after a round in which nobody answered another one is.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until};

use super::host::{Address, Host, HostAddress};

/// How long an attempt is alone before the next begins: what RFC 8305 recommends in section 8.
const HEAD_START: Duration = Duration::from_millis(250);

/// Why a server was not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: String,
    /// Whether trying again would end the same way.
    pub(super) lasting: bool,
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Self {
            reason,
            lasting: false,
        }
    }
}

/// What earlier rounds taught; shared by all connections to a database.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<Lessons>);

#[derive(Debug, Default)]
struct Lessons {
    worked: Option<Address>,
    /// Rounds in a row in which no server could be used.
    failed: usize,
}

impl Memory {
    fn lessons(&self) -> MutexGuard<'_, Lessons> {
        // Each write is one assignment: a panic leaves nothing half-written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn worked(&self, address: Address) {
        *self.lessons() = Lessons {
            worked: Some(address),
            failed: 0,
        };
    }

    fn failed(&self) {
        let mut lessons = self.lessons();
        lessons.worked = None;
        lessons.failed = lessons.failed.wrapping_add(1);
    }

    /// The place of an address in the order of attempts, given its host's and its own.
    fn rank(&self, address: &Address, host: (usize, usize), own: (usize, usize)) -> Rank {
        let lessons = self.lessons();
        let turned = |(nth, of): (usize, usize)| (nth + of - lessons.failed % of) % of;
        let is_new = lessons.worked.as_ref() != Some(address);
        (is_new, turned(host), turned(own))
    }
}

type Rank = (bool, usize, usize);

/// Tries the addresses of `hosts` until `attempt` succeeds with one, for as long as `limit`.
/// Attempts that have not ended by then are dropped.
///
/// # Errors
/// Each host or address with the reason why it was not used.
pub(super) async fn first_usable<T, R, A>(
    hosts: &[Host],
    limit: Duration,
    memory: &Memory,
    resolve: impl Fn(String, u16) -> R,
    attempt: impl Fn(Address) -> A,
) -> Result<T, Vec<(String, Refusal)>>
where
    R: Future<Output = io::Result<Vec<SocketAddr>>>,
    A: Future<Output = Result<T, Refusal>>,
{
    let give_up_at = Instant::now() + limit;
    let mut next_at = Instant::now();
    let lookups = hosts.iter().enumerate().map(|(nth, host)| {
        let found = addresses(host, &resolve);
        async move { (nth, found.await) }
    });
    let mut lookups: FuturesUnordered<_> = lookups.collect();
    let mut waiting: Vec<(Rank, Address)> = Vec::new();
    let mut attempts = FuturesUnordered::new();
    let mut silent: Vec<Address> = Vec::new();
    let mut refused: Vec<(String, Refusal)> = Vec::new();
    while !(lookups.is_empty() && waiting.is_empty() && attempts.is_empty()) {
        tokio::select! {
            biased;
            Some((nth, found)) = lookups.next() => match found {
                Ok(found) => {
                    let (host, of) = ((nth, hosts.len()), found.len());
                    let ranked = found.into_iter().enumerate().map(|(own, address)| {
                        (memory.rank(&address, host, (own, of)), address)
                    });
                    waiting.extend(ranked);
                    waiting.sort_by_key(|(rank, _)| std::cmp::Reverse(*rank));
                }
                Err(error) => refused.push((hosts[nth].to_string(), error.to_string().into())),
            },
            Some((address, outcome)) = attempts.next() => {
                silent.retain(|other| *other != address);
                match outcome {
                    Ok(usable) => {
                        memory.worked(address);
                        return Ok(usable);
                    }
                    Err(refusal) => refused.push((address.to_string(), refusal)),
                }
                next_at = Instant::now();
            }
            () = sleep_until(next_at), if !waiting.is_empty() => {
                // The last one has half of the time at least.
                let known = u32::try_from(waiting.len() + silent.len() + refused.len());
                let share = limit / 2 / known.unwrap_or(u32::MAX);
                next_at = Instant::now() + HEAD_START.min(share);
                if let Some((_, address)) = waiting.pop() {
                    silent.push(address.clone());
                    let outcome = attempt(address.clone());
                    attempts.push(async move { (address, outcome.await) });
                }
            }
            () = sleep_until(give_up_at) => break,
        }
    }
    memory.failed();
    let in_vain = || Refusal::from(format!("gave no answer within {limit:?}"));
    refused.extend(
        silent
            .iter()
            .map(|address| (address.to_string(), in_vain())),
    );
    if refused.is_empty() {
        let names = hosts.iter().map(|host| (host.to_string(), in_vain()));
        refused.extend(names);
    }
    Err(refused)
}

async fn addresses<R>(host: &Host, resolve: impl Fn(String, u16) -> R) -> io::Result<Vec<Address>>
where
    R: Future<Output = io::Result<Vec<SocketAddr>>>,
{
    match &host.place {
        HostAddress::Ip(ip) => Ok(vec![Address::Tcp((*ip, host.port).into())]),
        HostAddress::Folder(folder) => Ok(vec![Address::Unix(folder.clone(), host.port)]),
        HostAddress::Name(name) => match resolve(name.clone(), host.port).await? {
            none if none.is_empty() => Err(io::Error::other("has no address")),
            found => Ok(alternating(found)),
        },
    }
}

/// IPv4 and IPv6 by turns, beginning with the kind the resolver names first (RFC 8305, section 4):
/// often all of one kind are out of reach.
fn alternating(found: Vec<SocketAddr>) -> Vec<Address> {
    let first_kind = found.first().is_some_and(SocketAddr::is_ipv4);
    let (first, second): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|a| a.is_ipv4() == first_kind);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut order = Vec::new();
    loop {
        let pair = [first.next(), second.next()];
        if pair == [None, None] {
            return order;
        }
        order.extend(pair.into_iter().flatten().map(Address::Tcp));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn tcp(text: &str) -> Address {
        Address::Tcp(text.parse().unwrap())
    }

    fn named(name: &str) -> Host {
        Host {
            place: HostAddress::Name(name.to_owned()),
            port: 5432,
        }
    }

    /// Names with these addresses. Those at port 1 are mute, those at port 2 refuse.
    struct Network(Vec<(&'static str, Vec<&'static str>)>);

    impl Network {
        /// The addresses that were tried, and the one that was used.
        async fn round(&self, memory: &Memory, limit: u64) -> (Vec<Address>, Option<Address>) {
            let asked = RefCell::new(Vec::new());
            let hosts: Vec<Host> = self.0.iter().map(|(name, _)| named(name)).collect();
            let resolve = async |name: String, _| {
                let (_, found) = self.0.iter().find(|(known, _)| *known == name).unwrap();
                if found == &["never"] {
                    std::future::pending::<()>().await;
                }
                Ok(found.iter().map(|text| text.parse().unwrap()).collect())
            };
            let attempt = async |address: Address| {
                asked.borrow_mut().push(address.clone());
                match address {
                    Address::Tcp(mute) if mute.port() == 1 => std::future::pending().await,
                    Address::Tcp(closed) if closed.port() == 2 => {
                        Err(Refusal::from("refused".to_owned()))
                    }
                    usable => Ok(usable),
                }
            };
            let limit = Duration::from_millis(limit);
            let used = first_usable(&hosts, limit, memory, resolve, attempt).await;
            (asked.into_inner(), used.ok())
        }
    }

    #[tokio::test]
    async fn a_name_whose_first_address_is_mute_is_reached_at_the_next() {
        let memory = Memory::default();
        let network = Network(vec![(
            "db",
            vec!["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:5432"],
        )]);
        let usable = tcp("10.0.0.3:5432");
        let (asked, used) = network.round(&memory, 3_000).await;
        assert_eq!((asked.len(), used.as_ref()), (3, Some(&usable)));
        let (asked, used) = network.round(&memory, 3_000).await;
        assert_eq!((asked, used), (vec![usable.clone()], Some(usable)));
    }

    #[tokio::test]
    async fn every_address_has_its_share_of_little_time() {
        let mut many = vec!["10.0.0.1:1"; 30];
        many.push("10.0.0.2:5432");
        let (asked, used) = Network(vec![("db", many)])
            .round(&Memory::default(), 400)
            .await;
        assert_eq!((asked.len(), used), (31, Some(tcp("10.0.0.2:5432"))));
    }

    #[tokio::test]
    async fn a_name_that_is_not_resolved_holds_nobody_up() {
        let network = Network(vec![("slow", vec!["never"]), ("db", vec!["10.0.0.2:5432"])]);
        let (_, used) = network.round(&Memory::default(), 10_000).await;
        assert_eq!(used, Some(tcp("10.0.0.2:5432")));
    }

    #[tokio::test]
    async fn after_a_round_in_vain_the_next_begins_elsewhere() {
        let memory = Memory::default();
        let network = Network(vec![
            ("a", vec!["10.0.0.1:2", "10.0.0.2:2"]),
            ("b", vec!["10.0.0.3:2", "10.0.0.4:2"]),
        ]);
        let mut first = Vec::new();
        for _ in 0..3 {
            let (asked, used) = network.round(&memory, 1_000).await;
            assert_eq!((asked.len(), used), (4, None));
            first.push(asked[0].clone());
        }
        assert_eq!(first, ["10.0.0.1:2", "10.0.0.4:2", "10.0.0.1:2"].map(tcp));
    }

    #[test]
    fn kinds_of_addresses_alternate() {
        let found = ["[::1]:1", "[::2]:1", "10.0.0.1:1"];
        let found = found.map(|text| text.parse().unwrap()).to_vec();
        let order = ["[::1]:1", "10.0.0.1:1", "[::2]:1"].map(tcp);
        assert_eq!(alternating(found), order);
    }
}
