//! Whether a failed statement was at fault itself, or Postgres was in trouble.

use diesel::prelude::*;
use diesel::result::{DatabaseErrorKind, Error as DieselError};
use diesel::sql_query;
use diesel::sql_types::Text;
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::pg::error::StorageError;

/// What a failure means for a retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The statement and its values: the same call always fails again.
    Statement,
    /// Most likely the statement (bad data, an error raised by a trigger). Recognized by the
    /// server's message, because diesel keeps no SQLSTATE of these; sure only where
    /// [`messages_are_english`].
    LikelyStatement,
    /// Postgres, the network, a lock, a limit: the same call may succeed later.
    Trouble,
}

/// How messages of errors begin that come and go by themselves: classes 53, 55, 57 and 58 of
/// SQLSTATE, and deadlocks.
const TROUBLE: &[&str] = &[
    "canceling statement",
    "canceling authentication",
    "deadlock detected",
    "could not obtain lock",
    "terminating connection",
    "terminating background",
    "the database system is",
    "out of memory",
    "out of shared memory",
    "sorry, too many clients already",
    "too many connections for",
    "remaining connection slots",
    "could not extend",
    "could not write",
    "could not read",
    "could not open",
    "could not access",
    "could not fsync",
    "could not resize",
    "cached plan must not change",
    "current transaction is aborted",
    "permission denied",
];

impl StorageError {
    /// See [`Fault`].
    pub fn fault(&self) -> Fault {
        if self.is_permanent() {
            return Fault::Statement;
        }
        match self {
            Self::Query(DieselError::DatabaseError(DatabaseErrorKind::Unknown, information))
                if !TROUBLE
                    .iter()
                    .any(|trouble| information.message().starts_with(trouble)) =>
            {
                Fault::LikelyStatement
            }
            Self::Query(_) | Self::Connect { .. } | Self::Deadline(_) | Self::Unreadable { .. } => {
                Fault::Trouble
            }
        }
    }
}

/// Whether the server words its errors the way [`StorageError::fault`] reads them.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn messages_are_english(conn: &mut AsyncPgConnection) -> Result<bool, StorageError> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Text)]
        locale: String,
    }
    let row: Row = sql_query("select current_setting('lc_messages') as locale")
        .get_result(conn)
        .await?;
    Ok(
        matches!(row.locale.as_str(), "" | "C" | "POSIX" | "C.UTF-8")
            || row.locale.starts_with("en"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown(message: &str) -> Fault {
        let error =
            DieselError::DatabaseError(DatabaseErrorKind::Unknown, Box::new(message.to_owned()));
        StorageError::Query(error).fault()
    }

    #[test]
    fn an_outage_is_never_blamed_on_a_statement() {
        for trouble in [
            "canceling statement due to lock timeout",
            "deadlock detected",
            "terminating connection due to administrator command",
            "could not extend file \"base/1\": No space left on device",
            "sorry, too many clients already",
        ] {
            assert_eq!(unknown(trouble), Fault::Trouble, "{trouble}");
        }
        assert_eq!(
            StorageError::Deadline(std::time::Duration::ZERO).fault(),
            Fault::Trouble
        );
    }

    #[test]
    fn a_violated_rule_is() {
        let violated = DieselError::DatabaseError(
            DatabaseErrorKind::CheckViolation,
            Box::new("violates".to_owned()),
        );
        assert_eq!(StorageError::Query(violated).fault(), Fault::Statement);
        for said in [
            "bigint out of range",
            "there are too many units in this order",
            "too many units",
            "the courier could not open the door",
        ] {
            assert_eq!(unknown(said), Fault::LikelyStatement, "{said}");
        }
    }
}
