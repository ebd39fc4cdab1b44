//! Keeps one member's leases: beats, takes, gives up, and tells the workers what they own.
//!
//! Runs as a task of its own with a connection of its own, so that no amount of work delays a beat.
//! When beats fail it keeps trying; the workers stop by themselves when [`Ownership`] runs out.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::{Duration, Instant};

use diesel_async::AsyncPgConnection;
use futures::StreamExt;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::ownership::{Leases, Ownership, Request, Tenure};
use super::{Claim, MemberId, claim, decide, ensure_units, leave, release, renew, survey};
use crate::connection::{Database, Session};
use crate::error::{StorageError, within};
use crate::notify::{Channel, listen, notify, wake_ups};

/// See the module. Made by [`Keeper::new`], driven by [`Keeper::run`] or, in tests, by
/// [`Keeper::beat`].
pub struct Keeper {
    database: Database,
    session: Session,
    scope: String,
    ttl: Duration,
    unit_count: i32,
    member: MemberId,
    ownership: watch::Sender<Ownership>,
    requests: mpsc::Receiver<Request>,
    connection: Option<AsyncPgConnection>,
    ensured_units: i32,
}

impl Keeper {
    /// A keeper for one scope whose units are `0..unit_count`; [`Leases::resize`] changes that.
    /// Nothing happens before it is driven.
    pub fn new(
        database: Database,
        session: Session,
        scope: impl Into<String>,
        ttl: Duration,
        unit_count: i32,
    ) -> (Self, Leases) {
        let member = MemberId::generate();
        let (ownership, ownership_view) = watch::channel(Ownership {
            units: BTreeMap::new(),
            valid_until: Instant::now(),
        });
        let (request_sender, requests) = mpsc::channel(64);
        let keeper = Self {
            database,
            session,
            scope: scope.into(),
            ttl,
            unit_count,
            member,
            ownership,
            requests,
            connection: None,
            ensured_units: 0,
        };
        let leases = Leases {
            member,
            ownership: ownership_view,
            requests: request_sender,
        };
        (keeper, leases)
    }

