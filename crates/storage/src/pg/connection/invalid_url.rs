//! What a `DATABASE_URL` can be refused for.

/// A text that is no usable `DATABASE_URL`. Says what is wrong without repeating the password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDatabaseUrl {
    #[error("must be a URL like postgres://user:password@host:5432/database")]
    NotAUrl,
    #[error("must begin with postgres:// or postgresql://")]
    Scheme,
    #[error(
        "is ambiguous: percent-encode special characters of the user, the password \
         and the database (/ is %2F, ? is %3F, @ is %40, % is %25)"
    )]
    Encoding,
    #[error("contains a NUL (%00)")]
    Nul,
    #[error("names no host, or an empty host in a list")]
    NoHost,
    #[error("an IPv6 address must be in brackets, as in [::1]")]
    Ipv6,
    #[error(
        "a port must be a number from 1 to 65535; percent-encode a password with special characters"
    )]
    Port,
    #[error("names {ports} ports for {hosts} hosts")]
    Ports { ports: usize, hosts: usize },
    #[error("hostaddr names {addresses} addresses for {hosts} hosts")]
    Addresses { addresses: usize, hosts: usize },
    #[error("hostaddr must be an IP address, or several separated by commas")]
    HostAddress,
    #[error("a parameter must be of the form name=value")]
    NotAPair,
    #[error("{0} is given twice")]
    Twice(&'static str),
    #[error("{name} must be {expected}")]
    Value {
        name: &'static str,
        expected: &'static str,
    },
    #[error("has an unknown parameter{}", .0.as_ref().map(|n| format!(" {n}")).unwrap_or_default())]
    Unknown(Option<String>),
    #[error("asks for TLS ({0}), which is not supported")]
    Tls(&'static str),
    #[error(
        "schema must be the name of one schema, 1 to 63 bytes long, and not one of Postgres' own"
    )]
    Schema,
}
