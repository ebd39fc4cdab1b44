//! What an operator sees of settings: which value counts, and what every mistake is answered with.

mod unknown;

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use super::*;

/// Settings of a project that has switches and namespaces too.
const EXAMPLE: &[Setting] = &[
    Setting {
        secret: true,
        ..example("DATABASE_URL", DefaultValue::Required)
    },
    example("KAFKA_BROKERS", DefaultValue::Required),
    example("PORT", DefaultValue::Text("3000")),
    example(
        "OPS_PORT",
        DefaultValue::PerService(&[(Service::OrderApi, "1"), (Service::OutboxRelay, "2")]),
    ),
    example("OUTBOX_RETENTION", DefaultValue::Text("1d")),
    example("API__GROUP_COMMIT", DefaultValue::Text("on")),
];

const fn example(name: &'static str, default: DefaultValue) -> Setting {
    Setting {
        name,
        meaning: "An example",
        expected: "something else",
        default,
        services: &[Service::OrderApi],
        secret: false,
    }
}

/// The three inputs of a process.
struct Inputs {
    folder: TempDir,
    dotenv: Option<PathBuf>,
    environment: Vec<(OsString, OsString)>,
    toml: Option<PathBuf>,
}

impl Inputs {
    fn new() -> Inputs {
        Inputs {
            folder: TempDir::new().unwrap(),
            dotenv: None,
            environment: Vec::new(),
            toml: None,
        }
    }

    fn dotenv(mut self, text: &str) -> Inputs {
        let path = self.folder.path().join(".env");
        fs::write(&path, text).unwrap();
        self.dotenv = Some(path);
        self
    }

    fn env(mut self, name: &str, value: &str) -> Inputs {
        self.environment.push((name.into(), value.into()));
        self
    }

    fn toml(mut self, text: &str) -> Inputs {
        let path = self.folder.path().join("order.toml");
        fs::write(&path, text).unwrap();
        self.toml = Some(path);
        self
    }

    fn load(&self) -> Result<Source, SettingsError> {
        Source::merge(
            EXAMPLE,
            self.dotenv.as_deref(),
            self.environment.clone(),
            self.toml.as_deref(),
        )
    }

    /// What is reported when nothing is read, with file names in place of paths.
    fn problems(&self) -> Vec<String> {
        let error = match self.load() {
            Ok(source) => source.reader().finish().err(),
            Err(error) => Some(error),
        };
        self.lines(error)
    }

