//! What a `DATABASE_URL` means, and that nothing of it is shown that was not understood.

use local_stack::testing::PostgresServer;
use storage::{Database, Session};

const SECRET: &str = "S3cret";

#[test]
fn what_is_shown_is_what_was_understood() {
    for (url, shown) in [
        (
            "postgres://app:S3cret@db.example.com/orders",
            "db.example.com:5432/orders",
        ),
        (
            "postgresql://app:S3cret@h:6432/d?connect_timeout=3",
            "h:6432/d",
        ),
        // As libpq reads it, `#` is a character like any other.
        ("postgres://app:2024#S3cret@host/db", "host:5432/db"),
        ("postgres://app:a@S3cret@host/db", "host:5432/db"),
        ("postgres://app:2024%2FS3cret@host/db", "host:5432/db"),
        (
            "postgres://app@h1:5432,h2:5433/db?password=S3cret",
            "h1:5432,h2:5433/db",
        ),
        ("postgres://app:S3cret@h1,h2/db", "h1:5432,h2:5432/db"),
        (
            "postgres:///db?host=a,b&port=1,2&password=S3cret",
            "a:1,b:2/db",
        ),
        ("postgres:///db?host=a,b&port=7", "a:7,b:7/db"),
        (
            "postgresql://user@/db?host=/run/postgresql",
            "/run/postgresql:5432/db",
        ),
        (
            "postgresql://user:S3cret@%2Frun%2Fpostgresql/db",
            "/run/postgresql:5432/db",
        ),
        ("postgres://app:S3cret@[::1]:5433/db", "[::1]:5433/db"),
        (
            "postgres://app:S3cret@[2001:db8::1],h/db",
            "[2001:db8::1]:5432,h:5432/db",
        ),
        ("postgres:///db?host=::1", "[::1]:5432/db"),
        ("postgres://h/db?hostaddr=10.0.0.1", "10.0.0.1:5432/db"),
        ("postgres://h", "h:5432"),
        (" postgres://app:S3cret@h/db\n", "h:5432/db"),
        (
            "postgres://h/db?target_session_attrs=primary&sslmode=prefer&keepalives_count=3",
            "h:5432/db",
        ),
    ] {
        let database: Database = url.parse().unwrap_or_else(|error| panic!("{url}: {error}"));
        assert_eq!(database.to_string(), shown, "{url}");
        let everything = format!("{database} {database:?} {database:#?}");
        assert!(!everything.contains(SECRET), "{url}: {everything}");
    }
}

#[test]
fn what_is_refused_is_not_repeated() {
    let encoding = "percent-encode";
    for (url, reason) in [
        ("postgres://app:2024/S3cret@host/db", encoding),
        ("postgres://app:20?S3cret@host/db", encoding),
        ("postgres://app:20?S3=cret@host/db", encoding),
        ("postgres://app:p@s/S3cret@host/db", encoding),
        ("postgres://app:S3cret%@host/db", encoding),
        ("postgres://app:S3cret%zz@host/db", encoding),
        ("postgres://app:S3cret%00@host/db", "NUL"),
        ("postgres://app:pass/S3cret/db", encoding),
        ("postgres://app:S3cret", "port"),
        ("postgres://app:S3cret@host:x/db", "port"),
        ("postgres://app:S3cret@host:0/db", "port"),
        ("postgres://app:S3cret@host:65536/db", "port"),
        ("postgres://u@[S3cret/db", "["),
        ("postgres://u@[S3cret]/db", "IPv6"),
        ("postgres://app:S3cret@/db", "host"),
        ("postgres://app:S3cret@h1,,h2/db", "host"),
        ("postgres://app@S3cret:x@h#S3cret/db", encoding),
        ("postgres:///db?host=a,b&port=1,2,3", "3 ports for 2 hosts"),
        ("postgres:///db?hostaddr=10.0.0.1,S3cret", "hostaddr"),
        (
            "postgres://h/db?hostaddr=10.0.0.1,10.0.0.2",
            "2 addresses for 1 host",
        ),
        ("mysql://app:S3cret@h/db", "postgres://"),
        ("S3cret", "postgres://"),
        ("postgres://app:S3cret@h/db?sslmode=require", "TLS"),
        ("postgres://app:S3cret@h/db?sslmode=verify-full", "TLS"),
        ("postgres://app:S3cret@h/db?channel_binding=require", "TLS"),
        ("postgres://app@h/db?sslmode=S3cret", "sslmode"),
        (
            "postgres://app@h/db?connect_timeout=S3cret",
            "connect_timeout",
        ),
        ("postgres://app@h/db?connect_timeout=61", "connect_timeout"),
        (
            "postgres://app@h/db?target_session_attrs=read-only",
            "target_session_attrs",
        ),
        (
            "postgres://app@h/db?target_session_attrs=S3cret",
            "target_session_attrs",
        ),
        ("postgres://app@h/db?wrong=S3cret", "wrong"),
        ("postgres://app@h/db?S3cret", "="),
        ("postgres://app@h/db?S3cret=1", "parameter"),
        (
            "postgres://app@h/db?password=half&secret=S3cret",
            "parameter",
        ),
        ("postgres://app@h/db?user=a&user=S3cret", "user"),
        ("postgres://app:S3cret@h/db?schema=", "schema"),
        ("postgres://app:S3cret@h/db?schema=a,public", "one schema"),
        ("postgres://app:S3cret@h/db?schema=$user", "schema"),
        ("postgres://app:S3cret@h/db?schema=pg_catalog", "schema"),
    ] {
        let error = match url.parse::<Database>() {
            Err(error) => error,
            Ok(database) => panic!("{url} is taken for {database}"),
        };
        let everything = format!("{error} {error:?} {error:#?}");
        assert!(error.to_string().contains(reason), "{url}: {error}");
        for part in [SECRET, "cret", "half"] {
            assert!(!everything.contains(part), "{url}: {everything}");
        }
    }
    let halves = "postgres://app@h/db?password=half&other=1".parse::<Database>();
    assert!(!halves.unwrap_err().to_string().contains("other"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_and_percent_encoded_names_are_connected_to() {
    let folder = std::env::temp_dir();
    let folder = folder.to_str().unwrap();
    let server = PostgresServer::start(&[("unix_socket_directories", folder)]);
    let sql = server.connect().await;
    sql.batch_execute("create user \"a/p@p\" password '2024/S3#c?r@t%'")
        .await
        .unwrap();
    let port = server.port();
    let encoded = folder.replace('/', "%2F");
    for url in [
        format!("postgresql://outbox:outbox@/outbox?host={folder}&port={port}"),
        format!("postgresql://outbox:outbox@{encoded}:{port}/outbox"),
        format!("postgres://a%2Fp%40p:2024%2FS3%23c%3Fr%40t%25@127.0.0.1:{port}/outbox"),
        format!("postgres://a%2Fp%40p:2024%2FS3#c%3Fr@t%25@127.0.0.1:{port}/outbox"),
    ] {
        let database: Database = url.parse().unwrap();
        let connected = database.connect(&Session::request("test")).await;
        assert!(connected.is_ok(), "{url}: {:?}", connected.err());
    }
}
