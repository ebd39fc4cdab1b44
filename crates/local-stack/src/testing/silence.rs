//! Addresses at which nobody answers.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::time::Duration;

use tokio::task::JoinSet;

/// Takes connections and never says anything, like a frozen broker. Ends with this value.
#[derive(Debug)]
pub struct Mute {
    address: SocketAddr,
    _accepting: JoinSet<()>,
}

impl Mute {
    /// Listens on a free port.
    ///
    /// # Panics
    /// When no port is to be had.
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has one");
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = Vec::new();
            while let Ok((connection, _)) = listener.accept().await {
                connections.push(connection);
            }
        });
        Self {
            address,
            _accepting: accepting,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Lets no connection in and refuses none, like a host behind a firewall that drops packets: the
/// queue of a listener that nobody accepts from is full. Ends with this value.
#[derive(Debug)]
pub struct Dropping {
    address: SocketAddr,
    _listener: TcpListener,
    _queue: Vec<TcpStream>,
}

impl Dropping {
    /// Listens on a free port, and fills its queue.
    ///
    /// # Panics
    /// When no port is to be had, or connections are still let in.
    pub fn start() -> Self {
        let (listener, address) = listener().expect("a free port");
        let mut queue = Vec::new();
        for _ in 0..64 {
            match TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
                Ok(connection) => queue.push(connection),
                Err(_) => {
                    return Self {
                        address,
                        _listener: listener,
                        _queue: queue,
                    };
                }
            }
        }
        panic!("the queue of {address} is not to be filled");
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// With the shortest queue there is.
fn listener() -> io::Result<(TcpListener, SocketAddr)> {
    use nix::sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, socket,
    };
    use std::os::fd::AsRawFd;
    let family = AddressFamily::Inet;
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let any_port = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    bind(socket.as_raw_fd(), &SockaddrIn::from(any_port))?;
    listen(&socket, Backlog::new(0)?)?;
    let listener = TcpListener::from(socket);
    let address = listener.local_addr()?;
    Ok((listener, address))
}
