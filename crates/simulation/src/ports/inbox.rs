//! The consumer's inbox, over the network.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::{EventId, NewEvent, Position, Received};
use order_consumer::apply::error::EffectError;
use order_consumer::handlers::{Event, HandlerError};
use order_consumer::ports::{Inbox, InboxFactory, LEASE_DEADLINE, STATEMENT_DEADLINE, Transaction};
use storage::StorageError;
use storage::inbox::dead_letters::{Amount, DeadLetter, Ending, Stored};
use storage::inbox::retention::{Sweep, Swept};
use storage::inbox::{Opened, Progress, Stream};
use storage::lease::{Keeper, Leases, MemberId, Snapshot};
use uuid::Uuid;

use super::leases::SimLeases;
use super::statement::{Session, statement};
use crate::database::{Connection, Database, DatabaseError};
use crate::event::Ticked;
use crate::world::{Broken, Host, Server};

/// The inboxes of one process.
pub struct SimInboxes {
    pub host: Host,
}

impl InboxFactory for SimInboxes {
    fn leased(&self, lease_ttl: Duration) -> Box<dyn Inbox> {
        Box::new(SimInbox {
            host: self.host.clone(),
            limit: lease_ttl * 2 / 3,
        })
    }

    fn background(&self) -> Box<dyn Inbox> {
        Box::new(SimInbox {
            host: self.host.clone(),
            limit: Duration::from_secs(4),
        })
    }

    fn leases(&self, scope: &str, lease_ttl: Duration, units: i32) -> (Keeper, Leases) {
        let table = SimLeases {
            host: self.host.clone(),
            scope: scope.to_owned(),
            ttl: lease_ttl,
        };
        Keeper::on(Box::new(table), scope, lease_ttl, units)
    }
}

/// One connection. `limit` is that of a statement and of a transaction.
struct SimInbox {
    host: Host,
    limit: Duration,
}

impl SimInbox {
    async fn call<T: Send + 'static>(
        &self,
        deadline: Duration,
        operation: impl FnMut(&mut Connection<'_>) -> Result<T, DatabaseError> + Send + 'static,
    ) -> Result<T, StorageError> {
        statement(&self.host, (deadline, self.limit), operation).await
    }
}

/// The parts of a [`Sweep`].
struct OwnedSweep {
    group: String,
    topic: String,
    after: Option<Uuid>,
    limit: i64,
    older_than: Duration,
    log_starts: Vec<(i32, i64)>,
}

impl OwnedSweep {
    fn of(sweep: &Sweep<'_>) -> Self {
        Self {
            group: sweep.group.to_owned(),
            topic: sweep.topic.to_owned(),
            after: sweep.after,
            limit: sweep.limit,
            older_than: sweep.older_than,
            log_starts: sweep.log_starts.to_vec(),
        }
    }

    fn get(&self) -> Sweep<'_> {
        Sweep {
            group: &self.group,
            topic: &self.topic,
            after: self.after,
            limit: self.limit,
            older_than: self.older_than,
            log_starts: &self.log_starts,
        }
    }
}

#[async_trait]
impl Inbox for SimInbox {
    async fn connect(&mut self) -> Result<(), StorageError> {
        Ok(())
    }

    async fn progress(&mut self, stream: &Stream) -> Result<Option<Progress>, StorageError> {
        let stream = stream.clone();
        self.call(STATEMENT_DEADLINE, move |conn| conn.progress(&stream))
            .await
    }

    async fn begin_at(
        &mut self,
        stream: &Stream,
        next_offset: i64,
        topic_id: Option<Uuid>,
    ) -> Result<(), StorageError> {
        let stream = stream.clone();
        self.call(STATEMENT_DEADLINE, move |conn| {
            conn.begin_at(&stream, next_offset, topic_id)
        })
        .await
    }

    async fn identify(
        &mut self,
        stream: &Stream,
        next_offset: i64,
        topic_id: Uuid,
    ) -> Result<(), StorageError> {
        let stream = stream.clone();
        self.call(STATEMENT_DEADLINE, move |conn| {
            conn.identify(&stream, next_offset, topic_id)
        })
        .await
    }

