//! The relay on a real Postgres and a real Kafka. Each test has a database and topics of its own.

#![allow(clippy::unwrap_used)] // a test has nothing better to do with an error

mod acls;
mod admin;
mod commands;
mod commands_at_work;
mod counted;
mod decisions;
mod full_speed;
mod hand_over;
mod held;
mod horizon;
mod hot_key;
mod interleaving;
mod kafka_outage;
mod large_backlog;
mod load;
mod logical_copy;
mod lost_answers;
mod memory;
mod mute;
mod open_files;
mod orphans;
mod own_kafka;
mod own_postgres;
mod pauses;
mod postgres_hosts;
mod postgres_restart;
mod process;
mod progress;
mod promoted_standby;
mod refused;
mod request_sizes;
mod restore;
mod seen;
mod set_aside;
mod shares;
mod sharing;
mod soak;
mod steps;
mod support;
mod topic_changes;
mod topic_names;
mod unheard;
mod wake_ups;
mod writers;
