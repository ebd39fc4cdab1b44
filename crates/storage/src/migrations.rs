//! The schema's history, embedded: applying it, and asking whether it is applied.

use std::collections::BTreeSet;
use std::time::Duration;

use diesel::migration::{Migration, MigrationSource};
use diesel::pg::Pg;
use diesel::sql_types::{Bool, Text};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncMigrationHarness, AsyncPgConnection, RunQueryDsl};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use crate::pg::connection::{Database, Session, quoted};
use crate::pg::error::{StorageError, with_timeout};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../migrations");

/// Held while migrating, so that several processes may try at once. Any constant of our own will do.
const ADVISORY_LOCK: i64 = 0x6f75_7462_6f78;

#[derive(QueryableByName)]
struct Exists {
    #[diesel(sql_type = Bool)]
    found: bool,
}

/// Why migrating failed.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("a migration failed: {0}")]
    Failed(String),
    #[error(transparent)]
    Encoding(#[from] ForeignEncoding),
}

/// A database whose text may be what no program can read: bytes without a meaning.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the database's encoding is {0}, expected UTF8: create it with \
     `create database … encoding 'UTF8' template template0`"
)]
pub struct ForeignEncoding(String);

impl ForeignEncoding {
    /// # Errors
    /// When a `server_encoding` is not the one expected.
    pub fn check(encoding: &str) -> Result<(), Self> {
        match encoding {
            "UTF8" => Ok(()),
            foreign => Err(Self(foreign.to_owned())),
        }
    }
}

/// Applies what is missing, and returns the versions applied (none when all were). The schema of
/// the URL is created when it is missing. Where there is nothing to do, no right is needed to do it:
/// `if not exists` would ask for it all the same.
///
/// Harmless to run twice or from several processes at once: an advisory lock lets one work at a
/// time. Each migration is a transaction of its own. Not cancellation safe: one that is dropped goes
/// on in the background.
///
/// # Errors
/// [`MigrationError`] when Postgres is away or a migration fails; those before it stay applied.
pub async fn migrate(database: &Database) -> Result<Vec<String>, MigrationError> {
    let mut conn = database.connect(&Session::long_running("migrate")).await?;
    // Ended with the session: whatever happens below, nobody waits for a lock without an owner.
    lock(&mut conn).await?;
    ForeignEncoding::check(&encoding(&mut conn).await?)?;
    if let Some(schema) = database.schema()
        && !has_schema(&mut conn, schema).await?
    {
        sql_query(format!("create schema if not exists {}", quoted(schema)))
            .execute(&mut conn)
            .await
            .map_err(StorageError::from)?;
    }
    if missing(&mut conn).await?.is_empty() {
        return Ok(Vec::new());
    }
    tokio::task::spawn_blocking(move || run_pending(conn))
        .await
        .map_err(|died| MigrationError::Failed(died.to_string()))?
}

async fn has_schema(conn: &mut AsyncPgConnection, name: &str) -> Result<bool, StorageError> {
    let found: Exists =
        sql_query("select exists (select from pg_namespace where nspname = $1) as found")
            .bind::<Text, _>(name)
            .get_result(conn)
            .await?;
    Ok(found.found)
}

/// On a thread of its own: the harness blocks, and blocking inside a task swallows the wake-ups of
/// whatever else that task waits for.
fn run_pending(conn: AsyncPgConnection) -> Result<Vec<String>, MigrationError> {
    let applied = AsyncMigrationHarness::new(conn)
        .run_pending_migrations(MIGRATIONS)
        .map_err(|e| MigrationError::Failed(e.to_string()))?
        .into_iter()
        .map(|version| version.to_string())
        .collect();
    Ok(applied)
}

async fn lock(conn: &mut AsyncPgConnection) -> Result<(), StorageError> {
    sql_query("select pg_advisory_lock($1)")
        .bind::<diesel::sql_types::BigInt, _>(ADVISORY_LOCK)
        .execute(conn)
        .await?;
    Ok(())
}

async fn encoding(conn: &mut AsyncPgConnection) -> Result<String, StorageError> {
    #[derive(QueryableByName)]
    struct Setting {
        #[diesel(sql_type = Text)]
        encoding: String,
    }
    let setting: Setting = sql_query("select current_setting('server_encoding') as encoding")
        .get_result(conn)
        .await?;
    Ok(setting.encoding)
}

/// Versions this program needs and the database lacks; empty when the schema is ready. A database
/// that is ahead is ready: migrations only ever add.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn missing(conn: &mut AsyncPgConnection) -> Result<Vec<String>, StorageError> {
    #[derive(QueryableByName)]
    struct Version {
        #[diesel(sql_type = Text)]
        version: String,
    }
    let table: Exists =
        sql_query("select to_regclass('__diesel_schema_migrations') is not null as found")
            .get_result(conn)
            .await?;
    let applied: BTreeSet<String> = if table.found {
        sql_query("select version::text from __diesel_schema_migrations")
            .load::<Version>(conn)
            .await?
            .into_iter()
            .map(|row| row.version)
            .collect()
    } else {
        BTreeSet::new()
    };
    Ok(embedded()
        .iter()
        .map(|migration| migration.name().version().to_string())
        .filter(|version| !applied.contains(version))
        .collect())
}

/// Whether nothing can be written over this connection: the server is a standby, or it or the
/// database is set so.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn is_read_only(conn: &mut AsyncPgConnection) -> Result<bool, StorageError> {
    #[derive(QueryableByName)]
    struct Setting {
        #[diesel(sql_type = Bool)]
        read_only: bool,
    }
    let setting: Setting =
        sql_query("select current_setting('transaction_read_only')::bool as read_only")
            .get_result(conn)
            .await?;
    Ok(setting.read_only)
}

/// A database that cannot be worked on yet.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("migrations are missing: {}; run `order-api migrate`", .0.join(", "))]
    Schema(Vec<String>),
}

/// Connects to a database whose schema is ready.
///
/// # Errors
/// [`NotReady`] says what to wait for.
pub async fn connect_when_ready(
    database: &Database,
    session: &Session,
) -> Result<AsyncPgConnection, NotReady> {
    let mut conn = database.connect(session).await?;
    let missing = with_timeout(Duration::from_secs(5), missing(&mut conn)).await?;
    if missing.is_empty() {
        Ok(conn)
    } else {
        Err(NotReady::Schema(missing))
    }
}

/// Changes whenever a migration does: names a template database that is up to date.
pub const FINGERPRINT: &str = env!("MIGRATIONS_FINGERPRINT");

fn embedded() -> Vec<Box<dyn Migration<Pg>>> {
    MIGRATIONS
        .migrations()
        .expect("embedded migrations are listed at compile time")
}
