//! Watches that this process is a living member of its group. One that is not owns no partition, and
//! with nothing to do it would be ready while nothing is consumed.

use std::convert::Infallible;
use std::time::Duration;

use service::Problems;
use storage::lease::{MemberId, survey};
use storage::{OwnConnection, StorageError};

const LOOK_INTERVAL: Duration = Duration::from_secs(2);
const DEADLINE: Duration = Duration::from_secs(5);

/// See the module.
pub(crate) struct Membership {
    pub(crate) connection: OwnConnection,
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
    pub(crate) async fn watch(mut self) -> Infallible {
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            match self.look().await {
                Ok(()) => self.postgres.clear(self.who()),
                Err(error) => self.postgres.report(self.who(), error),
            }
        }
    }

    fn who(&self) -> String {
        format!("leases of {}", self.scope)
    }

    async fn look(&mut self) -> Result<(), Trouble> {
        let scope = &self.scope;
        let look = async |conn: &mut _| survey(conn, scope).await;
        let survey = self.connection.call(DEADLINE, look).await?;
        let alive = survey.members.iter().any(|member| member.id == self.member);
        if alive { Ok(()) } else { Err(Trouble::RunOut) }
    }
}
