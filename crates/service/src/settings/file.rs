//! Reading the two kinds of files settings come from, `.env` and TOML, into entries. Errors give the
//! line's number and never its text, which may hold a password.

use std::io;
use std::path::Path;

use config::{File, FileFormat, Map, Source as _, Value, ValueKind};

use super::Problem;

/// A setting as it was found.
#[derive(Clone)]
pub(super) struct Entry {
    /// The setting's name in the form of a variable.
    pub(super) name: String,
    /// The setting as it was written, and where: `api.group_commit in order.toml`.
    pub(super) place: String,
    /// The value as text.
    pub(super) value: String,
}

/// The entries of a `.env` file, in order; none when the file does not exist. Does not touch the
/// environment of the process.
pub(super) fn read_dotenv(path: &Path) -> Result<Vec<Entry>, Problem> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(path, &error)),
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    dotenvy::from_read_iter(text.as_bytes())
        .map(|item| match item {
            Ok((name, value)) => Ok(Entry {
                place: format!("{name} in {}", path.display()),
                name,
                value,
            }),
            Err(error) => Err(broken_dotenv(path, text, &error)),
        })
        .collect()
}

fn broken_dotenv(path: &Path, text: &str, error: &dotenvy::Error) -> Problem {
    let line = match error {
        dotenvy::Error::LineParse(line, _) => line_number(text, line.trim_end()),
        _ => None,
    };
    Problem::Broken {
        file: path.to_owned(),
        line,
        reason: "not of the form NAME=value, or a quotation mark is not closed".to_owned(),
    }
}

/// The number, from 1, of the line of `text` that `broken`, which may span several, begins at.
fn line_number(text: &str, broken: &str) -> Option<usize> {
    text.match_indices(broken)
        .map(|(start, _)| &text[..start])
        .find(|before| before.is_empty() || before.ends_with('\n'))
        .map(|before| before.matches('\n').count() + 1)
}

/// The entries of a TOML file: a key `a` is the setting `A`, a key `b` under `[a]` is `A__B`.
pub(super) fn read_toml(path: &Path) -> Result<Vec<Entry>, Problem> {
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
    let table = File::from_str(&text, FileFormat::Toml)
        .collect()
        .map_err(|error| broken_toml(path, &error))?;
    let mut entries = Vec::new();
    flatten(path, "", table, &mut entries)?;
    // The table has no order of its own; problems are listed in this one.
    entries.sort_by(|a, b| a.place.cmp(&b.place));
    Ok(entries)
}

fn flatten(
    path: &Path,
    prefix: &str,
    table: Map<String, Value>,
    entries: &mut Vec<Entry>,
) -> Result<(), Problem> {
    for (key, value) in table {
        let key = format!("{prefix}{key}");
        if let ValueKind::Table(inner) = value.kind {
            flatten(path, &format!("{key}."), inner, entries)?;
            continue;
        }
        let place = format!("{key} in {}", path.display());
        let value = text_of(value).ok_or_else(|| Problem::Refused {
            value: place.clone(),
            reason: "must be a string, a number, true, false, or a list of these".to_owned(),
        })?;
        entries.push(Entry {
            name: key.replace('.', "__").to_uppercase(),
            place,
            value,
        });
    }
    Ok(())
}

/// A scalar as text, a list as its elements with commas between.
fn text_of(value: Value) -> Option<String> {
    match value.kind {
        ValueKind::Array(elements) => {
            let texts: Option<Vec<_>> = elements.into_iter().map(text_of).collect();
            texts.map(|texts| texts.join(","))
        }
        _ => value.into_string().ok(),
    }
}

fn broken_toml(path: &Path, error: &config::ConfigError) -> Problem {
    let text = match error {
        config::ConfigError::FileParse { cause, .. } => cause.to_string(),
        other => other.to_string(),
    };
    let (line, reason) = without_excerpt(&text);
    Problem::Broken {
        file: path.to_owned(),
        line,
        reason,
    }
}

/// A TOML parser's message is a position, an excerpt of the file and a reason. The excerpt may hold
/// a password; the rest is kept.
fn without_excerpt(message: &str) -> (Option<usize>, String) {
    let mut lines = message.lines();
    let position = lines.next().unwrap_or_default();
    let line = position
        .split_once(" at line ")
        .and_then(|(_, rest)| rest.split(',').next()?.parse().ok());
    if line.is_none() {
        return (None, position.to_owned());
    }
    let is_excerpt = |line: &str| {
        line.trim_start_matches(|c: char| c == ' ' || c.is_ascii_digit())
            .starts_with('|')
    };
    let reason: Vec<_> = lines.filter(|line| !is_excerpt(line)).collect();
    (line, reason.join("; "))
}

fn unreadable(path: &Path, error: &io::Error) -> Problem {
    Problem::Unreadable {
        file: path.to_owned(),
        reason: error.to_string(),
    }
}