    /// Beats until `stop` is cancelled, then gives everything back. Stop it after the workers: what
    /// they have in flight is theirs only while it runs.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut failing = false;
        loop {
            let pause = match self.beat().await {
                Ok(pause) => {
                    if failing {
                        info!(scope = self.scope, "leases are renewed again");
                    }
                    failing = false;
                    pause
                }
                Err(error) => {
                    if !failing {
                        warn!(scope = self.scope, %error, "cannot renew leases");
                    }
                    failing = true;
                    self.connection = None;
                    self.ttl / 20
                }
            };
            let pause = tokio::time::sleep(pause);
            tokio::select! {
                () = stop.cancelled() => break,
                () = pause => {}
                // Somebody came, or gave something up: the beat that follows looks.
                () = heard(self.connection.as_mut()) => {}
                Some(request) = self.requests.recv() => {
                    if let Err(error) = self.answer(request).await {
                        warn!(scope = self.scope, %error, "cannot hand a unit over; it will run out");
                        self.connection = None;
                    }
                }
            }
        }
        if let Err(error) = self.leave().await {
            warn!(scope = self.scope, %error, "cannot give the leases back; they will run out");
        }
    }

    /// One beat: renews, looks, takes and marks what to give up. Returns when to beat next.
    ///
    /// # Errors
    /// When Postgres cannot be asked; what was owned then stays so until its time runs out.
    pub async fn beat(&mut self) -> Result<Duration, StorageError> {
        // The time counts from before the request: Postgres' answer may be late, never early.
        let sent = Instant::now();
        let limit = self.ttl / 3;
        let arriving = self.ensured_units == 0;
        let (scope, member, ttl) = (self.scope.clone(), self.member, self.ttl);
        let unit_count = self.unit_count;
        let ensure = unit_count > self.ensured_units;
        let conn = self.connected().await?;
        let (owned, decision, members) = within(limit, async {
            if ensure {
                ensure_units(conn, &scope, unit_count).await?;
            }
            let mut owned = renew(conn, &scope, member, ttl).await?;
            let mut survey = survey(conn, &scope).await?;
            // Rows of units that are no more stay, in case these come back.
            survey.units.retain(|unit| unit.number < unit_count);
            let mut decision = decide(&survey, member);
            let beyond = owned.iter().map(|claim| claim.unit);
            decision
                .give_up
                .extend(beyond.filter(|unit| *unit >= unit_count));
            if !decision.take.is_empty() {
                owned.extend(claim(conn, &scope, member, &decision.take).await?);
            }
            if arriving && survey.members.len() > 1 {
                // The others may owe us a share.
                notify(conn, Channel::Lease).await?;
            }
            Ok::<_, StorageError>((owned, decision, survey.members))
        })
        .await?;
        self.ensured_units = unit_count;
        self.publish(&owned, &decision.give_up, sent + ttl * 4 / 5);
        // A member that will be dead before our next beat has missed one of its own: look again
        // as soon as its units are free.
        let next_death = members
            .iter()
            .filter(|m| m.id != member)
            .map(|m| m.expires_in + Duration::from_millis(50))
            .min();
        Ok(next_death.map_or(ttl / 3, |death| death.min(ttl / 3)))
    }

    async fn connected(&mut self) -> Result<&mut AsyncPgConnection, StorageError> {
        if self.connection.is_none() {
            let mut conn = self.database.connect(&self.session).await?;
            within(self.ttl / 3, listen(&mut conn, &[Channel::Lease])).await?;
            self.connection = Some(conn);
        }
        Ok(self.connection.as_mut().expect("set just above"))
    }

    fn publish(&self, owned: &[Claim], giving_up: &[i32], valid_until: Instant) {
        let units: BTreeMap<i32, Tenure> = owned
            .iter()
            .map(|claim| {
                let leaving = giving_up.contains(&claim.unit);
                let epoch = claim.epoch;
                (claim.unit, Tenure { epoch, leaving })
            })
            .collect();
        self.ownership.send_if_modified(|now| {
            let changed = now.units != units;
            if changed {
                let lost = now
                    .units
                    .keys()
                    .filter(|unit| !units.contains_key(unit))
                    .count();
                info!(
                    scope = self.scope,
                    owned = units.len(),
                    lost,
                    "leases changed"
                );
            }
            // Workers ended when the time ran out; the same units again are news to them.
            let back = !units.is_empty() && now.valid_until <= Instant::now();
            *now = Ownership { units, valid_until };
            changed || back
        });
    }

    /// Answers what the workers have asked for so far; [`Keeper::run`] does so as they ask.
    ///
    /// # Errors
    /// When Postgres cannot be asked; what was to be released then runs out.
    pub async fn answer_requests(&mut self) -> Result<(), StorageError> {
        match self.requests.try_recv() {
            Ok(request) => self.answer(request).await,
            Err(_) => Ok(()),
        }
    }

    async fn answer(&mut self, request: Request) -> Result<(), StorageError> {
        let mut units = Vec::new();
        let mut next = Some(request);
        while let Some(request) = next {
            match request {
                Request::Release(unit) => units.push(unit),
                Request::Resize(count) => self.unit_count = count,
            }
            next = self.requests.try_recv().ok();
        }
        if units.is_empty() {
            return Ok(());
        }
        self.ownership.send_modify(|now| {
            now.units.retain(|unit, _| !units.contains(unit));
        });
        let (scope, member, limit) = (self.scope.clone(), self.member, self.ttl / 3);
        let conn = self.connected().await?;
        within(limit, async {
            release(conn, &scope, member, &units).await?;
            notify(conn, Channel::Lease).await
        })
        .await
    }

    async fn leave(&mut self) -> Result<(), StorageError> {
        self.ownership.send_modify(|now| now.units.clear());
        let (scope, member, limit) = (self.scope.clone(), self.member, self.ttl / 3);
        let conn = self.connected().await?;
        within(limit, async {
            leave(conn, &scope, member).await?;
            notify(conn, Channel::Lease).await
        })
        .await
    }
}

/// Waits for a wake-up about leases. Its loss costs time only: every beat looks.
async fn heard(connection: Option<&mut AsyncPgConnection>) {
    if let Some(conn) = connection
        && let Some(Ok(_)) = pin!(wake_ups(conn)).next().await
    {
        return;
    }
    // Without a connection, or with a broken one, the next beat is what helps.
    std::future::pending::<()>().await;
}