    async fn begin(&mut self) -> Result<Box<dyn Transaction + '_>, StorageError> {
        let sim = self.host.sim.clone();
        let limit = self.limit;
        let serve = async move {
            let session = Arc::new(Session::open(&sim));
            session.now(|conn| conn.begin())?;
            // The server ends what takes too long.
            let watched = Arc::downgrade(&session);
            tokio::spawn(async move {
                tokio::time::sleep(limit).await;
                if let Some(session) = watched.upgrade() {
                    session.end();
                }
            });
            Some(session)
        };
        let begun = self.host.request(Server::Postgres, serve);
        let begun = tokio::time::timeout(STATEMENT_DEADLINE, begun).await;
        let session = begun.map_err(|_| StorageError::Deadline(STATEMENT_DEADLINE))?;
        Ok(Box::new(SimTransaction {
            host: self.host.clone(),
            session: session.map_err(|Broken| StorageError::closed())?,
            limit,
            fence: None,
        }))
    }

    async fn cancel(&mut self) {}

    async fn lease_snapshot(&mut self, scope: &str) -> Result<Snapshot, StorageError> {
        let scope = scope.to_owned();
        self.call(LEASE_DEADLINE, move |conn| conn.snapshot(&scope))
            .await
    }

    async fn next_offsets(
        &mut self,
        group: &str,
        topic: &str,
    ) -> Result<HashMap<i32, i64>, StorageError> {
        let (group, topic) = (group.to_owned(), topic.to_owned());
        self.call(STATEMENT_DEADLINE, move |conn| {
            conn.next_offsets(&group, &topic)
        })
        .await
    }

    async fn unpublished_older_than(&mut self, age: Duration) -> Result<bool, StorageError> {
        self.call(STATEMENT_DEADLINE, move |conn| {
            conn.unpublished_older_than(age)
        })
        .await
    }

    async fn sweep(&mut self, sweep: &Sweep<'_>) -> Result<Swept, StorageError> {
        let sweep = OwnedSweep::of(sweep);
        self.call(STATEMENT_DEADLINE, move |conn| conn.sweep(&sweep.get()))
            .await
    }

    async fn sweep_dead_letters(&mut self, sweep: &Sweep<'_>) -> Result<i64, StorageError> {
        let sweep = OwnedSweep::of(sweep);
        self.call(STATEMENT_DEADLINE, move |conn| {
            conn.sweep_dead_letters(&sweep.get())
        })
        .await
    }
}

/// A transaction on a session of its own. Dropped, the session ends with it.
struct SimTransaction {
    host: Host,
    session: Arc<Session>,
    limit: Duration,
    /// What the batch is opened under.
    fence: Option<OpenedAt>,
}

/// Where a batch was opened, and by whom.
#[derive(Clone)]
struct OpenedAt {
    stream: Stream,
    first: i64,
    topic_id: Option<Uuid>,
    owner: MemberId,
    epoch: i64,
}

impl OpenedAt {
    /// What is wrong with a commit at this moment.
    fn wrong(&self, database: &Database) -> Option<String> {
        let Stream {
            group,
            topic,
            partition,
        } = &self.stream;
        let lease = database.lease(&Stream::lease_scope(group, topic), *partition);
        if lease.is_none_or(|row| row.owner != Some(self.owner) || row.epoch != self.epoch) {
            return Some(format!(
                "P6: a batch of {topic}/{partition} commits without its lease"
            ));
        }
        let stands = database.offset(&(group.clone(), topic.clone(), *partition));
        let stands = stands.map(|progress| (progress.next_offset, progress.topic_id));
        if stands != Some((self.first, self.topic_id)) {
            return Some(format!(
                "P5: a batch of {topic}/{partition} from {} on commits where the group stands at \
                 {stands:?}",
                self.first
            ));
        }
        None
    }
}

impl SimTransaction {
    async fn call<T: Send + 'static>(
        &self,
        operation: impl FnMut(&mut Connection<'_>) -> Result<T, DatabaseError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let (session, limit) = (Arc::clone(&self.session), self.limit);
        let serve = async move { session.run(limit, operation).await };
        match self.host.request(Server::Postgres, serve).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_)) | Err(Broken) => Err(StorageError::closed()),
        }
    }
}

