//! Where the database is, and how a connection of each kind is set up.
//!
//! Every connection carries limits of its own on the server's side, so that a process that froze
//! or vanished cannot hold locks against its successor. On this side each call runs under
//! [`crate::within`]. No connection is made to, or kept with, a server that cannot be written: what
//! is read there may be old, and stay so.

mod attempts;
mod host;
mod invalid_url;
mod parameters;
mod session;
mod url;

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use deadpool::Runtime;
use diesel::result::{DatabaseErrorKind, Error as DieselError, QueryResult};
use diesel::sql_types::Bool;
use diesel_async::pooled_connection::deadpool::{Object, Pool as DeadPool};
use diesel_async::pooled_connection::{
    AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Config, NoTls};

use crate::pg::cached::cached_rows;
use crate::pg::error::StorageError;
use attempts::{Memory, Refusal, first_usable};
use host::{Address, Host};
use parameters::ParsedUrl;

pub use invalid_url::InvalidDatabaseUrl;
pub use session::Session;

/// A pool of connections of one kind.
pub type Pool = DeadPool<AsyncPgConnection>;
/// A connection lent by a [`Pool`].
pub type PooledConnection = Object<AsyncPgConnection>;

/// How long making a connection may take, from the first look for an address to the session's last
/// setting, unless the URL's `connect_timeout` says otherwise.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

const READ_ONLY: &str = "cannot be written to: it is a standby, or set to read only";

/// A parsed `DATABASE_URL`. Its `Debug` and `Display` show hosts, ports and database only.
#[derive(Clone)]
pub struct Database {
    config: Config,
    hosts: Vec<Host>,
    schema: Option<String>,
    connect_deadline: Duration,
    read_write: bool,
    memory: Arc<Memory>,
}

impl std::str::FromStr for Database {
    type Err = InvalidDatabaseUrl;

    /// Understands what libpq's URLs say, and `?schema=name` besides, which becomes the search path.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url: ParsedUrl = text.parse()?;
        Ok(Self {
            config: url.config,
            hosts: url.hosts,
            schema: url.schema,
            connect_deadline: url.connect_timeout.unwrap_or(CONNECT_DEADLINE),
            read_write: url.read_write,
            memory: Arc::default(),
        })
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, host) in self.hosts.iter().enumerate() {
            let comma = if nth > 0 { "," } else { "" };
            write!(f, "{comma}{host}")?;
        }
        match self.config.get_dbname() {
            Some(name) => write!(f, "/{name}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Database({self}, schema {:?})", self.schema)
    }
}

impl Database {
    /// The schema of `?schema=`, if one was named.
    pub fn schema(&self) -> Option<&str> {
        self.schema.as_deref()
    }

    /// Makes a connection to a server that can be used, and sets it up.
    ///
    /// # Errors
    /// [`StorageError::Connect`] with what Postgres or the network said.
    pub async fn connect(&self, session: &Session) -> Result<AsyncPgConnection, StorageError> {
        let named = self.config.get_application_name().is_some();
        let settings = session.settings(self.schema(), named);
        let resolve = async |name: String, port| {
            let found = tokio::net::lookup_host((name, port)).await;
            Ok(found?.collect())
        };
        let attempt = |address| self.attempt(address, &settings);
        let limit = self.connect_deadline;
        let connected = first_usable(&self.hosts, limit, &self.memory, resolve, attempt).await;
        connected.map_err(|refused| self.refused(&refused))
    }

    async fn attempt(
        &self,
        address: Address,
        settings: &str,
    ) -> Result<AsyncPgConnection, Refusal> {
        let mut config = self.config.clone();
        // Of one address alone; a request to cancel a statement goes there too.
        match address {
            Address::Tcp(address) => config.hostaddr(address.ip()).port(address.port()),
            Address::Unix(folder, port) => config.host_path(folder).port(port),
        };
        config.connect_timeout(self.connect_deadline);
        let (client, connection) = config.connect(NoTls).await.map_err(|e| refusal(&e))?;
        let mut connection = AsyncPgConnection::try_from_client_and_connection(client, connection)
            .await
            .map_err(|e| e.to_string())?;
        connection
            .batch_execute(settings)
            .await
            .map_err(|e| e.to_string())?;
        Ok(connection)
    }

    fn refused(&self, refused: &[(String, Refusal)]) -> StorageError {
        let reasons: Vec<_> = match refused {
            // Named already.
            [(_, only)] if self.hosts.len() == 1 => vec![only.reason.clone()],
            several => several
                .iter()
                .map(|(who, refusal)| format!("{who}: {}", refusal.reason))
                .collect(),
        };
        StorageError::Connect {
            address: self.to_string(),
            reason: reasons.join("; "),
            // All servers of a URL have the same roles and databases: one answer is enough.
            lasting: refused.iter().any(|(_, refusal)| refusal.lasting),
        }
    }

