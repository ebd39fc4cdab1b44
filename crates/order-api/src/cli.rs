//! The command line.

use clap::{Parser, Subcommand};
use service::CommonArgs;

/// Takes orders over HTTP and commits each with its event.
///
/// Settings come from .env, the environment and --config. Only DATABASE_URL must be set.
#[derive(Debug, Parser)]
#[command(name = "order-api", version)]
pub struct Arguments {
    /// What to do. Default: serve
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub common: CommonArgs,
}

/// The commands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Serve the API until SIGTERM or SIGINT (the default)
    #[default]
    Serve,
    /// Bring the database's schema up to date and exit
    Migrate,
    /// Check whether the process on this machine is ready; exits with 0 or 1
    Healthcheck,
}
