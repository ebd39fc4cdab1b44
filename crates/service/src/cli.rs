//! Command-line arguments every service takes. A service's own commands live in the service.

use std::path::PathBuf;

/// Arguments common to the three binaries; include with `#[command(flatten)]`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct CommonArgs {
    /// Read settings from this TOML file too; it wins over the environment and `.env`
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
}
