//! The command-line arguments of every service. A service's own commands are in the service.

use std::path::PathBuf;

/// Arguments common to the three binaries; include with `#[command(flatten)]`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct CommonArgs {
    /// Also read settings from this TOML file, which overrides the environment and `.env`
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
}
