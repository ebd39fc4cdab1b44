//! `status`: slot owners, pending and held events, and how long they have waited.

mod text;

use std::process::ExitCode;
use std::time::Duration;

use domain::{EventState, Slot};
use serde::Serialize;
use service::output::{print, print_json};
use storage::outbox::{
    HeldCounts, HorizonHolder, Offender, SlotStatus, StateAge, Verified, held_counts,
    horizon_holders, oldest_by_state, published_count, slots, verify,
};
use storage::{Connection, Database, Session, StorageError, with_timeout};
use uuid::Uuid;

use super::{CommandError, DEADLINE, connect, working};
use crate::lease::{LEASE_SCOPE, NAME};

/// Counts end here, so that their cost does not grow with the outbox.
const BOUND: i64 = 1_000_000;
const LOOK_DEADLINE: Duration = Duration::from_secs(30);
/// How many offenders are named.
const NAMED: i64 = 100;

/// What to look at.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct StatusArgs {
    /// Also check that every event is in exactly one of pending, published and held; exits with 1
    /// if one is not. Takes seconds per million events
    #[arg(long)]
    verify: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    pending: Count,
    /// How long the oldest event of each state has waited.
    oldest_seconds: OldestSeconds,
    published: Count,
    held: Held,
    /// Who holds the snapshot horizon back the most.
    horizon: Option<Horizon>,
    slots: Vec<SlotAnswer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verified: Option<VerifiedAnswer>,
}

/// `null` for a state that no event is in.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct OldestSeconds {
    pending: Option<f64>,
    dead: Option<f64>,
    blocked: Option<f64>,
    unavailable: Option<f64>,
}

/// A count, or the bound it ended at.
#[derive(Debug, Clone, Copy, Serialize)]
struct Count {
    events: i64,
    exact: bool,
}

#[derive(Serialize)]
struct Held {
    dead: i64,
    blocked: i64,
    unavailable: i64,
    discarded: i64,
    exact: bool,
}

#[derive(Serialize)]
struct Horizon {
    holder: String,
    /// `null` if Postgres does not say.
    seconds: Option<f64>,
}

#[derive(Serialize)]
struct SlotAnswer {
    slot: i16,
    owner: Option<Uuid>,
    live: bool,
    epoch: i64,
    pending: i64,
}

#[derive(Serialize)]
struct VerifiedAnswer {
    events: i64,
    offenders: Vec<OffenderAnswer>,
    /// Whether there are more than those named.
    more: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OffenderAnswer {
    id: i64,
    event_id: Option<Uuid>,
    state: String,
}

pub(super) async fn run(database: &Database, args: StatusArgs) -> Result<ExitCode, CommandError> {
    let mut conn = connect(database, working()).await?;
    let mut answer = with_timeout(LOOK_DEADLINE, look(&mut conn)).await?;
    if args.verify {
        // It walks whole tables, so Postgres chooses the plan.
        let mut conn = connect(database, Session::long_running(NAME)).await?;
        let verified = with_timeout(DEADLINE, verify(&mut conn, NAMED + 1)).await?;
        answer.verified = Some(verified.into());
    }
    let failed = answer
        .verified
        .as_ref()
        .is_some_and(|verified| !verified.offenders.is_empty());
    if args.json {
        print_json(&answer)?;
    } else {
        print(&answer.text())?;
    }
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

async fn look(conn: &mut Connection) -> Result<Answer, StorageError> {
    let per_slot = BOUND / i64::from(Slot::COUNT);
    let slots = slots(conn, LEASE_SCOPE, per_slot).await?;
    let held = held_counts(conn, BOUND).await?;
    let horizon = horizon_holders(conn).await?.into_iter().next();
    Ok(Answer {
        pending: Count {
            events: slots.iter().map(|slot| slot.pending).sum(),
            exact: slots.iter().all(|slot| slot.pending < per_slot),
        },
        oldest_seconds: oldest_by_state(conn).await?.into(),
        published: Count::bounded(published_count(conn, BOUND).await?),
        held: held.into(),
        horizon: horizon.map(Into::into),
        slots: slots.into_iter().map(Into::into).collect(),
        verified: None,
    })
}

impl Count {
    fn bounded(events: i64) -> Self {
        Self {
            events,
            exact: events < BOUND,
        }
    }
}

impl From<Vec<StateAge>> for OldestSeconds {
    fn from(ages: Vec<StateAge>) -> Self {
        let of = |state: EventState| {
            let age = ages.iter().find(|age| age.state == state);
            age.map(|age| age.seconds)
        };
        Self {
            pending: of(EventState::Pending),
            dead: of(EventState::Dead),
            blocked: of(EventState::Blocked),
            unavailable: of(EventState::Unavailable),
        }
    }
}

impl From<HeldCounts> for Held {
    fn from(counts: HeldCounts) -> Self {
        Self {
            dead: counts.dead,
            blocked: counts.blocked,
            unavailable: counts.unavailable,
            discarded: counts.discarded,
            exact: counts.total() < BOUND,
        }
    }
}

impl From<HorizonHolder> for Horizon {
    fn from(holder: HorizonHolder) -> Self {
        Self {
            holder: holder.name,
            seconds: holder.seconds,
        }
    }
}

impl From<SlotStatus> for SlotAnswer {
    fn from(slot: SlotStatus) -> Self {
        Self {
            slot: slot.slot,
            owner: slot.owner,
            live: slot.expires_in_seconds.is_some(),
            epoch: slot.epoch,
            pending: slot.pending,
        }
    }
}

impl From<Verified> for VerifiedAnswer {
    fn from(verified: Verified) -> Self {
        let named = usize::try_from(NAMED).unwrap_or(usize::MAX);
        let more = verified.offenders.len() > named;
        let offender = |offender: Offender| OffenderAnswer {
            id: offender.id,
            event_id: offender.event_id,
            state: offender.state,
        };
        Self {
            events: verified.events,
            offenders: verified
                .offenders
                .into_iter()
                .take(named)
                .map(offender)
                .collect(),
            more,
        }
    }
}
