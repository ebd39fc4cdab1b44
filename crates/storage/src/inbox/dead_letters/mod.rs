//! The table `inbox_dead_letter`: records that could not be applied, and the records they block.
//!
//! [`held`] is the side of the partition's owner, [`settle`] that of an operator's command. The two
//! meet on one key at a time, under a lock on it; see [`held_keys`] for why nothing is lost between
//! them.

mod held;
mod list;
mod lock;
mod settle;
mod stored;

use diesel::deserialize::{self, FromSql};
use diesel::pg::{Pg, PgValue};
use diesel::sql_types::Text;
use uuid::Uuid;

use crate::pg::name::named;

pub use held::{held_before, held_keys, hold};
pub use list::{Counts, Filter, Listed, counts, list};
pub use settle::{
    Amount, Ending, key_of, lock_key, rejected, settle, unsettled_keys, unsettled_of_key,
    unsettled_without_key,
};
pub use stored::Stored;

/// Why a record is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It could not be applied.
    Dead,
    /// An earlier record of its topic and key could not.
    Blocked,
}

impl Cause {
    const ALL: [Self; 2] = [Self::Dead, Self::Blocked];

    /// As `inbox_dead_letter.cause` has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dead => "dead",
            Self::Blocked => "blocked",
        }
    }
}

impl FromSql<Text, Pg> for Cause {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        named(value, "inbox_dead_letter.cause", &Self::ALL, Self::as_str)
    }
}

/// A record to be held, byte for byte unless it was too large.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    pub offset: i64,
    pub event_id: Option<Uuid>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    /// Names and values, in order.
    pub headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Size of a record that was too large: then value and headers are missing.
    pub omitted_bytes: Option<i64>,
    pub cause: Cause,
    /// Why it cannot be applied, for the operator.
    pub reason: String,
    /// How often it was tried.
    pub attempts: i32,
}

/// Text in Postgres cannot hold a NUL, which a reason may quote from the record.
fn storable(reason: &str) -> String {
    reason.replace('\0', "\u{fffd}")
}
