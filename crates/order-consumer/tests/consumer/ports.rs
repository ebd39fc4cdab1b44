//! The consumer's logic reaches Postgres and Kafka through its ports only.

use std::path::Path;

/// May name a connection: what implements the ports, handlers, which are SQL, operators' commands, and
/// what puts a process together.
const OUTSIDE: [&str; 5] = ["adapters", "handlers", "commands", "app.rs", "settings.rs"];

const NAMES: [&str; 9] = [
    "diesel",
    "diesel_async",
    "rskafka",
    "Connection",
    "DedicatedConnection",
    "Database",
    "Session",
    "Cluster",
    "PartitionReader",
];

/// What a file names, by line.
fn named(source: &str) -> Vec<(usize, &str)> {
    let lines = source.lines().enumerate();
    let code = lines.filter(|(_, line)| !line.trim_start().starts_with("//"));
    let words = code.flat_map(|(number, line)| {
        let words = line.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        let words = words.filter(|word| NAMES.contains(word));
        // A kind of error, not a connection.
        let is_error = line.contains("KafkaError::Connection");
        words
            .filter(move |_| !is_error)
            .map(move |word| (number + 1, word))
    });
    words.collect()
}

fn search(path: &Path, found: &mut Vec<String>) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            search(&entry.unwrap().path(), found);
        }
        return;
    }
    let source = std::fs::read_to_string(path).unwrap();
    let named = named(&source).into_iter();
    found.extend(named.map(|(line, word)| format!("{}:{line}: {word}", path.display())));
}

#[test]
fn only_what_is_outside_of_the_ports_names_a_connection() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut inside, mut outside) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(src).unwrap() {
        let path = entry.unwrap().path();
        let is_outside = OUTSIDE.iter().any(|name| path.ends_with(name));
        let found = if is_outside {
            &mut outside
        } else {
            &mut inside
        };
        search(&path, found);
    }
    assert!(inside.is_empty(), "{inside:#?}");
    assert!(!outside.is_empty(), "nothing was searched");
}
