//! Wake-ups between processes. A hint and never more: everything works, later, without them.

use diesel::QueryResult;
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use futures::{Stream, StreamExt};

use crate::pg::error::StorageError;

/// What a wake-up is about. Shared by all schemas of a database: a stranger's costs one idle read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// Events were committed to the outbox.
    Outbox,
    /// A lease was handed over.
    Lease,
}

impl Channel {
    const fn name(self) -> &'static str {
        match self {
            Self::Outbox => "outbox",
            Self::Lease => "lease",
        }
    }
}

/// Sends a wake-up. To be called on a connection of its own, after the commit it speaks of: inside
/// the writing transaction it would serialise all writers on one lock.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn notify(conn: &mut AsyncPgConnection, channel: Channel) -> Result<(), StorageError> {
    // Losing it with a crash of the server is harmless, waiting for the disk is not. Local: what the
    // connection does besides, taking leases for one, must last.
    let sql = format!(
        "set local synchronous_commit = off; notify {};",
        channel.name()
    );
    Ok(conn.batch_execute(&sql).await?)
}

/// Subscribes the connection to wake-ups.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn listen(
    conn: &mut AsyncPgConnection,
    channels: &[Channel],
) -> Result<(), StorageError> {
    for channel in channels {
        conn.batch_execute(&format!("listen {}", channel.name()))
            .await?;
    }
    Ok(())
}

/// The wake-ups of a connection that [`listen`]s, until it breaks.
pub fn wake_ups(conn: &mut AsyncPgConnection) -> impl Stream<Item = QueryResult<Channel>> + '_ {
    conn.notifications_stream()
        .filter_map(async |notification| {
            let channel = match notification {
                Ok(notification) => [Channel::Outbox, Channel::Lease]
                    .into_iter()
                    .find(|channel| channel.name() == notification.channel)
                    .map(Ok)?,
                Err(error) => Err(error),
            };
            Some(channel)
        })
}
