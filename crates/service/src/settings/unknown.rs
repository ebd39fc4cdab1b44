//! Telling a misspelt setting from a variable that belongs to somebody else. A file given with
//! `--config` is ours, so every key in it must be known; an environment is shared, so only names
//! that look like ours are refused.

use std::collections::HashSet;

use super::Problem;
use super::file::Entry;
use super::known::Setting;

/// Prefixes that only this project uses.
const NAMESPACES: [&str; 3] = ["API__", "RELAY__", "CONSUMER__"];

/// Variables and prefixes of the programs around a service that may come close to ours.
const FOREIGN: [&str; 3] = ["POSTGRES_", "COMPOSE_", "RUSTC_LOG"];

/// Names shorter than this are a misspelling at distance 1 only: `HOST` is not `PORT`.
const SHORT: usize = 8;

/// A key of a settings file that is not a setting.
pub(super) fn refuse_key(known: &[Setting], entry: &Entry) -> Option<Problem> {
    if is_known(known, &entry.name) {
        return None;
    }
    let suggestion = closest(known, &entry.name);
    Some(Problem::Unknown {
        place: entry.place.clone(),
        suggestion: suggestion.map(|name| name.to_lowercase().replace("__", ".")),
    })
}

/// A variable that is not a setting but looks like one: in our namespaces, or almost the name of a
/// setting that is not in `set`.
pub(super) fn refuse_variable(
    known: &[Setting],
    set: &HashSet<&str>,
    entry: &Entry,
) -> Option<Problem> {
    let name = entry.name.as_str();
    if is_known(known, name) {
        return None;
    }
    let suggestion = closest(known, name);
    let ours = NAMESPACES.iter().any(|prefix| name.starts_with(prefix));
    let foreign = is_service_link(name) || FOREIGN.iter().any(|prefix| name.starts_with(prefix));
    let misspelt = suggestion.is_some_and(|meant| !set.contains(meant)) && !foreign;
    (ours || misspelt).then(|| Problem::Unknown {
        place: entry.place.clone(),
        suggestion: suggestion.map(str::to_owned),
    })
}

fn is_known(known: &[Setting], name: &str) -> bool {
    known.iter().any(|setting| setting.name == name)
}

/// The setting whose name is nearest, if it is near enough to have been meant.
fn closest(known: &[Setting], name: &str) -> Option<&'static str> {
    known
        .iter()
        .map(|setting| {
            (
                strsim::damerau_levenshtein(setting.name, name),
                setting.name,
            )
        })
        .filter(|(distance, meant)| *distance <= if meant.len() < SHORT { 1 } else { 2 })
        .min()
        .map(|(_, meant)| meant)
}

/// Variables that Kubernetes sets for every service of a namespace, such as `KAFKA_PORT` and
/// `KAFKA_PORT_9092_TCP_ADDR` for one called `kafka`:
/// <https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables>.
pub(super) fn is_service_link(name: &str) -> bool {
    let docker_style = || {
        name.match_indices("_PORT_").any(|(at, separator)| {
            let port = &name[at + separator.len()..];
            let digits = port.bytes().take_while(u8::is_ascii_digit).count();
            let protocol = &port[digits..];
            digits > 0
                && ["_TCP", "_UDP", "_SCTP"]
                    .iter()
                    .any(|p| protocol.starts_with(p))
        })
    };
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || docker_style()
}
