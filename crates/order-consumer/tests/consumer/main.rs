//! The consumer on a real Postgres and a real Kafka. Each test has a database of its own.

#![allow(clippy::unwrap_used)] // a test has nothing better to do with an error

mod announced;
mod any_content;
mod away;
mod brokers;
mod cancelled;
mod clients;
mod commands;
mod example;
mod faults;
mod handlers;
mod java;
mod memory;
mod mute_hosts;
mod narrowing;
mod offsets;
mod ops;
mod place;
mod poison;
mod process;
mod progress;
mod property;
mod quota;
mod redrive;
mod retention;
mod seen;
mod servers;
mod session_settings;
mod speed;
mod steps;
mod support;
mod topic_identity;
