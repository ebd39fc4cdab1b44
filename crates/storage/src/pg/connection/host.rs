//! The hosts of a `DATABASE_URL`, and the addresses they stand for.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::invalid_url::InvalidDatabaseUrl as Invalid;

const DEFAULT_PORT: u16 = 5432;

/// A server as it is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) place: HostAddress,
    pub(super) port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HostAddress {
    /// To be resolved.
    Name(String),
    Ip(IpAddr),
    /// The folder of a Unix socket.
    Folder(PathBuf),
}

/// Where one connection goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Tcp(SocketAddr),
    /// The folder of a Unix socket, and the port in the socket's name.
    Unix(PathBuf, u16),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.port;
        match &self.place {
            HostAddress::Name(name) => write!(f, "{name}:{port}"),
            HostAddress::Ip(ip) => write!(f, "{}", SocketAddr::new(*ip, port)),
            HostAddress::Folder(folder) => write!(f, "{}:{port}", folder.display()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(folder, port) => write!(f, "{}:{port}", folder.display()),
        }
    }
}

/// Names and ports, each as text and side by side, before either is judged.
#[derive(Debug, Default)]
pub(super) struct HostList {
    pub(super) names: Vec<String>,
    pub(super) ports: Vec<String>,
    pub(super) addresses: Vec<String>,
}

impl HostList {
    /// As libpq pairs them: one port counts for all hosts, and an empty one is the default.
    pub(super) fn pair(self) -> Result<Vec<Host>, Invalid> {
        let places = self.places()?;
        if places.is_empty() {
            return Err(Invalid::NoHost);
        }
        let (ports, hosts) = (self.ports.len(), places.len());
        if ports > 1 && ports != hosts {
            return Err(Invalid::Ports { ports, hosts });
        }
        let one = (ports == 1).then(|| self.ports[0].clone());
        places
            .into_iter()
            .enumerate()
            .map(|(nth, place)| {
                let port = one.as_ref().or_else(|| self.ports.get(nth));
                let port = port.map_or(Ok(DEFAULT_PORT), |port| parse_port(port))?;
                Ok(Host { place, port })
            })
            .collect()
    }

    fn places(&self) -> Result<Vec<HostAddress>, Invalid> {
        let named = self.names.iter().any(|name| !name.is_empty());
        if self.addresses.is_empty() {
            if !named {
                return Ok(Vec::new());
            }
            return self.names.iter().map(|name| parse_name(name)).collect();
        }
        let (addresses, hosts) = (self.addresses.len(), self.names.len());
        if named && addresses != hosts {
            return Err(Invalid::Addresses { addresses, hosts });
        }
        let ips = self.addresses.iter().map(|text| text.parse());
        let ips = ips.map(|ip| ip.map(HostAddress::Ip).map_err(|_| Invalid::HostAddress));
        ips.collect()
    }
}

fn parse_port(text: &str) -> Result<u16, Invalid> {
    if text.is_empty() {
        return Ok(DEFAULT_PORT);
    }
    let port = text.parse().ok().filter(|port| *port > 0);
    port.ok_or(Invalid::Port)
}

/// A name is what a resolver may be asked for. Anything else is likely a piece of a password.
fn parse_name(text: &str) -> Result<HostAddress, Invalid> {
    if text.is_empty() {
        return Err(Invalid::NoHost);
    }
    if text.starts_with('/') {
        return Ok(HostAddress::Folder(text.into()));
    }
    if let Ok(ip) = text.parse() {
        return Ok(HostAddress::Ip(ip));
    }
    if text.starts_with('[') {
        let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
        let ip = inner.and_then(|inner| inner.parse().ok());
        return ip
            .map(|ip| HostAddress::Ip(IpAddr::V6(ip)))
            .ok_or(Invalid::Ipv6);
    }
    if text
        .chars()
        .all(|c| c.is_alphanumeric() || "._-".contains(c))
    {
        return Ok(HostAddress::Name(text.to_owned()));
    }
    Err(Invalid::Encoding)
}
