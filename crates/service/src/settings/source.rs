//! Where settings come from, and which of several values counts. It knows which settings exist but
//! not what their values mean.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fmt;
use std::path::Path;

use config::{Config, Map, Source as _, Value};

use super::file::{Entry, read_dotenv, read_toml};
use super::known::{KNOWN, Setting};
use super::unknown::{refuse_key, refuse_variable};
use super::{Problem, Reader, SettingsError};

/// All settings that are set, merged, as text. Defaults are not included.
pub struct Source {
    known: &'static [Setting],
    values: Map<String, Value>,
    problems: Vec<Problem>,
}

impl Source {
    /// Merges `.env` of the working directory, the environment, and `config_file`; later wins. An
    /// empty value counts as not given.
    ///
    /// Unknown settings are not an error yet: [`Reader::finish`] reports them together with
    /// everything else.
    ///
    /// # Errors
    /// A file that cannot be read or parsed. A missing `.env` is fine.
    pub fn load(config_file: Option<&Path>) -> Result<Source, SettingsError> {
        Source::merge(
            KNOWN,
            Some(Path::new(".env")),
            std::env::vars_os(),
            config_file,
        )
    }

    /// Settings as if the environment held exactly these; for tests.
    ///
    /// # Errors
    /// None at present; the same shape as [`Source::load`].
    pub fn from_pairs<N, V>(
        pairs: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Source, SettingsError>
    where
        N: Into<OsString>,
        V: Into<OsString>,
    {
        let pairs = pairs
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()));
        Source::merge(KNOWN, None, pairs, None)
    }

    /// Typed access that collects every problem.
    pub fn reader(&self) -> Reader<'_> {
        Reader::new(self, self.problems.clone())
    }

    /// As [`Source::load`], with every input given.
    pub(super) fn merge(
        known: &'static [Setting],
        dotenv: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        config_file: Option<&Path>,
    ) -> Result<Source, SettingsError> {
        let mut problems = Vec::new();
        let mut layer = |entries: Result<Vec<Entry>, Problem>| {
            entries.unwrap_or_else(|problem| {
                problems.push(problem);
                Vec::new()
            })
        };
        let dotenv = layer(dotenv.map_or(Ok(Vec::new()), read_dotenv));
        let file = layer(config_file.map_or(Ok(Vec::new()), read_toml));
        // Half of the settings would only raise false alarms about the other half.
        SettingsError::new(problems)?;

        let mut problems = Vec::new();
        let variables = [dotenv, read_environment(known, environment, &mut problems)].concat();
        let variables = only_set(variables);
        let file = only_set(file);

        let set: HashSet<&str> = variables
            .iter()
            .chain(&file)
            .map(|entry| entry.name.as_str())
            .collect();
        problems.extend(
            variables
                .iter()
                .filter_map(|entry| refuse_variable(known, &set, entry)),
        );
        problems.extend(file.iter().filter_map(|entry| refuse_key(known, entry)));
        problems.extend(written_twice(&file));

        let values = merge_known(known, &[variables, file])?;
        Ok(Source {
            known,
            values,
            problems,
        })
    }

    /// The declaration of a setting.
    pub(super) fn setting(&self, name: &str) -> Option<&'static Setting> {
        self.known.iter().find(|setting| setting.name == name)
    }

    /// A setting's value and where it was written; `None` when it is not given.
    pub(super) fn value(&self, name: &str) -> Option<(String, &str)> {
        let value = self.values.get(name)?;
        Some((value.clone().into_string().ok()?, value.origin()?))
    }
}

impl fmt::Debug for Source {
    /// Names only; values may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("set", &self.values.keys())
            .field("problems", &self.problems)
            .finish_non_exhaustive()
    }
}

/// The environment as entries. Only a known setting has to be Unicode: the rest is not ours.
fn read_environment(
    known: &[Setting],
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    problems: &mut Vec<Problem>,
) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (name, value) in environment {
        let Ok(name) = name.into_string() else {
            continue;
        };
        match value.into_string() {
            Ok(value) => entries.push(Entry {
                place: name.clone(),
                name,
                value,
            }),
            Err(_) if known.iter().any(|setting| setting.name == name) => {
                problems.push(Problem::Refused {
                    value: name,
                    reason: "must be Unicode text".to_owned(),
                });
            }
            Err(_) => {}
        }
    }
    entries
}

/// Compose passes a variable that is not set as an empty one.
fn only_set(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.retain(|entry| !entry.value.is_empty());
    entries
}

/// Keys that differ in case or nesting only; which of them counts would be chance.
fn written_twice(entries: &[Entry]) -> Vec<Problem> {
    let mut first = HashMap::new();
    let mut problems = Vec::new();
    for entry in entries {
        if let Some(place) = first.insert(&entry.name, &entry.place) {
            problems.push(Problem::Twice {
                first: place.clone(),
                second: entry.place.clone(),
            });
        }
    }
    problems
}

/// The known settings of all layers; later layers win.
fn merge_known(
    known: &[Setting],
    layers: &[Vec<Entry>],
) -> Result<Map<String, Value>, SettingsError> {
    let builder = layers.iter().fold(Config::builder(), |builder, entries| {
        let is_known = |entry: &&Entry| known.iter().any(|setting| setting.name == entry.name);
        builder.add_source(Layer(entries.iter().filter(is_known).cloned().collect()))
    });
    builder
        .build()
        .and_then(|config| config.collect())
        .map_err(|error| SettingsError {
            problems: vec![Problem::Refused {
                value: "settings".to_owned(),
                reason: error.to_string(),
            }],
        })
}

/// Entries as a source of crate `config`. A value's origin is the place it was written at.
#[derive(Clone)]
struct Layer(Vec<Entry>);

impl config::Source for Layer {
    fn clone_into_box(&self) -> Box<dyn config::Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        let value = |entry: &Entry| Value::new(Some(&entry.place), entry.value.clone());
        Ok(self
            .0
            .iter()
            .map(|entry| (entry.name.clone(), value(entry)))
            .collect())
    }
}

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|entry| &entry.place))
            .finish()
    }
}
