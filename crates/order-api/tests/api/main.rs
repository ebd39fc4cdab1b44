//! The API as its clients, its operator and its database see it. Each test has the whole service,
//! in-process, on ports and a database of its own.
#![allow(clippy::unwrap_used)]

mod access_log;
mod answers;
mod cancel;
mod connections;
mod executable;
mod faults;
mod group_commit;
mod helpers;
mod idempotency;
mod limits;
mod listing;
mod migrating;
mod openapi;
mod orders;
mod p1_atomic;
mod plans;
mod process;
mod processes;
mod proxy;
mod readiness;
mod refusals;
mod restart;
mod servers;
mod store;
mod tracing;
mod wake_ups;
mod wire;
