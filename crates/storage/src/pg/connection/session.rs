//! What a connection is for, and what it therefore sets on the server's side.
//!
//! A session sets whatever it relies on itself: the role and the database may be set otherwise, for
//! the sake of others.

use std::time::Duration;

use super::quoted;

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
set enable_indexscan = on; set enable_indexonlyscan = on; set enable_nestloop = on; \
set enable_seqscan = off; set enable_bitmapscan = off; set enable_hashjoin = off; \
set enable_mergejoin = off; set enable_memoize = off; set plan_cache_mode = force_custom_plan; ";

/// A look that follows a lock must see what happened before the lock was had: each statement has a
/// snapshot of its own under `read committed` alone, and nothing is retried for another's sake.
const ISOLATION: &str = "set default_transaction_isolation = 'read committed'; ";

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
    pub fn long_running(application_name: &'static str) -> Self {
        Self {
            application_name,
            statement_timeout: Duration::from_mins(10),
            transaction_timeout: Duration::from_mins(30),
            planner: Planner::Default,
        }
    }

    /// What a statement may take.
    pub fn statement_timeout(&self) -> Duration {
        self.statement_timeout
    }

    /// The statements that set it up, in `schema` where one is named. A name that the URL gives to
    /// the application stays.
    pub(super) fn settings(&self, schema: Option<&str>, named_by_url: bool) -> String {
        let statement_ms = self.statement_timeout.as_millis();
        let transaction_ms = self.transaction_timeout.as_millis();
        // Those that not every version knows are set where they are known.
        let mut sql = format!(
            "set statement_timeout = {statement_ms}; set lock_timeout = {statement_ms}; \
             set idle_in_transaction_session_timeout = {transaction_ms}; \
             set tcp_keepalives_idle = 3; set tcp_keepalives_interval = 1; \
             set tcp_keepalives_count = 3; \
             select set_config(s.name, v.value, false) from pg_settings s \
             join (values ('transaction_timeout', '{transaction_ms}'), \
                          ('idle_session_timeout', '0')) v(name, value) on v.name = s.name; "
        );
        sql.push_str(ISOLATION);
        if !named_by_url {
            sql.extend(["set application_name = '", self.application_name, "'; "]);
        }
        if self.planner == Planner::IndexOnly {
            sql.push_str(INDEX_PLANS);
        }
        if let Some(schema) = schema {
            sql.extend(["set search_path = ", &quoted(schema), ";"]);
        }
        sql
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_becomes_the_search_path() {
        let settings = Session::request("t").settings(Some("my\"s"), false);
        let expected = r#"set search_path = "my""s";"#;
        assert!(settings.ends_with(expected), "{settings}");
        assert!(settings.contains("set application_name = 't'"));
    }
}
