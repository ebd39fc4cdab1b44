//! Watches that this process is a living member of its group. One that is not owns no partition, and
//! with nothing to do it would be ready while nothing is consumed.

use std::convert::Infallible;
use std::time::Duration;

use service::Problems;
use storage::lease::{MemberId, survey};
use storage::{Connection, Database, Session, StorageError, within};

const LOOK_INTERVAL: Duration = Duration::from_secs(2);
const DEADLINE: Duration = Duration::from_secs(5);

/// See the module.
pub(crate) struct Membership {
    pub(crate) database: Database,
    pub(crate) session: Session,
    pub(crate) scope: String,
    pub(crate) member: MemberId,
    pub(crate) postgres: Problems,
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("they have run out and are not renewed: this process consumes nothing")]
    RunOut,
}

impl Membership {
    /// Looks until it is dropped.
    pub(crate) async fn watch(self) -> Infallible {
        let mut connection = None;
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            match self.look(&mut connection).await {
                Ok(()) => self.postgres.clear(self.who()),
                Err(error) => self.postgres.report(self.who(), error),
            }
        }
    }

    fn who(&self) -> String {
        format!("leases of {}", self.scope)
    }

    /// A call that fails leaves no connection behind.
    async fn look(&self, connection: &mut Option<Connection>) -> Result<(), Trouble> {
        let mut conn = match connection.take() {
            Some(conn) => conn,
            None => self.database.connect(&self.session).await?,
        };
        let survey = within(DEADLINE, survey(&mut conn, &self.scope)).await?;
        *connection = Some(conn);
        let alive = survey.members.iter().any(|member| member.id == self.member);
        if alive { Ok(()) } else { Err(Trouble::RunOut) }
    }
}
