//! The parameters of a `DATABASE_URL`: their names, and what their values may be.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::TargetSessionAttrs;

use super::host::{Host, HostList};
use super::invalid_url::InvalidDatabaseUrl as Invalid;

/// Those that are understood.
const KNOWN: &[&str] = &[
    "application_name",
    "channel_binding",
    "connect_timeout",
    "dbname",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "load_balance_hosts",
    "options",
    "password",
    "port",
    "schema",
    "sslmode",
    "target_session_attrs",
    "tcp_user_timeout",
    "user",
];

/// Longer than any server on a network takes that works. Nothing may wait for ever.
const LONGEST_CONNECT_TIMEOUT: u64 = 60;

/// How soon a server that vanished is noticed on an idle connection, unless the URL says otherwise.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_COUNT: u32 = 2;

/// The name of a parameter that is understood.
pub(super) fn known(name: &str) -> Option<&'static str> {
    KNOWN.iter().copied().find(|known| *known == name)
}

/// What to say of one that is not. It is named when it looks like a name.
pub(super) fn unknown(name: String) -> Invalid {
    if name.starts_with("ssl") {
        return Invalid::Tls("a parameter that begins with ssl");
    }
    let is_name = name.len() <= 32 && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    Invalid::Unknown(is_name.then_some(name))
}

/// What a URL says.
#[derive(Clone)]
pub(super) struct ParsedUrl {
    /// Everything but hosts and ports.
    pub(super) config: Config,
    pub(super) hosts: Vec<Host>,
    pub(super) schema: Option<String>,
    pub(super) connect_timeout: Option<Duration>,
    /// Whether a server must be one that can be written.
    pub(super) read_write: bool,
}

/// What was read so far. Parameters behind the `?` come last and count.
#[derive(Default)]
pub(super) struct Parameters {
    pub(super) user: Option<String>,
    pub(super) password: Option<Vec<u8>>,
    pub(super) dbname: Option<String>,
    pub(super) hosts: HostList,
    rest: BTreeMap<&'static str, String>,
}

impl Parameters {
    pub(super) fn read(&mut self, pairs: BTreeMap<&'static str, Vec<u8>>) -> Result<(), Invalid> {
        for (name, value) in pairs {
            if name == "password" {
                self.password = Some(value);
                continue;
            }
            let value = String::from_utf8(value).map_err(|_| Invalid::Encoding)?;
            let list = || value.split(',').map(str::to_owned).collect();
            match name {
                "user" => self.user = Some(value),
                "dbname" => self.dbname = Some(value),
                "host" => self.hosts.names = list(),
                "port" => self.hosts.ports = list(),
                "hostaddr" => self.hosts.addresses = list(),
                _ => drop(self.rest.insert(name, value)),
            }
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<ParsedUrl, Invalid> {
        let mut config = Config::new();
        if let Some(user) = &self.user {
            config.user(user);
        }
        if let Some(password) = &self.password {
            config.password(password);
        }
        if let Some(dbname) = &self.dbname {
            config.dbname(dbname);
        }
        if let Some(options) = self.rest.get("options") {
            config.options(options);
        }
        if let Some(name) = self.rest.get("application_name") {
            config.application_name(name);
        }
        self.check_tls()?;
        self.keepalives(&mut config)?;
        // Only one of them can be written, whatever the order in which they are tried.
        self.one_of(
            "load_balance_hosts",
            "disable or random",
            &["disable", "random"],
        )?;
        let attributes = self.one_of(
            "target_session_attrs",
            "read-write, primary or any: the services write",
            &["read-write", "primary", "any"],
        )?;
        let read_write = attributes != Some("any");
        if read_write {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        let connect_timeout = self.number(
            "connect_timeout",
            "0 (the default) to 60 seconds",
            LONGEST_CONNECT_TIMEOUT,
        )?;
        let schema = self.rest.get("schema").cloned();
        if !schema.as_deref().is_none_or(is_one_schema) {
            return Err(Invalid::Schema);
        }
        Ok(ParsedUrl {
            config,
            hosts: self.hosts.pair()?,
            schema,
            connect_timeout: connect_timeout.filter(|s| *s > 0).map(Duration::from_secs),
            read_write,
        })
    }

    fn check_tls(&self) -> Result<(), Invalid> {
        let without = ["disable", "allow", "prefer"];
        let with = ["require", "verify-ca", "verify-full"];
        let expected = "disable, allow or prefer";
        let mode = self.one_of("sslmode", expected, &[without, with].concat())?;
        match mode {
            Some("require") => return Err(Invalid::Tls("sslmode=require")),
            Some("verify-ca") => return Err(Invalid::Tls("sslmode=verify-ca")),
            Some("verify-full") => return Err(Invalid::Tls("sslmode=verify-full")),
            _ => {}
        }
        let binding = ["disable", "prefer", "require"];
        match self.one_of("channel_binding", "disable or prefer", &binding)? {
            Some("require") => Err(Invalid::Tls("channel_binding=require")),
            _ => Ok(()),
        }
    }

    fn keepalives(&self, config: &mut Config) -> Result<(), Invalid> {
        // As in libpq, 0 is the default.
        let seconds = |name| -> Result<Option<Duration>, Invalid> {
            let seconds = self.number(name, "a number of seconds", 1_000_000)?;
            Ok(seconds.filter(|s| *s > 0).map(Duration::from_secs))
        };
        let on = self.one_of("keepalives", "0 or 1", &["0", "1"])?;
        config.keepalives(on != Some("0"));
        config.keepalives_idle(seconds("keepalives_idle")?.unwrap_or(KEEPALIVE_IDLE));
        config.keepalives_interval(seconds("keepalives_interval")?.unwrap_or(KEEPALIVE_INTERVAL));
        let count = self.number("keepalives_count", "a number", 1_000)?;
        let count = count.filter(|n| *n > 0).and_then(|n| u32::try_from(n).ok());
        config.keepalives_retries(count.unwrap_or(KEEPALIVE_COUNT));
        let expected = "a number of milliseconds";
        if let Some(unacknowledged @ 1..) =
            self.number("tcp_user_timeout", expected, 1_000_000_000)?
        {
            config.tcp_user_timeout(Duration::from_millis(unacknowledged));
        }
        Ok(())
    }

    /// The value of a parameter that is one of these words.
    fn one_of(
        &self,
        name: &'static str,
        expected: &'static str,
        words: &[&'static str],
    ) -> Result<Option<&'static str>, Invalid> {
        let Some(value) = self.rest.get(name) else {
            return Ok(None);
        };
        let word = words.iter().copied().find(|word| word == value);
        word.map(Some).ok_or(Invalid::Value { name, expected })
    }

    fn number(
        &self,
        name: &'static str,
        expected: &'static str,
        most: u64,
    ) -> Result<Option<u64>, Invalid> {
        let Some(value) = self.rest.get(name) else {
            return Ok(None);
        };
        let number = value.trim().parse().ok().filter(|number| *number <= most);
        number.map(Some).ok_or(Invalid::Value { name, expected })
    }
}

/// A name that the search path takes for nothing else. A list is none: it would make a schema whose
/// name has a comma.
fn is_one_schema(name: &str) -> bool {
    let own = name.starts_with("pg_") || name == "information_schema" || name == "$user";
    (1..=63).contains(&name.len()) && !name.contains(',') && !own
}
