//! The arrows between the crates point one way: `domain` ← `storage`, `messaging` ← the three
//! services; `service` knows none of them. What tests use (dev-dependencies) is free.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// What each crate of the workspace may use of the workspace.
const ARROWS: [(&str, &[&str]); 11] = [
    ("domain", &[]),
    ("storage", &["domain"]),
    ("messaging", &["domain"]),
    ("service", &[]),
    ("order-api", &["domain", "storage", "service"]),
    (
        "outbox-relay",
        &["domain", "storage", "messaging", "service"],
    ),
    (
        "order-consumer",
        &["domain", "storage", "messaging", "service"],
    ),
    // For its migrations.
    ("local-stack", &["storage"]),
    // Sees the services from outside, as processes.
    ("e2e", &["domain", "messaging", "local-stack"]),
    // Runs the services' code on ports of its own; what it models has the types of the two below.
    (
        "simulation",
        &[
            "domain",
            "storage",
            "messaging",
            "service",
            "outbox-relay",
            "order-consumer",
        ],
    ),
    // Measures the parts one by one.
    (
        "bench",
        &[
            "domain",
            "storage",
            "messaging",
            "service",
            "order-api",
            "outbox-relay",
            "order-consumer",
            "local-stack",
        ],
    ),
];

/// Who may name a crate of the outside in its dependencies: no SQL outside `storage`, no Kafka
/// request outside `messaging`. The services name diesel-async for the trait that begins a
/// transaction. What a span is to OpenTelemetry is known to `service` alone, and to the collector
/// that tests use.
const GATES: [(&str, &[&str]); 11] = [
    ("diesel", &["storage"]),
    ("diesel_migrations", &["storage"]),
    ("diesel-async", &["storage", "order-api", "order-consumer"]),
    (
        "tokio-postgres",
        &["storage", "local-stack", "e2e", "bench"],
    ),
    ("rskafka", &["messaging", "bench"]),
    ("actix-web", &["service", "order-api"]),
    ("opentelemetry", &["service"]),
    ("opentelemetry_sdk", &["service"]),
    ("opentelemetry-http", &["service"]),
    ("opentelemetry-otlp", &["service"]),
    ("opentelemetry-proto", &["service", "local-stack"]),
];

/// What a crate must not reach, not even through others.
const WALLS: [(&str, &[&str]); 4] = [
    (
        "domain",
        &[
            "tokio",
            "mio",
            "socket2",
            "diesel",
            "diesel-async",
            "tokio-postgres",
            "rskafka",
            "actix-web",
            "reqwest",
        ],
    ),
    ("storage", &["rskafka", "actix-web", "reqwest"]),
    (
        "messaging",
        &[
            "diesel",
            "diesel-async",
            "tokio-postgres",
            "actix-web",
            "reqwest",
        ],
    ),
    (
        "service",
        &["diesel", "diesel-async", "tokio-postgres", "rskafka"],
    ),
];

/// Each package's own dependencies by name, those of tests and build scripts left out.
type Graph = BTreeMap<String, BTreeSet<String>>;

struct Workspace {
    members: BTreeSet<String>,
    uses: Graph,
}

impl Workspace {
    fn read() -> Self {
        let output = Command::new(env!("CARGO"))
            .args(["tree", "--workspace", "--edges", "normal"])
            .args(["--prefix", "depth", "--locked", "--offline"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "cargo tree: {error}");
        Self::parse(&String::from_utf8(output.stdout).unwrap())
    }

    /// Lines such as `2serde v1.0.0 (*)`: the depth and the package. What is below a package is
    /// printed where it comes first.
    fn parse(tree: &str) -> Self {
        let mut graph = Graph::new();
        let mut members = BTreeSet::new();
        let mut path: Vec<&str> = Vec::new();
        for line in tree.lines().filter(|line| !line.is_empty()) {
            let name_at = line.find(|c: char| !c.is_ascii_digit()).unwrap();
            let depth: usize = line[..name_at].parse().unwrap();
            let name = line[name_at..].split(' ').next().unwrap();
            path.truncate(depth);
            match path.last() {
                Some(user) => graph.get_mut(*user).unwrap().insert(name.to_owned()),
                None => members.insert(name.to_owned()),
            };
            path.push(name);
            // Two versions of one package are one here.
            graph.entry(name.to_owned()).or_default();
        }
        Self {
            members,
            uses: graph,
        }
    }

    /// Every arrow that points the wrong way, in words.
    fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        for member in &self.members {
            let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| name == member) else {
                found.push(format!("{member} is not in the table of arrows"));
                continue;
            };
            for used in self.uses[member].intersection(&self.members) {
                if !allowed.contains(&used.as_str()) {
                    found.push(format!("{member} must not depend on {used}"));
                }
            }
        }
        for (gated, allowed) in GATES {
            for member in &self.members {
                if self.uses[member].contains(gated) && !allowed.contains(&member.as_str()) {
                    found.push(format!("{member} must not depend on {gated}"));
                }
            }
        }
        for (member, walled) in WALLS {
            let reached = self.reached_from(member);
            let behind = walled.iter().filter(|name| reached.contains(**name));
            found.extend(behind.map(|name| format!("{member} reaches {name}")));
        }
        found
    }

    fn reached_from<'a>(&'a self, package: &'a str) -> BTreeSet<&'a str> {
        let mut reached = BTreeSet::new();
        let mut next = vec![package];
        while let Some(package) = next.pop() {
            let uses = self.uses[package].iter().map(String::as_str);
            next.extend(uses.filter(|used| reached.insert(*used)));
        }
        reached
    }

    fn with_arrow(mut self, from: &str, to: &str) -> Self {
        self.uses.get_mut(from).unwrap().insert(to.to_owned());
        self
    }
}

#[test]
fn every_arrow_points_the_right_way() {
    let violations = Workspace::read().violations();
    assert!(violations.is_empty(), "{violations:#?}");
}

#[test]
fn a_turned_arrow_is_found() {
    for (from, to, expected) in [
        ("domain", "tokio", "domain reaches tokio"),
        ("domain", "storage", "domain must not depend on storage"),
        ("storage", "messaging", "storage reaches rskafka"),
        ("service", "storage", "service must not depend on storage"),
        (
            "order-consumer",
            "diesel",
            "order-consumer must not depend on diesel",
        ),
        (
            "outbox-relay",
            "local-stack",
            "outbox-relay must not depend on local-stack",
        ),
        (
            "order-consumer",
            "rskafka",
            "order-consumer must not depend on rskafka",
        ),
    ] {
        let violations = Workspace::read().with_arrow(from, to).violations();
        assert!(
            violations.iter().any(|found| found == expected),
            "{violations:#?}"
        );
    }
}
