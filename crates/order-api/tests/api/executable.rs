//! The real executable: how it stops, what it prints, and its exit status.

use std::process::{Output, Stdio};
use std::time::Duration;

use local_stack::testing::{TestDatabase, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::helpers::{DEADLINE, answer};

/// The executable with these settings and no others.
fn order_api(arguments: &[&str], settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_order-api"));
    command
        .args(arguments)
        .env_clear()
        .envs(settings.iter().copied())
        .kill_on_drop(true);
    command
}

async fn run(arguments: &[&str], settings: &[(&str, &str)]) -> Output {
    let output = order_api(arguments, settings).output();
    timeout(DEADLINE, output).await.expect("it ends").unwrap()
}

/// Starts serving and returns the address it logs.
async fn serve(database: &TestDatabase) -> (Child, String) {
    let settings = [
        ("DATABASE_URL", database.url()),
        ("PORT", "0"),
        ("OPS_PORT", "0"),
        ("LOG_FORMAT", "json"),
    ];
    let mut child = order_api(&[], &settings)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let address = async {
        while let Some(line) = log.next_line().await.unwrap() {
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            if let Some(address) = line["address"].as_str() {
                return address.to_owned();
            }
        }
        panic!("it ended without serving")
    };
    let address = timeout(DEADLINE, address).await.expect("it serves");
    // Read on, so that it never waits for room in the pipe.
    tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
    (child, address.replace("0.0.0.0", "127.0.0.1"))
}

#[tokio::test]
async fn sigterm_lets_requests_finish_and_ends_with_status_0() {
    let database = TestDatabase::create().await;
    let sql = database.connect().await;
    let (mut child, address) = serve(&database).await;
    sql.batch_execute("begin; lock table outbox_event")
        .await
        .unwrap();
    let client = reqwest::Client::new();
    let post = client
        .post(format!("http://{address}/orders"))
        .header("content-type", "application/json")
        .body(r#"{"productId":"P"}"#);
    let under_way = tokio::spawn(answer(post));
    let other = database.connect().await;
    eventually("the request to wait for the lock", DEADLINE, async || {
        let waiting = "select count(*) from pg_stat_activity where datname = current_database()
                       and wait_event_type = 'Lock'";
        let waiting: i64 = other.query_one(waiting, &[]).await.unwrap().get(0);
        (waiting > 0).then_some(())
    })
    .await;

    let pid = i32::try_from(child.id().unwrap()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    eventually("the port to be closed", DEADLINE, async || {
        tokio::net::TcpStream::connect(&address).await.err()
    })
    .await;
    sql.batch_execute("commit").await.unwrap();
    under_way.await.unwrap().order_id();
    // The client's connection is still open, and idle.
    let ended = timeout(Duration::from_secs(5), child.wait()).await;
    let status = ended.expect("it ends in time").unwrap();
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn bad_settings_are_all_named_and_end_with_status_78() {
    let settings = [
        ("PORT", "http"),
        ("OPS_PORT", "70000"),
        ("API__POOL_SIZE", "0"),
        ("LOG_FORMAT", "xml"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier pigeon"),
        ("OTEL_TRACES_SAMPLER", "some"),
    ];
    let output = run(&["serve"], &settings).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{said}");
    for name in settings
        .map(|(name, _)| name)
        .iter()
        .chain(&["DATABASE_URL"])
    {
        assert!(said.contains(name), "{name} is not in {said}");
    }
    let output = run(&["migrate"], &[("DATABASE_URL", "mysql://u:secret@h/d")]).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(
        said.contains("DATABASE_URL") && !said.contains("secret"),
        "{said}"
    );
}

#[tokio::test]
async fn migrate_says_what_it_did() {
    let database = TestDatabase::create().await;
    let url = format!("{}?schema=fresh", database.url());
    let migrate = async || run(&["migrate"], &[("DATABASE_URL", &url)]).await;
    let said = |output: Output| {
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let first = said(migrate().await);
    assert!(first.starts_with("applied 00000000000011, "), "{first}");
    let second = said(migrate().await);
    assert!(second.contains("up to date"), "{second}");
}

#[tokio::test]
async fn a_failed_migration_says_why_in_one_line_and_ends_with_status_1() {
    let database = TestDatabase::create().await;
    let url = format!("{}?schema=taken", database.url());
    let sql = database.connect().await;
    let taken = "create schema taken; create table taken.orders ()";
    sql.batch_execute(taken).await.unwrap();
    let output = run(&["migrate"], &[("DATABASE_URL", &url)]).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.starts_with("migration failed: ") && said.contains("orders"),
        "{said}"
    );
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
}

#[tokio::test]
async fn migrate_does_not_wait_for_what_will_not_come() {
    let database = TestDatabase::create().await;
    let wrong_password = database.url().replace(":outbox@", ":S3cret@");
    let name = database.url().rsplit('/').next().unwrap();
    let no_database = database.url().replace(name, "nowhere");
    for (url, reason) in [(wrong_password, "password"), (no_database, "nowhere")] {
        let begun = std::time::Instant::now();
        let output = run(&["migrate"], &[("DATABASE_URL", &url)]).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.starts_with("migration failed: "), "{said}");
        assert!(said.contains(reason) && !said.contains("S3cret"), "{said}");
        assert_eq!(said.trim_end().lines().count(), 1, "{said}");
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
}

#[tokio::test]
async fn a_url_that_is_refused_ends_with_status_78_and_is_not_repeated() {
    for (url, hint) in [
        ("postgres://app:2024/S3cret@host/db", "percent-encode"),
        (
            "postgres://app:S3cret@/db?host=a,b&port=1,2,3",
            "3 ports for 2 hosts",
        ),
        ("postgres://app:S3cret@h/db?schema=a,public", "one schema"),
    ] {
        for command in ["serve", "migrate"] {
            let output = run(&[command], &[("DATABASE_URL", url)]).await;
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(78), "{url}: {said}");
            assert!(
                said.contains(hint) && !said.contains("S3cret"),
                "{url}: {said}"
            );
        }
    }
}

#[tokio::test]
async fn help_and_version_are_there() {
    let help = run(&["--help"], &[]).await;
    let text = String::from_utf8(help.stdout).unwrap();
    for word in ["serve", "migrate", "--config"] {
        assert!(text.contains(word), "{word} is not in {text}");
    }
    let version = run(&["--version"], &[]).await;
    assert_eq!(version.status.code(), Some(0));
    assert!(version.stdout.starts_with(b"order-api "));
}
