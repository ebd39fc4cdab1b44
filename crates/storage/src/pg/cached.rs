//! Statements that Postgres parses once per connection. Diesel's `sql_query` is parsed on every
//! call, a round trip each; here the text is a constant, so the prepared statement is kept.
//!
//! Its rows are read by the names of their columns ([`cached`]), or by their order where there are
//! too many rows to look names up in each ([`cached_rows`]).

use std::marker::PhantomData;

use diesel::pg::Pg;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::result::QueryResult;
use diesel::serialize::ToSql;
use diesel::sql_types::{HasSqlType, Untyped};

/// A statement whose values are numbered `$1`, `$2`, in the order in which they are bound.
pub(crate) struct Cached<'a, Row = Untyped> {
    sql: &'static str,
    values: Vec<Box<dyn QueryFragment<Pg> + Send + 'a>>,
    row: PhantomData<fn() -> Row>,
}

struct Value<SqlType, T> {
    value: T,
    sql_type: PhantomData<SqlType>,
}

/// A statement without values yet.
pub(crate) fn cached<'a>(sql: &'static str) -> Cached<'a> {
    cached_rows(sql)
}

/// The same, for rows whose columns have the types `Row`, a tuple, in their order.
pub(crate) fn cached_rows<'a, Row>(sql: &'static str) -> Cached<'a, Row> {
    Cached {
        sql,
        values: Vec::new(),
        row: PhantomData,
    }
}

impl<'a, Row> Cached<'a, Row> {
    /// The value of the next number.
    pub(crate) fn bind<SqlType, T>(mut self, value: T) -> Self
    where
        Pg: HasSqlType<SqlType>,
        SqlType: Send + 'a,
        T: ToSql<SqlType, Pg> + Send + 'a,
    {
        self.values.push(Box::new(Value {
            value,
            sql_type: PhantomData::<SqlType>,
        }));
        self
    }
}

impl<SqlType, T> QueryFragment<Pg> for Value<SqlType, T>
where
    Pg: HasSqlType<SqlType>,
    T: ToSql<SqlType, Pg>,
{
    fn walk_ast<'b>(&'b self, mut pass: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        pass.push_bind_param_value_only(&self.value)
    }
}

impl<Row> QueryFragment<Pg> for Cached<'_, Row> {
    fn walk_ast<'b>(&'b self, mut pass: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        pass.push_sql(self.sql);
        self.values
            .iter()
            .try_for_each(|value| value.walk_ast(pass.reborrow()))
    }
}

/// Kept by its text.
impl<Row> QueryId for Cached<'_, Row> {
    type QueryId = ();

    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<Row> Query for Cached<'_, Row> {
    type SqlType = Row;
}
