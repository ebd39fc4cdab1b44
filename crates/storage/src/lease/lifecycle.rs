//! The life of work that is done under leases: it starts with the keeper, and it ends before it.

use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

use super::Keeper;

/// Why leased work ended early.
#[derive(Debug, thiserror::Error)]
pub enum LeasedWorkError<E> {
    #[error(transparent)]
    Work(E),
    #[error("the task that renews leases ended unexpectedly: {0}")]
    Keeper(#[source] JoinError),
    #[error("the task that renews leases ended early")]
    KeeperLeft,
}

/// Does `work` while `keeper` renews its leases, and runs `background` beside it.
///
/// `work` gets a token that is cancelled with `stop`. When it has ended, for whatever reason,
/// `background` is dropped, and only then does the keeper give the leases back: what is in flight is
/// ours only while they are renewed.
///
/// # Errors
/// What `work` returns, or that the keeper ended before it.
pub async fn run_leased<E, F>(
    keeper: Keeper,
    stop: &CancellationToken,
    work: impl FnOnce(CancellationToken) -> F,
    background: impl Future,
) -> Result<(), LeasedWorkError<E>>
where
    F: Future<Output = Result<(), E>>,
{
    let (working, leave) = (stop.child_token(), CancellationToken::new());
    let mut keeper = tokio::spawn(keeper.run(leave.clone()));
    let work = work(working.clone());
    let (outcome, _) = tokio::join!(
        async {
            let outcome = tokio::select! {
                ended = work => ended.map_err(LeasedWorkError::Work),
                died = &mut keeper => {
                    Err(died.map_or_else(LeasedWorkError::Keeper, |()| LeasedWorkError::KeeperLeft))
                }
            };
            working.cancel();
            outcome
        },
        working.run_until_cancelled(background),
    );
    outcome?;
    leave.cancel();
    keeper.await.map_err(LeasedWorkError::Keeper)
}
