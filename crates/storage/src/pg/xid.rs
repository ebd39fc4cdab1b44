//! Versions of rows as values: `xmin` names the transaction that wrote one, `ctid` its place.

use std::io::Write;

use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::pg::{Pg, PgValue};
use diesel::query_builder::QueryId;
use diesel::serialize::{self, IsNull, Output, ToSql};
use diesel::sql_types::SqlType;

/// The SQL type `xid` (object ids from Postgres' catalogue, `pg_type.dat`).
#[derive(QueryId, SqlType)]
#[diesel(postgres_type(oid = 28, array_oid = 1011))]
pub(crate) struct Xid;

/// The SQL type `tid`: where in its table a row version lies.
#[derive(QueryId, SqlType)]
#[diesel(postgres_type(oid = 27, array_oid = 1010))]
pub(crate) struct Tid;

/// Which transaction wrote a row version. Compared for equality only: ids wrap around.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromSqlRow, AsExpression)]
#[diesel(sql_type = Xid)]
pub(crate) struct Xmin(u32);

/// Block and item, as Postgres sends them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromSqlRow, AsExpression)]
#[diesel(sql_type = Tid)]
pub(crate) struct Ctid([u8; 6]);

/// One version of a row: who wrote it, and where it lies. A row that is moved away and back again
/// has another writer; one that a rewrite of its table carried along has another place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowVersion {
    pub(crate) xmin: Xmin,
    pub(crate) ctid: Ctid,
}

impl RowVersion {
    /// A version of one's own making, for models and tests: versions from equal numbers are equal. Of
    /// `place` the lower 48 bits count.
    pub fn from_numbers(xmin: u32, place: u64) -> Self {
        let [_, _, place @ ..] = place.to_be_bytes();
        Self {
            xmin: Xmin(xmin),
            ctid: Ctid(place),
        }
    }
}

impl FromSql<Xid, Pg> for Xmin {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        Ok(Self(u32::from_be_bytes(value.as_bytes().try_into()?)))
    }
}

impl ToSql<Xid, Pg> for Xmin {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        out.write_all(&self.0.to_be_bytes())?;
        Ok(IsNull::No)
    }
}

impl FromSql<Tid, Pg> for Ctid {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        Ok(Self(value.as_bytes().try_into()?))
    }
}

impl ToSql<Tid, Pg> for Ctid {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        out.write_all(&self.0)?;
        Ok(IsNull::No)
    }
}
