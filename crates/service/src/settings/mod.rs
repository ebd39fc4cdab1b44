//! Settings of a process: where they come from ([`Source`]), how they are read ([`Reader`]), which
//! there are ([`known`]) and what can be wrong with them ([`Problem`]).
//!
//! Read once, at the start of `main`; nothing below `main` looks at the environment. What a value
//! means is up to the caller, through `FromStr`.

mod file;
pub mod known;
mod reader;
mod secret;
mod source;
mod unknown;
mod worker;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

pub use known::{DefaultValue, KNOWN, Service, Setting};
pub use reader::Reader;
pub use secret::Secret;
pub use source::Source;
pub use worker::WorkerSettings;

/// Exit status for settings that cannot be used: `EX_CONFIG` of `sysexits.h`.
pub const EXIT_SETTINGS: u8 = 78;

/// Everything that is wrong with the settings, at least one problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsError {
    problems: Vec<Problem>,
}

/// One thing that is wrong. Its text names the setting as it was written and never holds the value
/// of a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A setting without a default is not set.
    #[error("{name} is not set, expected {expected}")]
    Missing {
        /// The setting.
        name: String,
        /// What to set it to.
        expected: String,
    },
    /// A value does not parse.
    #[error("{value}, expected {expected}: {reason}")]
    Invalid {
        /// The setting and its value, such as `PORT is "http"`.
        value: String,
        /// What to set it to.
        expected: String,
        /// What the parser said.
        reason: String,
    },
    /// A value parses and is refused.
    #[error("{value}: {reason}")]
    Refused {
        /// The setting and its value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing reads this setting.
    #[error("{place} is not a setting{}", did_you_mean(.suggestion.as_deref()))]
    Unknown {
        /// The setting as it was written.
        place: String,
        /// What may have been meant.
        suggestion: Option<String>,
    },
    /// Two keys of one file that are the same setting.
    #[error("{first} and {second} are the same setting")]
    Twice {
        /// A key.
        first: String,
        /// Another.
        second: String,
    },
    /// A file cannot be read.
    #[error("{} cannot be read: {reason}", .file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// A file is not what its format demands.
    #[error("{}{}: {reason}", .file.display(), line_number(*.line))]
    Broken {
        /// The file.
        file: PathBuf,
        /// The line, counted from 1, if known.
        line: Option<usize>,
        /// What is wrong there, without the line itself: it may hold a password.
        reason: String,
    },
}

impl SettingsError {
    pub(crate) fn new(problems: Vec<Problem>) -> Result<(), SettingsError> {
        if problems.is_empty() {
            Ok(())
        } else {
            Err(SettingsError { problems })
        }
    }

    /// What is wrong, in the order found.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for SettingsError {
    /// One line per problem.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for SettingsError {}

/// Prints every problem to stderr, one per line, and returns the exit status for it, 78.
///
/// Plain lines, because the format of logs is one of the settings.
pub fn exit_code_for_settings(error: &SettingsError) -> ExitCode {
    eprintln!("{error}");
    ExitCode::from(EXIT_SETTINGS)
}

fn did_you_mean(suggestion: Option<&str>) -> String {
    suggestion.map_or_else(String::new, |name| format!("; did you mean {name}?"))
}

fn line_number(line: Option<usize>) -> String {
    line.map_or_else(String::new, |line| format!(", line {line}"))
}
