//! A record as the table has it.

use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Binary, Integer, Nullable, Text, Timestamptz};
use time::OffsetDateTime;

use super::Cause;

/// A record that is or was held, byte for byte unless it was too large.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct Stored {
    #[diesel(sql_type = Integer)]
    pub partition: i32,
    #[diesel(sql_type = BigInt)]
    pub offset: i64,
    #[diesel(sql_type = Nullable<Binary>)]
    pub key: Option<Vec<u8>>,
    #[diesel(sql_type = Nullable<Binary>)]
    pub value: Option<Vec<u8>>,
    #[diesel(sql_type = Array<Binary>)]
    pub header_names: Vec<Vec<u8>>,
    #[diesel(sql_type = Array<Nullable<Binary>>)]
    pub header_values: Vec<Option<Vec<u8>>>,
    #[diesel(sql_type = Nullable<BigInt>)]
    pub omitted_bytes: Option<i64>,
    #[diesel(sql_type = Text)]
    pub cause: Cause,
    #[diesel(sql_type = Timestamptz)]
    pub held_at: OffsetDateTime,
}

/// The columns of [`Stored`].
macro_rules! columns {
    () => {
        r#"partition, "offset", key, value, header_names, header_values, omitted_bytes, cause, held_at"#
    };
}
pub(super) use columns;