    /// Whether a connection that was made before may still be used: it is there, and its server can
    /// be written. One round trip.
    ///
    /// # Errors
    /// When it is not, or cannot be asked.
    pub(crate) async fn check(&self, conn: &mut AsyncPgConnection) -> Result<(), StorageError> {
        Ok(check(self.read_write, conn).await?)
    }

    /// A pool of at most `size` connections, made when they are needed. Waiting for one, making one
    /// and checking one each end within `patience`.
    pub fn pool(&self, session: &Session, size: usize, patience: Duration) -> Pool {
        let mut manager = ManagerConfig::default();
        let (database, session) = (self.clone(), session.clone());
        manager.custom_setup = Box::new(move |_| {
            let (database, session) = (database.clone(), session.clone());
            Box::pin(async move {
                database
                    .connect(&session)
                    .await
                    .map_err(|e| diesel::ConnectionError::BadConnection(e.to_string()))
            })
        });
        // Takes the place of the usual look whether the connection is alive, and costs the same.
        let read_write = self.read_write;
        manager.recycling_method = RecyclingMethod::CustomFunction(Box::new(move |conn| {
            Box::pin(check(read_write, conn))
        }));
        let manager = AsyncDieselConnectionManager::new_with_config(self.to_string(), manager);
        DeadPool::builder(manager)
            .max_size(size)
            .wait_timeout(Some(patience))
            .create_timeout(Some(patience))
            .recycle_timeout(Some(patience))
            .runtime(Runtime::Tokio1)
            .build()
            .expect("a pool with a runtime and timeouts can be built")
    }
}

async fn check(read_write: bool, conn: &mut AsyncPgConnection) -> QueryResult<()> {
    const IS_READ_ONLY: &str = "select current_setting('transaction_read_only')::bool";
    let (is_read_only,): (bool,) = cached_rows::<(Bool,)>(IS_READ_ONLY)
        .get_result(conn)
        .await?;
    if is_read_only && read_write {
        let why = Box::new(format!("the server {READ_ONLY}"));
        return Err(DieselError::DatabaseError(
            DatabaseErrorKind::ReadOnlyTransaction,
            why,
        ));
    }
    Ok(())
}

/// An SQL identifier, quoted.
pub(crate) fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// Why an attempt to connect failed.
fn refusal(error: &tokio_postgres::Error) -> Refusal {
    let cause = error.source().and_then(|e| e.downcast_ref::<io::Error>());
    // The client's own words for a server that does not pass `target_session_attrs`; the system's
    // refusals have a number.
    let is_read_only = cause.is_some_and(|cause| {
        cause.kind() == io::ErrorKind::PermissionDenied && cause.raw_os_error().is_none()
    });
    if is_read_only {
        return READ_ONLY.to_owned().into();
    }
    let lasting = match error.code() {
        Some(code) => [
            SqlState::INVALID_PASSWORD,
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            SqlState::INVALID_CATALOG_NAME,
            SqlState::INSUFFICIENT_PRIVILEGE,
        ]
        .contains(code),
        // What the server asks for is not in the URL.
        None => error.to_string().starts_with("invalid configuration"),
    };
    Refusal {
        reason: with_sources(error),
        lasting,
    }
}

fn with_sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_used() {
        let url = "postgres://u:p@h/d?options=-c%20a.b%3D1&schema=s+t&application_name=a+b%20c\
                   &connect_timeout=3&keepalives_idle=7&tcp_user_timeout=1500";
        let database: Database = url.parse().unwrap();
        let config = &database.config;
        assert_eq!(config.get_options(), Some("-c a.b=1"));
        assert_eq!(config.get_application_name(), Some("a+b c"));
        assert_eq!(config.get_keepalives_idle(), Duration::from_secs(7));
        let unacknowledged = Duration::from_millis(1_500);
        assert_eq!(config.get_tcp_user_timeout(), Some(&unacknowledged));
        assert_eq!(database.schema(), Some("s+t"));
        assert_eq!(database.connect_deadline, Duration::from_secs(3));
    }

    #[test]
    fn credentials_are_decoded_and_parameters_count() {
        let url = "postgres://a%40b:2024%2FS%25@h/d?user=c&dbname=e";
        let database: Database = url.parse().unwrap();
        assert_eq!(database.config.get_user(), Some("c"));
        let password = database.config.get_password();
        assert_eq!(password, Some(b"2024/S%".as_slice()));
        assert_eq!(database.to_string(), "h:5432/e");
    }
}
