//! The statements against a real Postgres. Each test has a database of its own.

#![allow(clippy::unwrap_used)] // a test has nothing better to do with an error

mod any_content;
mod database_url;
mod dedicated_connection;
mod inbox;
mod lease;
mod lease_fence;
mod lease_interleaving;
mod lease_sharing;
mod lease_tenure;
mod member;
mod migrations;
mod mute_hosts;
mod orders;
mod outbox_moves;
mod outbox_plans;
mod outbox_plans_beside;
mod outbox_redrive;
mod outbox_replay;
mod outbox_retention;
mod outbox_rewritten;
mod outbox_status;
mod outbox_unavailable;
mod outbox_writers;
mod read_only;
mod session_settings;
mod support;
