//! The one parser of `DATABASE_URL`. What it understood is what is used and what is shown: nobody
//! else reads the text, and no error repeats a part of it that may be a password.
//!
//! It reads libpq's URLs (PostgreSQL's documentation, 32.1.1.2), and `?schema=name` besides. It is
//! stricter where libpq would take a piece of a password that is not percent-encoded for a host, a
//! port or a database.

use std::collections::BTreeMap;

use super::host::HostList;
use super::invalid_url::InvalidDatabaseUrl as Invalid;
use super::parameters::{self, Parameters, ParsedUrl};

impl std::str::FromStr for ParsedUrl {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (scheme, rest) = text.trim().split_once("://").ok_or(Invalid::NotAUrl)?;
        if !matches!(scheme, "postgres" | "postgresql") {
            return Err(Invalid::Scheme);
        }
        let (before_query, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = before_query.split_once('/').unwrap_or((before_query, ""));
        // Behind a / or ? that should have been encoded lies the rest of a password, and then an @.
        if database.contains(['/', '@']) || query.contains('@') {
            return Err(Invalid::Encoding);
        }
        let (credentials, hosts) = match authority.rsplit_once('@') {
            Some((credentials, hosts)) => (Some(credentials), hosts),
            None => (None, authority),
        };
        let mut parameters = Parameters::default();
        if let Some(credentials) = credentials {
            let (user, password) = match credentials.split_once(':') {
                Some((user, password)) => (user, Some(password)),
                None => (credentials, None),
            };
            parameters.user = Some(text_of(user)?).filter(|user| !user.is_empty());
            parameters.password = password.map(decode).transpose()?;
        }
        if !database.is_empty() {
            parameters.dbname = Some(text_of(database)?);
        }
        let mut list = HostList::default();
        for host in hosts.split(',') {
            let (name, port) = split_port(host)?;
            list.names.push(text_of(name)?);
            list.ports.push(text_of(port)?);
        }
        parameters.hosts = list;
        parameters.read(pairs(query)?)?;
        parameters.finish()
    }
}

/// Name and port, which may be empty, of one host.
fn split_port(host: &str) -> Result<(&str, &str), Invalid> {
    if !host.starts_with('[') {
        return Ok(host.split_once(':').unwrap_or((host, "")));
    }
    let end = host.find(']').ok_or(Invalid::Ipv6)? + 1;
    match host.split_at(end) {
        (name, "") => Ok((name, "")),
        (name, port) => port
            .strip_prefix(':')
            .map(|p| (name, p))
            .ok_or(Invalid::Ipv6),
    }
}

/// The parameters behind the `?`, by name. Names are known ones.
fn pairs(query: &str) -> Result<BTreeMap<&'static str, Vec<u8>>, Invalid> {
    let mut pairs = BTreeMap::new();
    let mut has_password = false;
    let mut unknown = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or(Invalid::NotAPair)?;
        let name = text_of(name)?;
        has_password |= name.ends_with("password");
        match parameters::known(&name) {
            Some(name) if pairs.contains_key(name) => return Err(Invalid::Twice(name)),
            Some(name) => drop(pairs.insert(name, decode(value)?)),
            None => unknown = unknown.or(Some(name)),
        }
    }
    match unknown {
        None => Ok(pairs),
        // It may be the end of a password that holds an &.
        Some(_) if has_password => Err(Invalid::Unknown(None)),
        Some(name) => Err(parameters::unknown(name)),
    }
}

/// What percent-encoded text stands for.
fn decode(text: &str) -> Result<Vec<u8>, Invalid> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                let value = digit().zip(digit()).map(|(high, low)| high * 16 + low);
                let value = value.and_then(|value| u8::try_from(value).ok());
                value.ok_or(Invalid::Encoding)?
            }
            plain => plain,
        });
    }
    if bytes.contains(&0) {
        return Err(Invalid::Nul);
    }
    Ok(bytes)
}

fn text_of(encoded: &str) -> Result<String, Invalid> {
    String::from_utf8(decode(encoded)?).map_err(|_| Invalid::Encoding)
}
