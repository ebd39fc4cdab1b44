//! Hangs up on clients that keep a connection without asking for anything: they send the next head
//! bit by bit, or do not take their answer in. The server itself bounds the first head of a
//! connection and the silence between requests, but nothing that has begun after the first request;
//! a few thousand such clients would keep everybody else out for good.

use std::any::Any;
use std::cell::Cell;
use std::net::{Shutdown, TcpStream as Handle};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use actix_web::dev::{Extensions, ServiceRequest};
use actix_web::rt;
use actix_web::rt::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use super::{HEAD_WITHIN, KEEP_ALIVE};

/// Time a connection has from one request's answer to the next request: to be silent for as long as
/// it may, and then to send a head.
const NEXT_WITHIN: Duration = KEEP_ALIVE.saturating_add(HEAD_WITHIN);

/// What a connection is used for at the moment. Everything about it happens on one thread.
struct Activity {
    under_way: Cell<bool>,
    /// Since when no request is under way.
    idle_since: Cell<Instant>,
}

/// Kept by a connection for as long as it lives.
struct Watched {
    activity: Rc<Activity>,
    _open: oneshot::Sender<()>,
}

/// A request under way; it ends with this value.
pub(super) struct UnderWay(Option<Rc<Activity>>);

/// Watches a connection that was just accepted. It needs a second handle of the socket, which the
/// server does not lend.
pub(super) fn watch(connection: &dyn Any, data: &mut Extensions) {
    let stream = connection.downcast_ref::<TcpStream>();
    let handle = stream.and_then(|stream| stream.as_fd().try_clone_to_owned().ok());
    let Some(handle) = handle else {
        tracing::warn!("cannot watch a connection: it cannot be duplicated");
        return;
    };
    let activity = Rc::new(Activity {
        under_way: Cell::new(false),
        idle_since: Cell::new(Instant::now()),
    });
    let (open, closed) = oneshot::channel();
    rt::spawn(hang_up(handle.into(), Rc::clone(&activity), closed));
    data.insert(Watched {
        activity,
        _open: open,
    });
}

/// Notes that a request has begun.
pub(super) fn begin(request: &ServiceRequest) -> UnderWay {
    let watched = request.conn_data::<Watched>();
    let activity = watched.map(|watched| Rc::clone(&watched.activity));
    if let Some(activity) = &activity {
        activity.under_way.set(true);
    }
    UnderWay(activity)
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(activity) = &self.0 {
            activity.idle_since.set(Instant::now());
            activity.under_way.set(false);
        }
    }
}

impl Activity {
    /// When the client has had its time, unless something happens until then.
    fn due(&self) -> Instant {
        let idle_since = if self.under_way.get() {
            Instant::now()
        } else {
            self.idle_since.get()
        };
        idle_since + NEXT_WITHIN
    }
}

/// Ends with the connection, or ends it. Looks once in a while instead of being told of requests,
/// which would cost each of them two wake-ups.
async fn hang_up(handle: Handle, activity: Rc<Activity>, mut closed: oneshot::Receiver<()>) {
    loop {
        tokio::select! {
            _ = &mut closed => return,
            () = sleep_until(activity.due()) => {}
        }
        if activity.due() <= Instant::now() {
            tracing::debug!("closing the connection of a slow client");
            // Fails when the client has hung up itself.
            let _ = handle.shutdown(Shutdown::Both);
            return;
        }
    }
}
