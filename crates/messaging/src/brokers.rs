//! Addresses of brokers, as they are given and as brokers name one another.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::str::FromStr;

/// Where a broker listens: a name or an IP address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.parse::<Ipv6Addr>().is_ok() || host.contains('%') {
            write!(f, "[{host}]:{port}")
        } else {
            write!(f, "{host}:{port}")
        }
    }
}

/// A text that is no list of brokers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be host:port, or several separated by commas; {text:?} is not: {reason}")]
pub struct InvalidBrokers {
    text: String,
    reason: &'static str,
}

impl Address {
    fn parse(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Err("a broker must not be empty");
        }
        if text.contains("://") {
            return Err("leave out the scheme, such as PLAINTEXT://");
        }
        if text.contains([';', ' ', '\t', '\n']) {
            return Err("separate brokers with commas");
        }
        let (host, port) = text.rsplit_once(':').ok_or("the port is missing")?;
        let port = match port.parse() {
            Ok(0) | Err(_) => return Err("the port must be a number from 1 to 65535"),
            Ok(port) => port,
        };
        if host.starts_with('[') {
            // With its zone, where it has one.
            if text.parse::<SocketAddrV6>().is_err() {
                return Err("the brackets must contain an IPv6 address");
            }
            let host = host.trim_start_matches('[').trim_end_matches(']');
            return Ok(Self {
                host: host.to_owned(),
                port,
            });
        }
        if host.contains(':') {
            return Err("an IPv6 address must be in brackets, as in [::1]:9092");
        }
        let of_a_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if host.is_empty() || !host.chars().all(of_a_name) {
            return Err("the host must be a name or an IP address");
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

/// Bootstrap brokers: `host:port`, comma-separated, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Brokers(Vec<Address>);

impl FromStr for Brokers {
    type Err = InvalidBrokers;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let address = |text: &str| {
            let text = text.trim();
            Address::parse(text).map_err(|reason| InvalidBrokers {
                text: text.to_owned(),
                reason,
            })
        };
        text.split(',')
            .map(address)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl Brokers {
    pub(crate) fn addresses(&self) -> &[Address] {
        &self.0
    }
}

impl fmt::Display for Brokers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, address) in self.0.iter().enumerate() {
            if place > 0 {
                f.write_str(",")?;
            }
            write!(f, "{address}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_are_hosts_with_ports() {
        for right in [
            "a:9092",
            "kafka-1.example.com:9092,127.0.0.1:1",
            "a:9092,[::1]:9093",
            "[fe80::1%2]:9092",
        ] {
            let brokers: Brokers = right.parse().unwrap();
            assert_eq!(brokers.to_string(), right);
        }
        let spaced: Brokers = "a:9092, b:9092".parse().unwrap();
        assert_eq!(spaced.to_string(), "a:9092,b:9092");
    }

    #[test]
    fn what_is_no_list_of_brokers_is_refused_with_what_is_wrong_with_it() {
        for (wrong, reason) in [
            ("", "empty"),
            ("a:9092,", "empty"),
            ("a", "port is missing"),
            ("a:", "a number"),
            ("a:x", "a number"),
            ("a:0", "a number"),
            ("a:99999", "a number"),
            (":1", "the host"),
            ("a b:1", "commas"),
            ("PLAINTEXT://a:9092", "://"),
            ("a:1,SSL://b:2", "://"),
            ("a:1;b:2", "commas"),
            ("a:1 b:2", "commas"),
            ("a/b:1", "the host"),
            ("::1:9092", "brackets"),
            ("[::1:9092", "brackets"),
            ("[a]:9092", "brackets"),
            ("[::1]", "a number"),
        ] {
            let refused = wrong.parse::<Brokers>().unwrap_err().to_string();
            assert!(refused.contains(reason), "{wrong:?}: {refused}");
        }
    }
}
