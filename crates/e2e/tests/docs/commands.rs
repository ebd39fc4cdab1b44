//! Lines of shell, and the commands of the binaries.

use std::fmt::Write as _;

use clap::CommandFactory;
use service::settings::KNOWN;

use crate::pages::{blocks, named_rows, pages, read, section, spans};

/// Variables that the docs may set and no service reads.
const OTHER_VARIABLES: [&str; 5] = [
    "LOCAL_STACK",
    "LOCAL_STACK_DIR",
    "POSTGRES_PORT",
    "KAFKA_PORT",
    "UPDATE_SCHEMAS",
];

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
    let there = if let Some((variable, _)) = target.split_once('=') {
        makefile.contains(&format!("$({variable})"))
    } else {
        let mut lines = makefile.lines();
        lines.any(|line| line.starts_with(&format!("{target}:")))
    };
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
