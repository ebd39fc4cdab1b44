//! A world in memory in which the relay's and the consumer's own code runs, so that one seed decides
//! everything: what is written, what goes wrong, and who acts when.
//!
//! | module | what is in it |
//! |---|---|
//! | `database` | Postgres as the statements of `storage` see it |
//! | `world` | Kafka, the network, processes, and what is wrong with them |
//! | `ports` | the services' ports, answered by the world |
//! | `writers`, `operators`, `processes` | who acts |
//! | `plan` | what a seed decides |
//! | `check` | what must be true |
//! | `run` | one run of a seed |

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod check;
pub mod database;
mod event;
mod operators;
mod plan;
mod ports;
mod processes;
pub mod run;
mod system;
mod world;
mod writers;