/// The effect of an event: it is noted under its topic and key.
fn effects(events: &[Received<Event>]) -> Vec<(String, EventId)> {
    events
        .iter()
        .filter_map(|received| {
            let ticked = received.event.get::<Ticked>()?;
            Some((ticked.target.clone(), received.event_id))
        })
        .collect()
}

impl SimTransaction {
    /// Refuses what the handler cannot apply, as handlers do: before it does anything.
    fn refused(&self, events: &[Received<Event>]) -> Result<(), EffectError> {
        let oracle = &self.host.sim.world().oracle;
        let refused = events
            .iter()
            .find(|received| oracle.is_refused(received.event_id));
        match refused {
            Some(received) => Err(EffectError::Handler {
                handler: "ticks",
                source: HandlerError::Refused(format!("event {} is refused", received.event_id)),
            }),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Transaction for SimTransaction {
    async fn fence(
        &mut self,
        stream: &Stream,
        offsets: (i64, i64),
        topic_id: Option<Uuid>,
        owner: MemberId,
        epoch: i64,
    ) -> Result<Option<Opened>, StorageError> {
        self.fence = Some(OpenedAt {
            stream: stream.clone(),
            first: offsets.0,
            topic_id,
            owner,
            epoch,
        });
        let stream = stream.clone();
        let opened = self.call(move |conn| conn.fence(&stream, offsets, topic_id, owner, epoch));
        let opened = opened.await?;
        if opened.is_none() {
            self.fence = None;
        }
        Ok(opened)
    }

    async fn held_keys(
        &mut self,
        stream: &Stream,
        keys: &[&[u8]],
    ) -> Result<HashSet<Vec<u8>>, StorageError> {
        let stream = stream.clone();
        let keys: Vec<Vec<u8>> = keys.iter().map(|key| key.to_vec()).collect();
        self.call(move |conn| {
            let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
            conn.held_keys(&stream, &keys)
        })
        .await
    }

    async fn held_before(
        &mut self,
        stream: &Stream,
        offsets: (i64, i64),
    ) -> Result<Vec<Stored>, StorageError> {
        let stream = stream.clone();
        self.call(move |conn| conn.held_before(&stream, offsets))
            .await
    }

    async fn record_unmet(
        &mut self,
        stream: &Stream,
        events: &[(EventId, i64)],
    ) -> Result<bool, StorageError> {
        let (stream, events) = (stream.clone(), events.to_vec());
        self.call(move |conn| conn.record_unmet(&stream, &events))
            .await
    }

    async fn record(
        &mut self,
        stream: &Stream,
        events: &[(EventId, i64)],
    ) -> Result<HashSet<EventId>, StorageError> {
        let (stream, events) = (stream.clone(), events.to_vec());
        self.call(move |conn| conn.record(&stream, &events)).await
    }

    async fn follow_copies(
        &mut self,
        stream: &Stream,
        copies: &[(EventId, i64)],
    ) -> Result<(), StorageError> {
        let (stream, copies) = (stream.clone(), copies.to_vec());
        self.call(move |conn| conn.follow_copies(&stream, &copies))
            .await
    }

    async fn unrecord(&mut self, group: &str, events: &[EventId]) -> Result<(), StorageError> {
        let (group, events) = (group.to_owned(), events.to_vec());
        self.call(move |conn| conn.unrecord(&group, &events)).await
    }

    async fn apply(&mut self, events: &[Received<Event>]) -> Result<(), EffectError> {
        self.refused(events)?;
        let effects = effects(events);
        // What is done is not done again when the call goes on after a wait.
        let mut done = 0;
        let apply = move |conn: &mut Connection<'_>| {
            while let Some((target, event)) = effects.get(done) {
                conn.apply_effect(target, *event)?;
                done += 1;
            }
            Ok(())
        };
        Ok(self.call(apply).await?)
    }

    async fn try_apply(&mut self, events: &[Received<Event>]) -> Result<(), EffectError> {
        self.call(|conn| conn.savepoint()).await?;
        match self.apply(events).await {
            Ok(()) => Ok(self.call(|conn| conn.release_savepoint()).await?),
            Err(error) => {
                let undo = |conn: &mut Connection<'_>| {
                    conn.rollback_to_savepoint();
                    Ok(())
                };
                self.call(undo).await?;
                Err(error)
            }
        }
    }

    async fn messages_are_english(&mut self) -> Result<bool, StorageError> {
        self.call(|_| Ok(true)).await
    }

    async fn hold(
        &mut self,
        stream: &Stream,
        letters: &[DeadLetter],
    ) -> Result<Option<i64>, StorageError> {
        let (stream, letters) = (stream.clone(), letters.to_vec());
        self.call(move |conn| conn.hold_dead_letters(&stream, &letters))
            .await
    }

    async fn append(&mut self, _events: &[NewEvent]) -> Result<(), StorageError> {
        // Announcements of dead letters would wait for a topic of their own; nothing here reads it.
        self.call(|_| Ok(())).await
    }

    async fn advance(&mut self, stream: &Stream, progress: Progress) -> Result<(), StorageError> {
        let stream = stream.clone();
        self.call(move |conn| conn.advance(&stream, progress)).await
    }

    async fn reset(
        &mut self,
        stream: &Stream,
        next_offset: i64,
        topic_id: Option<Uuid>,
    ) -> Result<(), StorageError> {
        let stream = stream.clone();
        self.call(move |conn| conn.reset(&stream, next_offset, topic_id))
            .await
    }

    async fn key_of(
        &mut self,
        group: &str,
        position: &Position,
    ) -> Result<Option<Option<Vec<u8>>>, StorageError> {
        let (group, position) = (group.to_owned(), position.clone());
        self.call(move |conn| conn.key_of(&group, &position)).await
    }

    async fn lock_key(&mut self, group: &str, topic: &str, key: &[u8]) -> Result<(), StorageError> {
        let (group, topic, key) = (group.to_owned(), topic.to_owned(), key.to_vec());
        self.call(move |conn| conn.lock_key(&group, &topic, &key))
            .await
    }

    async fn unsettled_of_key(
        &mut self,
        group: &str,
        topic: &str,
        key: &[u8],
        amount: Amount,
    ) -> Result<Vec<Stored>, StorageError> {
        let (group, topic, key) = (group.to_owned(), topic.to_owned(), key.to_vec());
        self.call(move |conn| conn.unsettled_of_key(&group, &topic, &key, amount))
            .await
    }

    async fn unsettled_without_key(
        &mut self,
        group: &str,
        position: &Position,
    ) -> Result<Option<Stored>, StorageError> {
        let (group, position) = (group.to_owned(), position.clone());
        self.call(move |conn| conn.unsettled_without_key(&group, &position))
            .await
    }

    async fn settle(
        &mut self,
        group: &str,
        topic: &str,
        places: &[(i32, i64)],
        ending: Ending,
    ) -> Result<(), StorageError> {
        let (group, topic, places) = (group.to_owned(), topic.to_owned(), places.to_vec());
        self.call(move |conn| conn.settle_dead_letters(&group, &topic, &places, ending))
            .await
    }

    async fn rejected(
        &mut self,
        group: &str,
        position: &Position,
        reason: &str,
    ) -> Result<(), StorageError> {
        let (group, position, reason) = (group.to_owned(), position.clone(), reason.to_owned());
        self.call(move |conn| conn.rejected(&group, &position, &reason))
            .await
    }

    async fn commit(self: Box<Self>) -> Result<(), StorageError> {
        let fence = self.fence.clone();
        let commit = self.call(move |conn| {
            let wrong = fence
                .as_ref()
                .and_then(|fence| fence.wrong(conn.database()));
            conn.commit()?;
            Ok(wrong)
        });
        let committed = commit.await.map(|wrong| {
            if let Some(wrong) = wrong {
                self.host.sim.violated(wrong);
            }
        });
        let violation = {
            let world = &mut *self.host.sim.world();
            world.oracle.check_effects(&world.database)
        };
        if let Some(violation) = violation {
            self.host.sim.violated(violation);
        }
        self.host.note(|| format!("commits a batch: {committed:?}"));
        committed
    }

    async fn rollback(self: Box<Self>) -> Result<(), StorageError> {
        let undo = |conn: &mut Connection<'_>| {
            conn.rollback();
            Ok(())
        };
        let undone = tokio::time::timeout(self.limit, self.call(undo)).await;
        undone.unwrap_or(Err(StorageError::Deadline(self.limit)))
    }
}
