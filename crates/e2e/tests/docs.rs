//! What README.md and the pages under docs/ say is so: settings, commands, metrics, SQL, and the
//! tests, files and pages they name. Whether their sentences are true is for their readers.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use local_stack::testing::TestDatabase;
use order_consumer::metrics::PartitionLabel;
use prometheus_client::registry::Registry;
use service::Source;
use service::settings::{KNOWN, Setting};

const SERVICES: usize = 3;

/// Variables that the docs may set and no service reads.
const OTHER_VARIABLES: [&str; 4] = [
    "LOCAL_STACK",
    "LOCAL_STACK_DIR",
    "POSTGRES_PORT",
    "KAFKA_PORT",
];

/// Files that a page tells its reader to make.
const TO_BE_MADE: [&str; 1] = ["crates/order-consumer/src/handlers/first_order.rs"];

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().unwrap()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// README.md and every page under docs/: path and text.
fn pages() -> Vec<(String, String)> {
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
fn blocks<'t>(text: &'t str, language: &str) -> Vec<&'t str> {
    // Fences alternate: what has an odd number is inside of one.
    let fenced = text.split("```").skip(1).step_by(2);
    fenced
        .filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n'))
        .collect()
}

/// What stands between backticks outside of fences.
fn spans(text: &str) -> Vec<&str> {
    let outside = text.split("```").step_by(2);
    outside
        .flat_map(|part| part.lines())
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .collect()
}

/// The text under a heading, up to the next of the same or a higher level.
fn section<'t>(text: &'t str, heading: &str) -> &'t str {
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
fn named_rows(section: &str) -> Vec<&str> {
    let code = |line| Some(str::strip_prefix(line, "| `")?.split_once('`')?.0);
    section.lines().filter_map(code).collect()
}

fn row(setting: &Setting) -> String {
    let services = if setting.services.len() == SERVICES {
        "all".to_owned()
    } else {
        setting.services.join(", ")
    };
    format!(
        "| `{}` | {} | {} | {} | {services} |",
        setting.name,
        setting.meaning,
        setting.expected,
        setting.default.unwrap_or("must be set"),
    )
}

#[test]
fn the_settings_are_those_that_the_services_know() {
    let readme = read("README.md");
    let table: Vec<&str> = section(&readme, "## Settings")
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect();
    let known: Vec<String> = KNOWN.iter().map(row).collect();
    assert!(
        table == known,
        "the table of settings in README.md must be\n{}",
        known.join("\n")
    );
}

