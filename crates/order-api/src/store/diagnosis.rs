//! What a failed statement means for the one who asked: try again later, or never.
//!
//! Where the error does not tell, the connection is asked: if it is dead, Postgres went away; if the
//! schema is incomplete, that was it; else the statement was at fault.

use std::sync::Arc;
use std::time::Duration;

use storage::pg::outlook::Outlook;
use storage::{Connection, migrations, with_timeout};

use super::{StoreError, WorkError};

/// How long asking may take; comes on top of the time the work had.
const ASK_WITHIN: Duration = Duration::from_millis(400);

/// What `failure` means, as far as it says so itself. For a connection that must not be used.
pub(super) fn without_asking(failure: WorkError) -> StoreError {
    match failure {
        WorkError::Unknown(error, _) => StoreError::OutcomeUnknown {
            reason: error.to_string(),
        },
        WorkError::RolledBack(error) => match error.outlook() {
            Outlook::Passing => StoreError::Unavailable(error.to_string()),
            Outlook::Lasting | Outlook::Unclear => StoreError::Failed(Arc::new(error)),
        },
    }
}

/// What `failure` means. Asks the connection it happened on when it has to.
pub(super) async fn ask(conn: &mut Connection, failure: WorkError) -> StoreError {
    let error = match failure {
        WorkError::RolledBack(error) if error.outlook() == Outlook::Unclear => error,
        clear => return without_asking(clear),
    };
    match with_timeout(ASK_WITHIN, migrations::missing(conn)).await {
        Ok(missing) if missing.is_empty() => StoreError::Failed(Arc::new(error)),
        Ok(missing) => StoreError::SchemaIncomplete(missing),
        Err(_) => StoreError::Unavailable(error.to_string()),
    }
}
