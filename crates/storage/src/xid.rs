//! Postgres' transaction ids as values: a row's `xmin` names the transaction that wrote it.

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

/// Which transaction wrote a row version. Compared for equality only: ids wrap around.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromSqlRow, AsExpression)]
#[diesel(sql_type = Xid)]
pub struct RowVersion(u32);

impl FromSql<Xid, Pg> for RowVersion {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        Ok(Self(u32::from_be_bytes(value.as_bytes().try_into()?)))
    }
}

impl ToSql<Xid, Pg> for RowVersion {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        out.write_all(&self.0.to_be_bytes())?;
        Ok(IsNull::No)
    }
}
