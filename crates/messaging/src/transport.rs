//! Ways to a broker, tried beside one another: one that is mute costs those that wait for it little.

use std::net::SocketAddr;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, sleep_until, timeout};

use crate::brokers::Address;
use crate::error::KafkaError;

/// How alternatives are tried.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Race {
    /// Another one begins when one has failed, or said nothing for so long.
    pub(crate) stagger: Duration,
    /// Once each had its turn, another attempt begins each time that this has passed. A connection
    /// that a broker was mute on may stay so after new ones work.
    pub(crate) again: Option<Duration>,
    /// For all of it.
    pub(crate) deadline: Duration,
}

/// The addresses that a name stands for, as RFC 8305 tries them.
const ADDRESSES: Race = Race {
    stagger: Duration::from_millis(250),
    again: None,
    deadline: Duration::from_secs(10),
};

impl Race {
    /// The first success of trying each of `alternatives`, all of which go on until then.
    ///
    /// # Errors
    /// When all have failed, or at the deadline: what a broker answered, if one did.
    pub(crate) async fn run<A: Clone, T, Attempt>(
        self,
        alternatives: &[A],
        attempt: impl Fn(A) -> Attempt,
    ) -> Result<T, KafkaError>
    where
        Attempt: Future<Output = Result<T, KafkaError>>,
    {
        let mut failure = None;
        let racing = self.race(alternatives, attempt, &mut failure);
        match timeout(self.deadline, racing).await {
            Ok(Some(success)) => Ok(success),
            Ok(None) => Err(failure
                .unwrap_or_else(|| KafkaError::Connection("no address to connect to".to_owned()))),
            Err(_) => Err(failure
                .filter(KafkaError::is_answer)
                .unwrap_or(KafkaError::Deadline(self.deadline))),
        }
    }

    /// `None` when all have failed.
    async fn race<A: Clone, T, Attempt>(
        self,
        alternatives: &[A],
        attempt: impl Fn(A) -> Attempt,
        failure: &mut Option<KafkaError>,
    ) -> Option<T>
    where
        Attempt: Future<Output = Result<T, KafkaError>>,
    {
        let mut attempts = FuturesUnordered::<Attempt>::new();
        let mut turns = alternatives.iter().cycle();
        let mut first_turns = alternatives.len();
        let mut next = Some(Instant::now());
        loop {
            let due = async {
                match next {
                    Some(next) => sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(outcome) = attempts.next() => match outcome {
                    Ok(success) => return Some(success),
                    Err(error) => {
                        // What a broker says tells more than that another is out of reach.
                        if error.is_answer() || !failure.as_ref().is_some_and(KafkaError::is_answer) {
                            *failure = Some(error);
                        }
                        if first_turns > 0 {
                            next = Some(Instant::now());
                        } else if attempts.is_empty() {
                            return None;
                        }
                    }
                },
                () = due => {
                    attempts.push(attempt(turns.next()?.clone()));
                    first_turns = first_turns.saturating_sub(1);
                    let pause = if first_turns > 0 { Some(self.stagger) } else { self.again };
                    next = pause.map(|pause| Instant::now() + pause);
                }
            }
        }
    }
}

/// Connects to each of the addresses that a broker's name stands for, and makes sure by `greet` that
/// somebody is there: the first that answers counts.
pub(crate) async fn connect<T, Greeting>(
    address: &Address,
    greet: impl Fn(TcpStream) -> Greeting,
) -> Result<T, KafkaError>
where
    Greeting: Future<Output = Result<T, KafkaError>>,
{
    let failed = |error: std::io::Error| KafkaError::Connection(format!("{address}: {error}"));
    let found = timeout(
        ADDRESSES.deadline,
        lookup_host((address.host.as_str(), address.port)),
    );
    let found = found
        .await
        .map_err(|_| KafkaError::Deadline(ADDRESSES.deadline))?
        .map_err(failed)?;
    let greet = &greet;
    ADDRESSES
        .run(&alternating(found.collect()), |found| async move {
            let stream = TcpStream::connect(found).await.map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            greet(stream).await
        })
        .await
}

/// The same addresses, IPv6 and IPv4 in turn: where one of them leads nowhere, it does so at once
/// for all of its kind.
fn alternating(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == first_is_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut all = Vec::new();
    loop {
        let (one, other) = (first.next(), second.next());
        if one.is_none() && other.is_none() {
            return all;
        }
        all.extend(one);
        all.extend(other);
    }
}

#[cfg(test)]
mod tests {
    use local_stack::testing::Mute;
    use tokio::net::TcpListener;

