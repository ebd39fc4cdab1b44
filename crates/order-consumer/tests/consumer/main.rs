//! The consumer on a real Postgres and a real Kafka. Each test has a database of its own.

#![allow(clippy::unwrap_used)] // a test has nothing better to do with an error

mod any_content;
mod brokers;
mod cancelled;
mod clients;
mod commands;
mod dead_letter_events;
mod example;
mod faults;
mod handlers;
mod idle_outages;
mod java;
mod memory;
mod metrics_and_readiness;
mod mute_hosts;
mod narrowing;
mod offsets;
mod ops;
mod poison;
mod ports;
mod position;
mod process;
mod progress;
mod property;
mod quota;
mod redrive;
mod retention;
mod servers;
mod session_settings;
mod speed;
mod steps;
mod support;
mod topic_identity;
