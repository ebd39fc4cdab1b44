//! The command line. What its commands do is elsewhere.

use clap::{Parser, Subcommand};
use service::CommonArgs;

/// Takes orders over HTTP and commits each with its event.
///
/// Settings come from .env, the environment and --config; DATABASE_URL is the one that must be set.
#[derive(Debug, Parser)]
#[command(name = "order-api", version)]
pub struct Arguments {
    /// What to do; serve when nothing is given
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub common: CommonArgs,
}

/// What the executable can do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Serve the API until SIGTERM or SIGINT (the default)
    #[default]
    Serve,
    /// Bring the database's schema up to date and exit
    Migrate,
    /// Ask the process with these settings on this machine whether it is ready: exit status 0 or 1
    Healthcheck,
}
