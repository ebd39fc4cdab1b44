//! Keeps one member's leases: sends heartbeats, claims and releases units, and publishes what the
//! member owns.
//!
//! Runs as a task of its own with a connection of its own, so that no amount of work delays a beat.
//! When beats fail it keeps trying; the workers stop by themselves when [`Ownership`] runs out.
//!
//! Ownership never comes back: a tenure that has ended, by this process's clock or by what Postgres
//! says, is void for good. Where the table still names this member, the keeper claims the unit again,
//! which raises its epoch.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::ownership::{HeldLease, Leases, Ownership, Request};
use super::table::{LeaseTable, PostgresLeases};
use super::{Claim, MemberId, decide};
use crate::pg::connection::{Database, Session};
use crate::pg::error::StorageError;

/// How often a member looks for rows of members that expired long ago.
const CLEANING_INTERVAL: Duration = Duration::from_mins(1);

/// See the module. Made by [`Keeper::new`], driven by [`Keeper::run`] or, in tests, by
/// [`Keeper::beat`].
pub struct Keeper {
    table: Box<dyn LeaseTable>,
    scope: String,
    ttl: Duration,
    unit_count: i32,
    member: MemberId,
    ownership: watch::Sender<Ownership>,
    requests: mpsc::Receiver<Request>,
    ensured_units: i32,
    /// The highest epoch of each unit whose tenure here has ended.
    ended: BTreeMap<i32, i64>,
    /// When rows of dead members were last removed.
    cleaned: Option<Instant>,
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
        let scope = scope.into();
        let table = PostgresLeases::new(database, session, scope.clone(), ttl);
        Self::on(Box::new(table), scope, ttl, unit_count)
    }

    /// The same on other tables than Postgres'. `scope` is for people.
    pub fn on(
        table: Box<dyn LeaseTable>,
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
            table,
            scope: scope.into(),
            ttl,
            unit_count,
            member,
            ownership,
            requests,
            ensured_units: 0,
            ended: BTreeMap::new(),
            cleaned: None,
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
                        info!(scope = self.scope, "renewing leases again");
                    }
                    failing = false;
                    pause
                }
                Err(error) => {
                    if !failing {
                        warn!(scope = self.scope, %error, "cannot renew leases");
                    }
                    failing = true;
                    self.ttl / 20
                }
            };
            let pause = tokio::time::sleep(pause);
            tokio::select! {
                () = stop.cancelled() => break,
                () = pause => {}
                // Somebody came, or gave something up: the beat that follows looks.
                () = self.table.heard() => {}
                Some(request) = self.requests.recv() => {
                    if let Err(error) = self.answer(request).await {
                        warn!(scope = self.scope, %error, "cannot release a unit; its lease will expire");
                    }
                }
            }
        }
        if let Err(error) = self.leave().await {
            warn!(scope = self.scope, %error, "cannot release the leases; they will expire");
        }
    }

    /// One beat: renews, looks, takes and marks what to give up. Returns when to beat next.
    ///
    /// # Errors
    /// When Postgres cannot be asked; what was owned then stays so until its time runs out.
    pub async fn beat(&mut self) -> Result<Duration, StorageError> {
        let (member, ttl, unit_count) = (self.member, self.ttl, self.unit_count);
        let arriving = self.ensured_units == 0;
        if unit_count > self.ensured_units {
            self.table.ensure_units(unit_count).await?;
            self.ensured_units = unit_count;
        }
        self.table.connect().await?;
        // The time counts from before the request: Postgres' answer may be late, never early.
        let sent = Instant::now();
        let mut owned = self.table.renew(member, ttl).await?;
        let valid_until = sent + ttl * 4 / 5;
        // What is renewed counts at once, whatever becomes of the rest of this beat.
        self.publish(&owned, None, valid_until);

        let mut seen = self.table.snapshot().await?;
        // Rows of units that are no more stay, in case these come back.
        seen.units.retain(|unit| unit.number < unit_count);
        let decision = decide(&seen, member);
        let beyond = owned.iter().map(|claim| claim.unit);
        let beyond = beyond.filter(|unit| *unit >= unit_count);
        let giving_up: Vec<i32> = decision.give_up.into_iter().chain(beyond).collect();
        let void: Vec<Claim> = owned.extract_if(.., |claim| self.is_void(claim)).collect();
        let (unwanted, again): (Vec<Claim>, Vec<Claim>) = void
            .into_iter()
            .partition(|claim| giving_up.contains(&claim.unit));
        let mut take = decision.take;
        take.extend(again.iter().map(|claim| (claim.unit, claim.epoch)));
        let unwanted: Vec<i32> = unwanted.iter().map(|claim| claim.unit).collect();
        if !take.is_empty() {
            owned.extend(self.table.claim(member, &take).await?);
        }
        self.publish(&owned, Some(&giving_up), valid_until);

        if !unwanted.is_empty() {
            self.table.release(member, &unwanted).await?;
        }
        if !unwanted.is_empty() || (arriving && seen.members.len() > 1) {
            // The others may take something, or owe us a share.
            self.notify_others().await;
        }
        self.clean().await?;
        // A member that will be dead before our next beat has missed one of its own: look again
        // as soon as its units are free.
        let next_death = seen
            .members
            .iter()
            .filter(|m| m.id != member)
            .map(|m| m.expires_in + Duration::from_millis(50))
            .min();
        Ok(next_death.map_or(ttl / 3, |death| death.min(ttl / 3)))
    }

    /// Wakes the other members. A hint: each of them looks by itself at its next beat, so a failure
    /// costs time only.
    async fn notify_others(&mut self) {
        if let Err(error) = self.table.notify_others().await {
            debug!(scope = self.scope, %error, "cannot wake the other members");
        }
    }

    /// Removes the rows of members that expired long ago, now and then.
    async fn clean(&mut self) -> Result<(), StorageError> {
        let due = self
            .cleaned
            .is_none_or(|at| at.elapsed() >= CLEANING_INTERVAL);
        if due {
            self.cleaned = Some(Instant::now());
            self.table.remove_expired_members().await?;
        }
        Ok(())
    }

    /// Whether a tenure under this epoch, or a later one, has ended here.
    fn is_void(&self, claim: &Claim) -> bool {
        self.ended
            .get(&claim.unit)
            .is_some_and(|ended| claim.epoch <= *ended)
    }

    /// Tells the workers what they own. `giving_up` is `None` before that is decided: what was
    /// leaving goes on leaving.
    fn publish(&mut self, owned: &[Claim], giving_up: Option<&[i32]>, valid_until: Instant) {
        let Self {
            ownership,
            ended,
            scope,
            ..
        } = self;
        ownership.send_if_modified(|now| {
            // Under the lock that every look takes: whoever saw the time run out did so before.
            if now.has_run_out() {
                end(ended, &now.units);
            }
            let claims = owned.iter().filter(|claim| {
                ended
                    .get(&claim.unit)
                    .is_none_or(|ended| claim.epoch > *ended)
            });
            let units: BTreeMap<i32, HeldLease> = claims
                .map(|claim| {
                    let epoch = claim.epoch;
                    let leaving = giving_up.map_or_else(
                        || now.units.get(&claim.unit).is_some_and(|t| t.leaving),
                        |units| units.contains(&claim.unit),
                    );
                    (claim.unit, HeldLease { epoch, leaving })
                })
                .collect();
            let changed = now.units != units;
            if changed {
                let mut lost = now.units.clone();
                lost.retain(|unit, tenure| units.get(unit).map(|t| t.epoch) != Some(tenure.epoch));
                end(ended, &lost);
                let (owned, lost) = (units.len(), lost.len());
                info!(scope, owned, lost, "leases changed");
            }
            *now = Ownership { units, valid_until };
            changed
        });
    }

    /// Ends the tenures of these units: nothing that was begun under them counts from here on.
    fn give_up(&mut self, is_given_up: impl Fn(i32) -> bool) {
        let Self {
            ownership, ended, ..
        } = self;
        ownership.send_modify(|now| {
            let gone: BTreeMap<i32, HeldLease> = now
                .units
                .extract_if(.., |unit, _| is_given_up(*unit))
                .collect();
            end(ended, &gone);
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
        self.give_up(|unit| units.contains(&unit));
        self.table.release(self.member, &units).await?;
        self.notify_others().await;
        Ok(())
    }

    async fn leave(&mut self) -> Result<(), StorageError> {
        self.give_up(|_| true);
        self.table.leave(self.member).await?;
        self.notify_others().await;
        Ok(())
    }
}

/// Notes that these tenures have ended.
fn end(ended: &mut BTreeMap<i32, i64>, units: &BTreeMap<i32, HeldLease>) {
    for (unit, tenure) in units {
        let epoch = ended.entry(*unit).or_insert(tenure.epoch);
        *epoch = tenure.epoch.max(*epoch);
    }
}
