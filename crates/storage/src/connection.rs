//! Where the database is, and how a connection of each kind is set up.
//!
//! Every connection carries limits of its own on the server's side, so that a process that froze
//! or vanished cannot hold locks against its successor. On this side each call runs under
//! [`crate::within`].

use std::time::Duration;

use deadpool::Runtime;
use diesel_async::pooled_connection::deadpool::{Object, Pool as DeadPool};
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, ManagerConfig};
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use tokio_postgres::NoTls;
use url::{Url, form_urlencoded};

use crate::error::{StorageError, within};

/// A pool of connections of one kind.
pub type Pool = DeadPool<AsyncPgConnection>;
/// A connection lent by a [`Pool`].
pub type PooledConnection = Object<AsyncPgConnection>;

/// How long making a connection may take, from the first packet to the session's last setting.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// A parsed `DATABASE_URL`. Its `Debug` and `Display` show host, port and database only.
#[derive(Clone)]
pub struct Database {
    config: tokio_postgres::Config,
    schema: Option<String>,
    address: String,
}

/// A text that is no usable `DATABASE_URL`. Says what is wrong without repeating the password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDatabaseUrl {
    #[error("must be a URL like postgres://user:password@host:5432/database")]
    NotAUrl,
    #[error("must begin with postgres:// or postgresql://")]
    Scheme,
    #[error("{0}")]
    Option(String),
    #[error("asks for TLS (sslmode={0}), which this build does not speak")]
    Tls(String),
    #[error("schema must be 1 to 63 bytes long")]
    Schema,
}

impl std::str::FromStr for Database {
    type Err = InvalidDatabaseUrl;

    /// Understands what libpq's URLs say, and `?schema=name` besides, which becomes the search path.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut url = Url::parse(text).map_err(|_| InvalidDatabaseUrl::NotAUrl)?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(InvalidDatabaseUrl::Scheme);
        }
        let mut schema = None;
        // Passed on as they are: libpq's spaces are not those of a form.
        let mut others = Vec::new();
        let query = url.query().unwrap_or_default().replace('+', "%2B");
        for option in query.split('&').filter(|option| !option.is_empty()) {
            for (name, value) in form_urlencoded::parse(option.as_bytes()) {
                match (&*name, &*value) {
                    ("schema", name) => schema = Some(name.to_owned()),
                    ("sslmode", mode @ ("require" | "verify-ca" | "verify-full")) => {
                        return Err(InvalidDatabaseUrl::Tls(mode.to_owned()));
                    }
                    _ => others.push(option),
                }
            }
        }
        if schema
            .as_ref()
            .is_some_and(|s| s.is_empty() || s.len() > 63)
        {
            return Err(InvalidDatabaseUrl::Schema);
        }
        let others = (!others.is_empty()).then(|| others.join("&"));
        url.set_query(others.as_deref());
        let mut config: tokio_postgres::Config =
            url.as_str().parse().map_err(|e: tokio_postgres::Error| {
                let source = std::error::Error::source(&e).map(ToString::to_string);
                InvalidDatabaseUrl::Option(source.unwrap_or_else(|| e.to_string()))
            })?;
        if config.get_hosts().is_empty() {
            return Err(InvalidDatabaseUrl::NotAUrl);
        }
        config.connect_timeout(CONNECT_DEADLINE);
        config.keepalives_idle(Duration::from_secs(5));
        config.keepalives_interval(Duration::from_secs(2));
        config.keepalives_retries(2);
        let address = format!(
            "{}:{}{}",
            url.host_str().unwrap_or_default(),
            url.port().unwrap_or(5432),
            url.path()
        );
        Ok(Self {
            config,
            schema,
            address,
        })
    }
}

impl std::fmt::Display for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.address)
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Database({}, schema {:?})", self.address, self.schema)
    }
}

/// What a connection is for. Decides its limits on the server's side.
#[derive(Debug, Clone)]
pub struct Session {
    application_name: &'static str,
    /// No statement runs longer; also the longest wait for a lock.
    statement_timeout: Duration,
    /// No transaction stays open longer, idle or not (where the server knows the setting).
    transaction_timeout: Duration,
    planner: Planner,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Planner {
    Default,
    /// Index walks only, planned for each set of parameters: the plans of the outbox's read and
    /// settle must not depend on statistics, which are stale on tables that fill and empty.
    IndexOnly,
}

const INDEX_PLANS: &str = "\
set enable_seqscan = off; set enable_bitmapscan = off; set enable_hashjoin = off; \
set enable_mergejoin = off; set enable_memoize = off; set plan_cache_mode = force_custom_plan; ";

impl Session {
    /// For answering requests: short statements.
    pub fn request(application_name: &'static str) -> Self {
        Self {
            application_name,
            statement_timeout: Duration::from_secs(4),
            transaction_timeout: Duration::from_secs(5),
            planner: Planner::Default,
        }
    }

