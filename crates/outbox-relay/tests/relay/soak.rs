//! What `make soak` runs beside others: tests of minutes, which measure.

use tokio::sync::{Mutex, MutexGuard};

static MACHINE: Mutex<()> = Mutex::const_new(());

/// Waits for the machine, which is the caller's for as long as it keeps what is returned: one such
/// test at a time, or they would measure each other.
pub(crate) async fn alone() -> MutexGuard<'static, ()> {
    MACHINE.lock().await
}