    use super::*;

    const QUICK: Duration = Duration::from_secs(3);

    fn race() -> Race {
        Race {
            again: Some(Duration::from_secs(2)),
            ..ADDRESSES
        }
    }

    fn broken(text: &str) -> KafkaError {
        KafkaError::Connection(text.to_owned())
    }

    #[tokio::test]
    async fn an_address_that_drops_packets_is_passed_by_after_a_moment() {
        let dropping = Mute::dropping().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let sound = listener.local_addr().unwrap();
        let begun = Instant::now();
        let connected = race()
            .run(&[dropping.address(), sound], |address| async move {
                let connecting = TcpStream::connect(address).await;
                connecting.map_err(|error| broken(&error.to_string()))
            })
            .await
            .unwrap();
        assert_eq!(connected.peer_addr().unwrap(), sound);
        assert!(begun.elapsed() < QUICK, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_fails_makes_room_for_the_next_at_once() {
        let begun = Instant::now();
        let won = race()
            .run(&[1, 2, 3], |number| async move {
                if number == 3 {
                    Ok(number)
                } else {
                    Err(broken("refused"))
                }
            })
            .await;
        assert_eq!(won.unwrap(), 3);
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_slow_still_counts() {
        let won = race()
            .run(&[1, 2], |number| async move {
                if number == 1 {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    return Ok(number);
                }
                std::future::pending().await
            })
            .await;
        assert_eq!(won.unwrap(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_say_nothing_are_tried_again() {
        let attempts = std::cell::Cell::new(0);
        let won = race()
            .run(&["mute for a while"], |_| {
                attempts.set(attempts.get() + 1);
                let number = attempts.get();
                async move {
                    if number == 3 {
                        return Ok(number);
                    }
                    std::future::pending().await
                }
            })
            .await;
        assert_eq!(won.unwrap(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_broker_answers_tells_more_than_that_others_are_away() {
        let answered = KafkaError::hidden_topic();
        let lost: Result<(), _> = race()
            .run(&[Some(answered), None], |answer| async move {
                Err(answer.unwrap_or_else(|| broken("away")))
            })
            .await;
        assert!(lost.unwrap_err().is_unknown_topic());
        let nobody: Result<(), _> = race().run(&[] as &[u8], |_| async { Ok(()) }).await;
        assert!(matches!(nobody, Err(KafkaError::Connection(_))));
        let mute: Result<(), _> = race()
            .run(&[1], |_| async { std::future::pending().await })
            .await;
        assert!(matches!(mute, Err(KafkaError::Deadline(_))));
    }

    #[tokio::test]
    async fn an_address_that_says_nothing_is_passed_by() {
        let mute = Mute::accepting().await;
        let address = Address {
            host: "127.0.0.1".to_owned(),
            port: mute.address().port(),
        };
        let begun = Instant::now();
        let race = Race {
            deadline: Duration::from_secs(1),
            ..ADDRESSES
        };
        let greeting = race
            .run(&[address], |address| async move {
                connect(&address, |stream| async move {
                    let heard = stream.peek(&mut [0]).await;
                    heard.map_err(|error| broken(&error.to_string()))
                })
                .await
            })
            .await;
        assert!(matches!(greeting, Err(KafkaError::Deadline(_))));
        assert!(begun.elapsed() < QUICK);
    }

    #[test]
    fn kinds_of_addresses_take_turns_the_first_kind_first() {
        let all = |addresses: &[&str]| -> Vec<SocketAddr> {
            addresses.iter().map(|a| a.parse().unwrap()).collect()
        };
        assert_eq!(
            alternating(all(&["[::1]:1", "[::2]:1", "10.0.0.1:1", "10.0.0.2:1"])),
            all(&["[::1]:1", "10.0.0.1:1", "[::2]:1", "10.0.0.2:1"])
        );
        assert_eq!(alternating(all(&["10.0.0.1:1"])), all(&["10.0.0.1:1"]));
    }
}