    /// For work under a lease: everything ends before a successor could be waiting for it.
    pub fn leased(application_name: &'static str, lease_ttl: Duration) -> Self {
        let limit = lease_ttl * 2 / 3;
        Self {
            application_name,
            statement_timeout: limit,
            transaction_timeout: limit,
            planner: Planner::Default,
        }
    }

    /// The same, planned as the outbox's statements need it.
    #[must_use]
    pub fn with_index_plans(self) -> Self {
        Self {
            planner: Planner::IndexOnly,
            ..self
        }
    }

    /// For migrations and commands: long statements may take their time.
    pub fn unhurried(application_name: &'static str) -> Self {
        Self {
            application_name,
            statement_timeout: Duration::from_mins(10),
            transaction_timeout: Duration::from_mins(30),
            planner: Planner::Default,
        }
    }

    fn settings(&self, schema: Option<&str>) -> String {
        let statement_ms = self.statement_timeout.as_millis();
        let transaction_ms = self.transaction_timeout.as_millis();
        let mut sql = format!(
            "set application_name = '{}'; set statement_timeout = {statement_ms}; \
             set lock_timeout = {statement_ms}; \
             set idle_in_transaction_session_timeout = {transaction_ms}; \
             set tcp_keepalives_idle = 3; set tcp_keepalives_interval = 1; \
             set tcp_keepalives_count = 3; \
             select set_config(name, '{transaction_ms}', false) from pg_settings \
             where name = 'transaction_timeout';",
            self.application_name
        );
        if self.planner == Planner::IndexOnly {
            sql.push_str(INDEX_PLANS);
        }
        if let Some(schema) = schema {
            sql.extend(["set search_path = ", &quoted(schema), ";"]);
        }
        sql
    }
}

impl Database {
    /// The schema of `?schema=`, if one was named.
    pub fn schema(&self) -> Option<&str> {
        self.schema.as_deref()
    }

    /// Makes a connection and sets it up.
    ///
    /// # Errors
    /// [`StorageError::Connect`] with what Postgres or the network said.
    pub async fn connect(&self, session: &Session) -> Result<AsyncPgConnection, StorageError> {
        let refused = |reason: String| StorageError::Connect {
            address: self.address.clone(),
            reason,
        };
        within(CONNECT_DEADLINE, async {
            let (client, connection) = self
                .config
                .connect(NoTls)
                .await
                .map_err(|e| refused(with_sources(&e)))?;
            let mut connection =
                AsyncPgConnection::try_from_client_and_connection(client, connection)
                    .await
                    .map_err(|e| refused(e.to_string()))?;
            connection
                .batch_execute(&session.settings(self.schema()))
                .await
                .map_err(|e| refused(e.to_string()))?;
            Ok::<_, StorageError>(connection)
        })
        .await
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
        let manager = AsyncDieselConnectionManager::new_with_config(self.address.clone(), manager);
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

/// An SQL identifier, quoted.
pub(crate) fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

fn with_sources(error: &dyn std::error::Error) -> String {
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
    fn a_schema_becomes_the_search_path() {
        let database: Database = r#"postgresql://u:p@h:1234/d?schema=my"s&connect_timeout=3"#
            .parse()
            .unwrap();
        assert_eq!(database.schema(), Some("my\"s"));
        let settings = Session::request("t").settings(database.schema());
        assert!(
            settings.ends_with(r#"set search_path = "my""s";"#),
            "{settings}"
        );
        assert_eq!(database.to_string(), "h:1234/d");
    }

    #[test]
    fn options_keep_their_spaces_and_plus_signs() {
        let url = "postgres://u:p@h/d?options=-c%20a.b%3D1&schema=s+t&application_name=a+b%20c";
        let database: Database = url.parse().unwrap();
        assert_eq!(database.config.get_options(), Some("-c a.b=1"));
        assert_eq!(database.config.get_application_name(), Some("a+b c"));
        assert_eq!(database.schema(), Some("s+t"));
    }

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        let refused = |url: &str| url.parse::<Database>().unwrap_err().to_string();
        assert!(refused("mysql://u:secret@h/d").contains("postgres://"));
        assert!(refused("nonsense").contains("postgres://user"));
        assert!(refused("postgres://u:secret@h/d?sslmode=require").contains("TLS"));
        assert!(refused("postgres://u:secret@h/d?wrong=1").contains("wrong"));
        assert!(refused("postgres://u:secret@h/d?schema=").contains("schema"));
        for url in ["postgres://u:secret@h/d?wrong=1", "mysql://u:secret@h/d"] {
            assert!(!refused(url).contains("secret"));
        }
        let database: Database = "postgres://u:secret@h/d".parse().unwrap();
        assert!(!format!("{database:?}{database}").contains("secret"));
    }
}
