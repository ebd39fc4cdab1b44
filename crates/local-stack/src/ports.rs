//! Picks ports for the servers.

use std::net::{Ipv4Addr, TcpListener};

use uuid::Uuid;

use crate::error::{IoContext, StackError};

/// Below the range that outgoing connections take their ports from (32768 up on Linux, 49152 up on
/// macOS): one of those could be taken between this choice and the server's start.
const FIRST: u16 = 20_000;
const COUNT: u16 = 10_000;

/// `N` different ports on which nothing listens.
pub(crate) fn free<const N: usize>() -> Result<[u16; N], StackError> {
    let mut held: Vec<TcpListener> = Vec::new();
    let mut ports = [0; N];
    for port in &mut ports {
        let (found, listener) = bind_one()?;
        *port = found;
        // Held until all are found, so that no port is given twice.
        held.push(listener);
    }
    Ok(ports)
}

fn bind_one() -> Result<(u16, TcpListener), StackError> {
    let mut attempts_left = 100;
    loop {
        let port = port_of(Uuid::now_v7());
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(listener) => return Ok((port, listener)),
            Err(_) if attempts_left > 0 => attempts_left -= 1,
            Err(error) => return Err(error).at("listen on", format!("127.0.0.1:{port}").as_ref()),
        }
    }
}

/// A port of the range from the random part of an id.
fn port_of(id: Uuid) -> u16 {
    let [.., high, low] = id.into_bytes();
    FIRST + u16::from_be_bytes([high, low]) % COUNT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_stay_in_the_range() {
        for last in [0, 1, 9_999, 10_000, u128::from(u16::MAX)] {
            let port = port_of(Uuid::from_u128(last));
            assert!((FIRST..FIRST + COUNT).contains(&port), "{port}");
        }
        assert_eq!(port_of(Uuid::from_u128(10_001)), 20_001);
    }

    #[test]
    fn a_taken_port_is_not_given() {
        let taken: Vec<u16> = free::<20>().unwrap().into();
        let mut distinct = taken.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), taken.len());
    }
}
