//! A proxy before Kafka that makes it fail as networks and brokers do, for one topic or for all.
//!
//! Clients stay with it: it puts its own port into the addresses brokers give out.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// The protocol's number of a produce request.
const PRODUCE: [u8; 2] = [0, 0];

/// What happens to a produce request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The connection is closed before the broker sees it.
    Refuse,
    /// The broker gets it and its answer is lost with the connection: the outcome is unknown.
    LoseAnswer,
    /// Nobody answers, and the connection stays.
    Mute,
    /// The broker gets it, and its answer comes when the fault is healed.
    LateAnswer,
}

/// See the module. Ends with this value.
#[derive(Debug)]
pub struct KafkaProxy {
    address: SocketAddr,
    faults: Arc<Faults>,
    _tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Faults {
    /// Topics and what happens to produce requests for them.
    topics: Mutex<Vec<(String, Fault)>>,
    mute: AtomicBool,
    /// The broker knows no ids of topics.
    old: AtomicBool,
    accepted: AtomicUsize,
}

impl KafkaProxy {
    /// Listens on a free port before the broker at `broker` (`127.0.0.1:port`).
    ///
    /// # Panics
    /// When no port is to be had.
    pub async fn start(broker: &str) -> Self {
        let broker: SocketAddr = broker.parse().expect("the local stack's address is one");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let faults = Arc::<Faults>::default();
        let mut tasks = JoinSet::new();
        let shared = Arc::clone(&faults);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let faults = Arc::clone(&shared);
                faults.accepted.fetch_add(1, Ordering::SeqCst);
                connections.spawn(connection(client, broker, address, faults));
            }
        });
        Self {
            address,
            faults,
            _tasks: tasks,
        }
    }

    /// For `KAFKA_BROKERS`.
    pub fn brokers(&self) -> String {
        self.address.to_string()
    }

    /// From now on produce requests for `topic` fail like this; `None` heals it.
    pub fn set(&self, topic: &str, fault: Option<Fault>) {
        let mut topics = self.faults.topics();
        topics.retain(|(other, _)| other != topic);
        topics.extend(fault.map(|fault| (topic.to_owned(), fault)));
    }

    /// While `mute`, connections are accepted and nothing is answered, whatever is asked. One that
    /// was asked something meanwhile stays mute for ever, as behind a firewall that forgot it.
    pub fn set_mute(&self, mute: bool) {
        self.faults.mute.store(mute, Ordering::SeqCst);
    }

    /// From now on clients that ask take the broker for one of before Kafka 3.1, which knows topics by
    /// name only.
    pub fn hide_topic_ids(&self) {
        self.faults.old.store(true, Ordering::SeqCst);
    }

    /// How many connections were made so far.
    pub fn accepted(&self) -> usize {
        self.faults.accepted.load(Ordering::SeqCst)
    }
}

impl Faults {
    fn topics(&self) -> MutexGuard<'_, Vec<(String, Fault)>> {
        locked(&self.topics)
    }

    /// Waits until no answer is to come late any more.
    async fn until_answers_come(&self) {
        let late = || self.topics().iter().any(|(_, f)| *f == Fault::LateAnswer);
        while late() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn unless_mute(&self) {
        if self.mute.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is to happen to this request.
fn fault_of(faults: &Faults, request: &[u8]) -> Option<Fault> {
    if !request.starts_with(&PRODUCE) {
        return None;
    }
    faults
        .topics()
        .iter()
        .find(|(topic, _)| contains(request, topic.as_bytes()))
        .map(|(_, fault)| fault.clone())
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|part| part == needle)
}

async fn connection(client: TcpStream, broker: SocketAddr, own: SocketAddr, faults: Arc<Faults>) {
    let Ok(server) = TcpStream::connect(broker).await else {
        return;
    };
    // Without it a delayed acknowledgement would make every request slow.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let (losing, late) = (Mutex::new(false), Mutex::new(false));
    // Either direction ending ends the connection.
    tokio::select! {
        _ = requests(client_read, server_write, &faults, (&losing, &late)) => {}
        _ = answers(server_read, client_write, (broker, own), &faults, (&losing, &late)) => {}
    }
}

async fn requests(
    mut client: OwnedReadHalf,
    mut broker: OwnedWriteHalf,
    faults: &Faults,
    (losing, late): (&Mutex<bool>, &Mutex<bool>),
) -> std::io::Result<()> {
    loop {
        let request = frame(&mut client).await?;
        faults.unless_mute().await;
        match fault_of(faults, &request) {
            None => {}
            Some(Fault::Refuse) => return Ok(()),
            Some(Fault::LoseAnswer) => {
                *locked(losing) = true;
            }
            Some(Fault::Mute) => std::future::pending().await,
            Some(Fault::LateAnswer) => *locked(late) = true,
        }
        send(&mut broker, &request).await?;
    }
}

async fn answers(
    mut broker: OwnedReadHalf,
    mut client: OwnedWriteHalf,
    (theirs, own): (SocketAddr, SocketAddr),
    faults: &Faults,
    (losing, late): (&Mutex<bool>, &Mutex<bool>),
) -> std::io::Result<()> {
    let host = theirs.ip().to_string();
    let address = |port: u16| [host.as_bytes(), &u32::from(port).to_be_bytes()].concat();
    let (from, to) = (address(theirs.port()), address(own.port()));
    loop {
        let mut answer = frame(&mut broker).await?;
        faults.unless_mute().await;
        if *locked(losing) {
            return Ok(());
        }
        if std::mem::take(&mut *locked(late)) {
            faults.until_answers_come().await;
        }
        if let Some(place) = answer.windows(from.len()).position(|part| part == from) {
            answer[place..place + from.len()].copy_from_slice(&to);
        }
        if faults.old.load(Ordering::SeqCst) {
            offer_old_fetches(&mut answer);
        }
        send(&mut client, &answer).await?;
    }
}

/// Lets an answer that says which versions of fetch requests there are end with the twelfth.
fn offer_old_fetches(answer: &mut [u8]) {
    // Of 4 to at least 13, the first of which all brokers know that have no older ones.
    const FETCH: [u8; 5] = [0, 1, 0, 4, 0];
    // That it is short tells it from the records that others fetch.
    if answer.len() < 2_000
        && let Some(place) = answer.windows(FETCH.len()).position(|part| part == FETCH)
        && let Some(latest) = answer.get_mut(place + FETCH.len())
        && (13..40).contains(latest)
    {
        *latest = 12;
    }
}

/// One message: a length in four bytes, then as many.
async fn frame(from: &mut OwnedReadHalf) -> std::io::Result<Vec<u8>> {
    let length = from.read_u32().await?;
    let mut message = vec![0; usize::try_from(length).map_err(std::io::Error::other)?];
    from.read_exact(&mut message).await?;
    Ok(message)
}

async fn send(to: &mut OwnedWriteHalf, message: &[u8]) -> std::io::Result<()> {
    let length = u32::try_from(message.len()).map_err(std::io::Error::other)?;
    to.write_all(&[&length.to_be_bytes(), message].concat())
        .await
}
