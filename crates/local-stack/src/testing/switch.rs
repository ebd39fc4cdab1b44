//! A way to one of several servers, as a virtual address or a name that moves is one.

use std::net::Ipv4Addr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Leads connections to the server that is set at the moment. Ends with this value.
#[derive(Debug)]
pub struct Switch {
    port: u16,
    target: watch::Sender<u16>,
    cuts: watch::Sender<u64>,
    _tasks: JoinSet<()>,
}

impl Switch {
    /// Listens on a free port and leads to `target`, a port of this machine.
    ///
    /// # Panics
    /// When no port is to be had.
    pub async fn start(target: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a port of its own");
        let port = listener.local_addr().expect("it has one").port();
        let (target, leads_to) = watch::channel(target);
        let (cuts, cut) = watch::channel(0);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(pass(client, *leads_to.borrow(), cut.clone()));
            }
        });
        Self {
            port,
            target,
            cuts,
            _tasks: tasks,
        }
    }

    /// On `127.0.0.1`.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Leads new connections to another server. Those that exist stay where they are.
    pub fn lead_to(&self, target: u16) {
        self.target.send_replace(target);
    }

    /// Ends the connections that exist.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

async fn pass(mut client: TcpStream, target: u16, mut cut: watch::Receiver<u64>) {
    cut.mark_unchanged();
    // A server that is away is seen by the client as it is: nobody answers.
    let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => {}
        _ = cut.changed() => {}
    }
}
