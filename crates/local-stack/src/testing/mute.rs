//! Addresses at which nobody answers.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// An address of this machine that is mute for as long as this value lives.
#[derive(Debug)]
pub struct Mute {
    address: SocketAddr,
    _listener: TcpListener,
    _waiting: Vec<TcpStream>,
}

impl Mute {
    /// Connections are made and nothing is ever said on them.
    ///
    /// # Panics
    /// When no port is to be had.
    pub async fn accepting() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        Self::of(listener.expect("a free port"), Vec::new())
    }

    /// Packets to it are dropped: no connection is ever made.
    ///
    /// # Panics
    /// When no port is to be had, or the system lets more connections wait than it should.
    pub async fn dropping() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
        socket.bind(any).expect("a free port");
        let listener = socket.listen(1).expect("a socket that listens");
        let address = listener.local_addr().expect("it has an address");
        // Nobody accepts, so the queue fills up, and then there is no place for the next.
        let mut waiting = Vec::new();
        for _ in 0..64 {
            let connected = TcpStream::connect(address);
            match tokio::time::timeout(Duration::from_millis(200), connected).await {
                Ok(connected) => waiting.push(connected.expect("there is place in the queue")),
                Err(_) => return Self::of(listener, waiting),
            }
        }
        panic!("the queue of {address} takes any number of connections");
    }

    fn of(listener: TcpListener, waiting: Vec<TcpStream>) -> Self {
        Self {
            address: listener.local_addr().expect("it has an address"),
            _listener: listener,
            _waiting: waiting,
        }
    }

    /// `127.0.0.1` and a port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
