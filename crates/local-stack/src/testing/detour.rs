//! A way to a server that leads through the test.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpListener, TcpStream};
use url::Url;

/// A URL like `url`, of a server on this machine, whose connections are handed to `pass` with one to
/// the server each. Ends with the runtime.
///
/// # Panics
/// When `url` has no port, or the system has none to give.
pub async fn detour<F>(
    url: &str,
    pass: impl Fn(TcpStream, TcpStream) -> F + Clone + Send + 'static,
) -> String
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut url = Url::parse(url).expect("a URL");
    let server = SocketAddr::from((Ipv4Addr::LOCALHOST, url.port().expect("a port")));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.expect("a port of its own");
    let port = listener.local_addr().expect("it has one").port();
    url.set_port(Some(port)).expect("it had one");
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let pass = pass.clone();
            tokio::spawn(async move {
                // A server that is away is seen by the client as it is: nobody answers.
                if let Ok(server) = TcpStream::connect(server).await {
                    let _ = (client.set_nodelay(true), server.set_nodelay(true));
                    pass(client, server).await;
                }
            });
        }
    });
    url.into()
}