    /// What `read` leads to.
    fn problems_of(&self, read: impl FnOnce(&mut Reader<'_>)) -> Vec<String> {
        let source = self.load().unwrap();
        let mut reader = source.reader();
        read(&mut reader);
        self.lines(reader.finish().err())
    }

    fn lines(&self, error: Option<SettingsError>) -> Vec<String> {
        let folder = format!("{}/", self.folder.path().display());
        let text = error.map_or_else(String::new, |error| error.to_string());
        text.lines().map(|line| line.replace(&folder, "")).collect()
    }
}

fn port(source: &Source) -> u16 {
    source.reader().value("PORT")
}

#[test]
fn later_sources_win_over_earlier_ones_and_over_the_default() {
    let inputs = Inputs::new();
    assert_eq!(port(&inputs.load().unwrap()), 3000);
    let inputs = inputs.dotenv("PORT=1\n");
    assert_eq!(port(&inputs.load().unwrap()), 1);
    let inputs = inputs.env("PORT", "2");
    assert_eq!(port(&inputs.load().unwrap()), 2);
    let inputs = inputs.toml("port = 3");
    assert_eq!(port(&inputs.load().unwrap()), 3);
}

#[test]
fn an_empty_value_is_not_set_and_does_not_hide_an_earlier_source() {
    let inputs = Inputs::new().dotenv("PORT=1\n").env("PORT", "");
    assert_eq!(port(&inputs.load().unwrap()), 1);
    let inputs = Inputs::new().env("KAFKA_BROKERS", "");
    let problems = inputs.problems_of(|reader| {
        assert_eq!(reader.required::<String>("KAFKA_BROKERS"), None);
    });
    assert_eq!(
        problems,
        ["KAFKA_BROKERS is not set, expected something else"]
    );
}

#[test]
fn every_problem_is_reported_at_once_and_named() {
    let inputs = Inputs::new()
        .dotenv("OPS_PORT=70000\n")
        .env("PORT", "http")
        .env("API__GROUP_COMIT", "on")
        .toml("outbox_retention = 3\n[api]\ngroup_commit = \"maybe\"\n");
    let problems = inputs.problems_of(|reader| {
        let _ = reader.required::<String>("DATABASE_URL");
        assert_eq!(reader.value::<u16>("PORT"), 3000);
        assert_eq!(reader.value_of::<u16>("OPS_PORT", Service::OutboxRelay), 2);
        let day = Duration::from_hours(24);
        assert_eq!(reader.duration("OUTBOX_RETENTION"), day);
        assert!(reader.switch("API__GROUP_COMMIT"));
        reader.problem("KAFKA_BROKERS", "must be set here");
    });
    assert_eq!(
        problems,
        [
            "API__GROUP_COMIT is not a setting; did you mean API__GROUP_COMMIT?",
            "DATABASE_URL is not set, expected something else",
            "PORT is \"http\", expected something else: invalid digit found in string",
            "OPS_PORT in .env is \"70000\", expected something else: \
             number too large to fit in target type",
            "outbox_retention in order.toml is \"3\", expected something else: \
             time unit needed, for example 3sec or 3ms",
            "api.group_commit in order.toml is \"maybe\", expected something else: \
             neither on nor off",
            "KAFKA_BROKERS is not set: must be set here",
        ]
    );
}

#[test]
fn values_are_read_as_their_types() {
    let inputs = Inputs::new().env("OUTBOX_RETENTION", "1h 30m").toml(
        "kafka_brokers = [\"a:9092\", \"b:9092\"]\nops_port = 9101\n[api]\ngroup_commit = false\n",
    );
    let source = inputs.load().unwrap();
    let mut reader = source.reader();
    let retention = reader.duration("OUTBOX_RETENTION");
    assert_eq!(retention, Duration::from_mins(90));
    let brokers = reader.required::<String>("KAFKA_BROKERS");
    assert_eq!(brokers.as_deref(), Some("a:9092,b:9092"));
    assert_eq!(reader.optional("OPS_PORT"), Some(9101_u16));
    assert!(!reader.switch("API__GROUP_COMMIT"));
    reader.finish().unwrap();
}

#[test]
fn a_namespaced_variable_and_its_key_are_one_setting() {
    let inputs = Inputs::new()
        .env("API__GROUP_COMMIT", "on")
        .toml("[api]\ngroup_commit = \"off\"\n");
    let source = inputs.load().unwrap();
    let mut reader = source.reader();
    assert!(!reader.switch("API__GROUP_COMMIT"));
    reader.finish().unwrap();
}

/// A parser that quotes its input, as many do.
#[derive(Debug)]
struct Quoting;
impl std::str::FromStr for Quoting {
    type Err = String;
    fn from_str(text: &str) -> Result<Quoting, String> {
        Err(format!("cannot use {text}"))
    }
}

#[test]
fn an_address_with_a_password_is_not_shown_where_none_belongs() {
    let inputs = Inputs::new().env("KAFKA_BROKERS", "user:hunter2@db:9092");
    let problems = inputs.problems_of(|reader| {
        let _ = reader.required::<u16>("KAFKA_BROKERS");
        reader.problem("KAFKA_BROKERS", "is refused");
    });
    let shown = problems.join("\n");
    assert!(
        shown.contains("must not name a user or a password"),
        "{shown}"
    );
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn a_secret_is_never_shown() {
    let secret = "postgres://orders:hunter2@db/orders";
    let inputs = Inputs::new().env("DATABASE_URL", secret);
    let problems = inputs.problems_of(|reader| {
        let _ = reader.required::<Secret<Quoting>>("DATABASE_URL");
        reader.problem("DATABASE_URL", "must name a database");
    });
    assert_eq!(
        problems,
        [
            "DATABASE_URL (value not shown), expected something else: cannot use (not shown)",
            "DATABASE_URL (value not shown): must name a database",
        ]
    );
    let source = inputs.load().unwrap();
    let value = source
        .reader()
        .required::<Secret<String>>("DATABASE_URL")
        .unwrap();
    assert_eq!(value.expose(), secret);
    for text in [
        format!("{value:?}"),
        format!("{source:?}"),
        format!("{:?}", source.reader()),
    ] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn a_broken_line_of_dotenv_is_named_and_not_shown() {
    let inputs = Inputs::new().dotenv("# a comment\nPORT=1\n\nDATABASE_URL=\"hunter2\n");
    assert_eq!(
        inputs.problems(),
        [".env, line 4: not of the form NAME=value, or a quotation mark is not closed"]
    );
    let inputs = Inputs::new().dotenv("PORT=1\nhunter2 hunter2\nhunter2\n");
    assert_eq!(
        inputs.problems(),
        [".env, line 2: not of the form NAME=value, or a quotation mark is not closed"]
    );
}

#[test]
fn a_dotenv_may_be_missing_and_may_be_written_on_windows() {
    let mut inputs = Inputs::new();
    inputs.dotenv = Some(inputs.folder.path().join("absent"));
    assert_eq!(port(&inputs.load().unwrap()), 3000);
    let inputs = Inputs::new().dotenv("\u{feff}PORT=1\r\nOPS_PORT=2\r\n");
    assert_eq!(port(&inputs.load().unwrap()), 1);
}

#[test]
fn a_broken_settings_file_is_named_with_its_line_and_not_shown() {
    let inputs = Inputs::new().toml("port = 1\ndatabase_url = postgres://orders:hunter2@db\n");
    let problems = inputs.problems().join("\n");
    assert!(problems.starts_with("order.toml, line 2: "), "{problems}");
    assert!(problems.len() > "order.toml, line 2: ".len(), "{problems}");
    assert!(!problems.contains("hunter2"), "{problems}");
}

#[test]
fn files_that_cannot_be_read_are_all_named() {
    let mut inputs = Inputs::new().dotenv("hunter2");
    inputs.toml = Some(inputs.folder.path().join("absent.toml"));
    let problems = inputs.problems();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].starts_with(".env, line 1: "), "{problems:?}");
    assert!(
        problems[1].starts_with("absent.toml cannot be read: No such file"),
        "{problems:?}"
    );
}

#[test]
fn only_known_settings_must_be_unicode() {
    let mut inputs = Inputs::new();
    let broken = || OsString::from_vec(vec![b'a', 0xff]);
    inputs.environment = vec![
        ("PORT".into(), broken()),
        ("OTHER".into(), broken()),
        (broken(), "x".into()),
    ];
    assert_eq!(inputs.problems(), ["PORT: must be Unicode text"]);
}

#[test]
fn settings_put_together_from_reads_come_with_the_end_of_reading() {
    let read = |pairs: &[(&str, &str)]| {
        let source = Source::from_pairs(pairs.iter().copied()).unwrap();
        let mut reader = source.reader();
        let brokers = reader.required::<String>("KAFKA_BROKERS");
        reader.finish_with(brokers)
    };
    assert_eq!(read(&[("KAFKA_BROKERS", "a:1")]).unwrap(), "a:1");
    assert_eq!(read(&[]).unwrap_err().problems().len(), 1);
}

#[test]
fn a_default_is_the_declared_one() {
    let source = Inputs::new().load().unwrap();
    let mut reader = source.reader();
    assert_eq!(reader.value::<u16>("PORT"), 3000);
    assert_eq!(reader.value_of::<u16>("OPS_PORT", Service::OrderApi), 1);
    assert_eq!(reader.value_of::<u16>("OPS_PORT", Service::OutboxRelay), 2);
    assert!(reader.switch("API__GROUP_COMMIT"));
    reader.problem("PORT", "is refused");
    reader.problem("OPS_PORT", "is refused");
    let error = reader.finish().unwrap_err().to_string();
    assert_eq!(
        error,
        "PORT is not set (default 3000): is refused\n\
         OPS_PORT is not set (default 1 (order-api), 2 (outbox-relay)): is refused"
    );
}
