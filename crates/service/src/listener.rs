//! Opening the TCP ports of a process, with errors that name the setting to change.

use std::io;
use std::net::{Ipv4Addr, TcpListener};

/// A port could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process, or another listener of this one, has the port.
    #[error("port {port} is already in use; stop what uses it or set {setting} to another port")]
    InUse {
        /// Name of the setting that chose the port.
        setting: &'static str,
        /// The port asked for.
        port: u16,
    },
    /// Anything else, for example a port below 1024 without the right to open it.
    #[error("port {port} (setting {setting}) cannot be opened")]
    Refused {
        /// Name of the setting that chose the port.
        setting: &'static str,
        /// The port asked for.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
}

/// Opens `port` on every IPv4 address of the machine; 0 lets the system choose one.
///
/// `setting` is the name of the setting the port comes from, for the error text.
///
/// # Errors
/// The port is taken or may not be opened.
pub fn listen(setting: &'static str, port: u16) -> Result<TcpListener, ListenError> {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse { setting, port },
        _ => ListenError::Refused {
            setting,
            port,
            source,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_names_the_setting() {
        let first = listen("PORT", 0).unwrap();
        let port = first.local_addr().unwrap().port();
        let error = listen("PORT", port).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("port {port} is already in use; stop what uses it or set PORT to another port")
        );
    }
}