/// A line of shell, as words; quotes group, a comment ends it. Brackets, which say that something
/// may be left out, are dropped.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quote) = (String::new(), None);
    for c in line.chars() {
        match (c, quote) {
            ('\'' | '"', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            (' ', None) => words.push(std::mem::take(&mut word)),
            ('#', None) if word.is_empty() => break,
            ('[' | ']', None) => {}
            _ => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

fn command_of(program: &str) -> Option<clap::Command> {
    Some(match program {
        "order-api" => order_api::cli::Arguments::command(),
        "outbox-relay" => outbox_relay::cli::Cli::command(),
        "order-consumer" => order_consumer::cli::Cli::command(),
        _ => return None,
    })
}

/// What is wrong with a command line of one of the binaries; placeholders pass for values.
fn refuse_arguments(program: &str, words: &[String]) -> Option<String> {
    let mut command = command_of(program)?;
    command.build();
    let mut at_options = false;
    for word in words {
        if let Some(long) = word.strip_prefix("--") {
            at_options = true;
            let long = long.split('=').next().unwrap_or_default();
            if !command.get_arguments().any(|a| a.get_long() == Some(long)) {
                return Some(format!("{program} … has no --{long} there"));
            }
        } else if !at_options && command.has_subcommands() {
            match command.find_subcommand(word) {
                Some(sub) => command = sub.clone(),
                None => return Some(format!("{program} has no command {word}")),
            }
        } else if !at_options && command.get_positionals().next().is_none() {
            return Some(format!("{program} … takes no {word}"));
        }
    }
    None
}

/// What is wrong with a line of shell.
fn refuse_line(line: &str) -> Option<String> {
    let mut words = words(line);
    while let Some((name, _)) = words.first().and_then(|word| word.split_once('=')) {
        let known = KNOWN.iter().any(|setting| setting.name == name);
        if !known && !OTHER_VARIABLES.contains(&name) {
            return Some(format!("{name} is no setting"));
        }
        words.remove(0);
    }
    let (program, arguments) = words.split_first()?;
    let program = program.rsplit('/').next().unwrap_or(program);
    match program {
        "make" => arguments.iter().find_map(|target| refuse_target(target)),
        "docker" => refuse_compose(arguments),
        _ => refuse_arguments(program, arguments),
    }
}

fn refuse_target(target: &str) -> Option<String> {
    let makefile = read("Makefile");
    let there = makefile
        .lines()
        .any(|line| line.starts_with(&format!("{target}:")));
    (!there).then(|| format!("the Makefile has no {target}"))
}

fn refuse_compose(arguments: &[String]) -> Option<String> {
    let compose = read("docker-compose.yml");
    let is_service = |name: &str| compose.contains(&format!("\n  {name}:\n"));
    let scaled = arguments.iter().filter_map(|word| word.split_once('='));
    for (name, _) in scaled.filter(|(_, count)| count.parse::<u32>().is_ok()) {
        if !is_service(name) {
            return Some(format!("docker-compose.yml has no service {name}"));
        }
    }
    let verb = arguments.iter().position(|w| w == "exec" || w == "run")?;
    let mut rest = arguments[verb + 1..]
        .iter()
        .skip_while(|w| w.starts_with('-'));
    let name = rest.next()?;
    if !is_service(name) {
        return Some(format!("docker-compose.yml has no service {name}"));
    }
    let rest: Vec<String> = rest.cloned().collect();
    if arguments[verb] == "run" {
        // The image's entry point is the binary.
        return refuse_arguments(name, &rest);
    }
    let (program, arguments) = rest.split_first()?;
    refuse_arguments(program, arguments)
}

#[test]
fn the_commands_can_be_given() {
    let mut refused = String::new();
    for (path, text) in pages() {
        let lines = blocks(&text, "sh").into_iter().flat_map(str::lines);
        let inline = spans(&text)
            .into_iter()
            .filter(|span| span.contains(' ') && !span.contains('|') && !span.contains('…'));
        for line in lines.chain(inline) {
            if let Some(reason) = refuse_line(line) {
                writeln!(refused, "{path}: {line}: {reason}").unwrap();
            }
        }
    }
    assert!(refused.is_empty(), "{refused}");
}

#[test]
fn a_wrong_command_is_found() {
    for wrong in [
        "make everything",
        "outbox-relay rune",
        "target/debug/order-consumer offsets reset --too latest",
        "LEASE_TLL=3s outbox-relay",
        "docker compose up --scale relay=3",
        "docker compose exec order-consumer order-consumer offsets set",
        "docker compose run --rm order-api migrated",
    ] {
        assert!(refuse_line(wrong).is_some(), "{wrong}");
    }
    for right in [
        "make  # lists the targets",
        "OPS_PORT=9112 target/debug/outbox-relay run --config relay.toml",
        "curl -d '{\"a\": 1}' localhost:3000/orders",
    ] {
        assert_eq!(refuse_line(right), None, "{right}");
    }
}

/// The commands that lead no further, such as `outbox-relay run`.
fn leaves(command: &clap::Command, prefix: &str, found: &mut Vec<String>) {
    let name = format!("{prefix}{}", command.get_name());
    let mut subs = command.get_subcommands().peekable();
    if subs.peek().is_none() {
        found.push(name);
        return;
    }
    for sub in subs.filter(|sub| sub.get_name() != "help") {
        leaves(sub, &format!("{name} "), found);
    }
}

#[test]
fn every_command_is_explained() {
    let operations = read("docs/operations.md");
    let mut all = Vec::new();
    for program in ["order-api", "outbox-relay", "order-consumer"] {
        leaves(&command_of(program).unwrap(), "", &mut all);
    }
    let told = named_rows(section(&operations, "## Commands"));
    let missing: Vec<&String> = all
        .iter()
        .filter(|command| !told.iter().any(|row| row.starts_with(command.as_str())))
        .collect();
    assert!(
        missing.is_empty(),
        "docs/operations.md lacks rows of {missing:?}"
    );
}

/// The names under which a registry's text shows its metrics: counters end in `_total`.
fn metric_names(text: &str) -> BTreeSet<String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types
        .map(|described| match described.split_once(' ').unwrap() {
            (name, "counter") => format!("{name}_total"),
            (name, "info") => format!("{name}_info"),
            (name, _) => name.to_owned(),
        })
        .collect()
}

fn encoded(registry: &Registry) -> String {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    text
}

/// What `/metrics` of an API shows once it has answered a request. Needs no Postgres.
async fn metrics_of_the_api() -> String {
    let given = [
        ("DATABASE_URL", "postgres://nobody@127.0.0.1:1/nothing"),
        ("PORT", "0"),
        ("OPS_PORT", "0"),
    ];
    let source = Source::from_pairs(given).unwrap();
    let settings = order_api::settings::Settings::read(&source).unwrap();
    let application = order_api::Application::bind(&settings).unwrap();
    let url = |port: u16, path: &str| format!("http://127.0.0.1:{port}{path}");
    let (port, ops) = (
        application.address().port(),
        application.ops_address().port(),
    );
    let stop = application.stop();
    let serving = tokio::spawn(application.run());
    reqwest::get(url(port, "/nothing")).await.unwrap();
    let answer = reqwest::get(url(ops, "/metrics")).await.unwrap();
    let text = answer.text().await.unwrap();
    stop.cancel();
    serving.await.unwrap();
    text
}

#[tokio::test]
async fn the_metrics_are_those_that_the_processes_show() {
    let operations = read("docs/operations.md");
    let told = |heading| {
        let rows = named_rows(section(&operations, heading));
        rows.into_iter().map(str::to_owned).collect()
    };
    let common: BTreeSet<String> = told("### Of every process");

    let api = metric_names(&metrics_of_the_api().await);
    assert!(common.is_subset(&api), "{common:?}");
    let own: BTreeSet<String> = api.difference(&common).cloned().collect();
    assert_eq!(told("### Of order-api"), own);

    let mut registry = Registry::default();
    outbox_relay::Metrics::register(&mut registry);
    assert_eq!(
        told("### Of outbox-relay"),
        metric_names(&encoded(&registry))
    );

    let mut registry = Registry::default();
    let metrics = order_consumer::Metrics::register(&mut registry);
    let label = PartitionLabel { partition: 0 };
    metrics.lag.get_or_create(&label).set(0);
    metrics.lag_seconds.get_or_create(&label).set(0.0);
    assert_eq!(
        told("### Of order-consumer"),
        metric_names(&encoded(&registry))
    );
}

/// Tests have sentences for names; columns and metrics have fewer words.
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
    let mut missing = String::new();
    for (path, text) in pages() {
        for span in spans(&text) {
            let is_path = ["crates/", "migrations", "deploy", "docs/"]
                .iter()
                .any(|start| span.starts_with(start));
            if is_path && !TO_BE_MADE.contains(&span) && !root().join(span).exists() {
                writeln!(missing, "{path}: no file {span}").unwrap();
            }
            if is_test(span) && !source.contains(&format!("fn {span}(")) {
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

#[tokio::test]
async fn the_sql_runs() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    for (path, text) in pages() {
        for block in blocks(&text, "sql") {
            let undone = format!("begin;\n{}\n;rollback;", block.trim_end());
            if let Err(error) = client.batch_execute(&undone).await {
                panic!("{path}: {error:?} in\n{block}");
            }
        }
    }
}
