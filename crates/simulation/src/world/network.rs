//! Requests: when they arrive, whether they arrive, and whether their answers do.

use std::time::Duration;

use rand::RngExt;
use tokio::sync::oneshot;

use super::trouble::Side;
use super::{Fault, Host, World};

/// What a request is sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Server {
    Postgres,
    Broker(usize),
}

impl Server {
    fn side(self) -> Side {
        match self {
            Self::Postgres => Side::Postgres,
            Self::Broker(_) => Side::Kafka,
        }
    }
}

/// The connection broke, or was refused. Whether the request took effect is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken;

/// What becomes of one request.
#[derive(Debug, Clone, Copy)]
struct Fate {
    out: Duration,
    back: Duration,
    end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Answered,
    /// At once, by a machine that is there.
    Refused,
    /// It never arrives, and nobody says so.
    Vanishes,
    /// It arrives, and nobody says so.
    Unheard,
    /// It arrives, and the connection breaks.
    Breaks,
}

impl World {
    fn fate(&mut self, host: &Host, to: Server, now: Duration) -> Fate {
        let mut slowest = 1_500;
        let mut end = End::Answered;
        for fault in self.trouble.now(now) {
            match fault {
                Fault::Down(server) if *server == to => end = End::Refused,
                Fault::Mute(server) if *server == to => end = End::Vanishes,
                Fault::Cut(cut, side) if *cut == host.id && *side == to.side() => {
                    end = End::Vanishes;
                }
                Fault::LosesAnswers(server, share)
                    if *server == to && self.random.random_range(0..100) < *share =>
                {
                    end = if self.random.random() {
                        End::Unheard
                    } else {
                        End::Breaks
                    };
                }
                Fault::LosesRequests(server, share)
                    if *server == to && self.random.random_range(0..100) < *share =>
                {
                    end = if self.random.random() {
                        End::Vanishes
                    } else {
                        End::Refused
                    };
                }
                Fault::Slow(server, most) if *server == to => {
                    slowest = slowest.max(most * 1_000);
                }
                _ => {}
            }
        }
        let mut latency = || Duration::from_micros(self.random.random_range(100..=slowest));
        Fate {
            out: latency(),
            back: latency(),
            end,
        }
    }
}

impl Host {
    /// Sends a request and waits for its answer, for ever if none comes: the caller has a deadline.
    ///
    /// `serve` is what the server does. It goes on whatever becomes of the caller, and returns `None`
    /// if the server dies of it.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn request<T: Send + 'static>(
        &self,
        to: Server,
        serve: impl Future<Output = Option<T>> + Send + 'static,
    ) -> Result<T, Broken> {
        self.awake().await;
        let now = self.sim.now();
        let fate = self.sim.world().fate(self, to, now);
        let (answer, answered) = oneshot::channel();
        match fate.end {
            End::Refused => {
                tokio::time::sleep(fate.out).await;
                self.awake().await;
                return Err(Broken);
            }
            End::Vanishes => std::future::pending().await,
            End::Answered | End::Unheard | End::Breaks => {
                tokio::spawn(async move {
                    tokio::time::sleep(fate.out).await;
                    let served = serve.await;
                    tokio::time::sleep(fate.back).await;
                    match (fate.end, served) {
                        (End::Answered, Some(served)) => drop(answer.send(served)),
                        // Nobody says anything.
                        (End::Unheard, _) => {
                            let _answer = answer;
                            std::future::pending::<()>().await;
                        }
                        _ => drop(answer),
                    }
                });
            }
        }
        let served = answered.await;
        self.awake().await;
        served.map_err(|_| Broken)
    }
}
