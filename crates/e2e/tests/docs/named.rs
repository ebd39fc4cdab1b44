//! Tests, files and pages that are named.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::pages::{pages, read, root, spans};

/// Tests have sentences for names; columns and metrics have fewer words. Constraints, which may have
/// as many, are in the schema.
fn is_test(name: &str) -> bool {
    let snake = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    let words = name.split('_').count();
    name.bytes().all(snake) && words > 5 && !name.ends_with("_total")
}

/// Every line of Rust in the workspace.
fn sources(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|end| end == "rs") {
            text.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn the_tests_and_files_that_are_named_exist() {
    let mut source = String::new();
    sources(&root().join("crates"), &mut source);
    let schema = read("migrations/00000000000012_outbox/up.sql");
    let mut missing = String::new();
    for (path, text) in pages() {
        for span in spans(&text) {
            let is_path = ["crates/", "migrations", "deploy", "docs/"]
                .iter()
                .any(|start| span.starts_with(start));
            if is_path && !root().join(span).exists() {
                writeln!(missing, "{path}: no file {span}").unwrap();
            }
            let is_constraint = schema.contains(&format!("constraint {span} "));
            if is_test(span) && !is_constraint && !source.contains(&format!("fn {span}(")) {
                writeln!(missing, "{path}: no test {span}").unwrap();
            }
        }
        let folder = Path::new(&path).parent().unwrap();
        for link in text.split("](").skip(1) {
            let (target, _) = link.split_once(')').unwrap();
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            if target.contains("://") {
                continue;
            }
            let file = if file.is_empty() {
                root().join(&path)
            } else {
                root().join(folder).join(file)
            };
            if !file.exists() {
                writeln!(missing, "{path}: no page {target}").unwrap();
            } else if !anchor.is_empty() && !anchors(&file).contains(anchor) {
                writeln!(missing, "{path}: no heading {target}").unwrap();
            }
        }
    }
    assert!(missing.is_empty(), "{missing}");
}

/// Of a page's headings, as GitHub makes them.
fn anchors(page: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(page).unwrap();
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let kept = title
                .chars()
                .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}
