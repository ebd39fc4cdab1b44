//! The pages and their parts.

use std::fs;
use std::path::{Path, PathBuf};

pub(crate) fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().unwrap()
}

pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// README.md and every page under docs/: path and text.
pub(crate) fn pages() -> Vec<(String, String)> {
    let mut paths = vec!["README.md".to_owned()];
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if Path::new(&name).extension().is_some_and(|end| end == "md") {
            paths.push(format!("docs/{name}"));
        }
    }
    let with_text = |path: String| (path.clone(), read(&path));
    paths.into_iter().map(with_text).collect()
}

/// The fenced blocks of a language.
pub(crate) fn blocks<'t>(text: &'t str, language: &str) -> Vec<&'t str> {
    // Fences alternate: what has an odd number is inside of one.
    let fenced = text.split("```").skip(1).step_by(2);
    fenced
        .filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n'))
        .collect()
}

/// What stands between backticks outside of fences.
pub(crate) fn spans(text: &str) -> Vec<&str> {
    let outside = text.split("```").step_by(2);
    outside
        .flat_map(|part| part.lines())
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .collect()
}

/// The text under a heading, up to the next of the same or a higher level.
pub(crate) fn section<'t>(text: &'t str, heading: &str) -> &'t str {
    let start = text
        .find(&format!("\n{heading}\n"))
        .unwrap_or_else(|| panic!("there is no {heading}"));
    let body = &text[start + heading.len() + 2..];
    let level = heading.split(' ').next().unwrap();
    let end = (1..=level.len())
        .filter_map(|hashes| body.find(&format!("\n{} ", "#".repeat(hashes))))
        .min();
    &body[..end.unwrap_or(body.len())]
}

/// The first cells of a section's tables, where they are code.
pub(crate) fn named_rows(section: &str) -> Vec<&str> {
    let code = |line| Some(str::strip_prefix(line, "| `")?.split_once('`')?.0);
    section.lines().filter_map(code).collect()
}
