//! Applying the schema.

use local_stack::testing::TestDatabase;
use storage::migrations::{connect_when_ready, migrate, missing};
use storage::outbox::{Unfit, check_fitness};
use storage::{Database, Session};

use crate::support::Fixture;

fn with_schema(test: &TestDatabase, schema: &str) -> Database {
    format!("{}?schema={schema}", test.url()).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn migrating_twice_and_at_once_is_harmless() {
    let fixture = Fixture::new().await;
    let database = with_schema(&fixture.test, "fresh");
    let session = Session::long_running("test");
    // The schema of the URL does not exist yet: everything is missing.
    let refused = connect_when_ready(&database, &session).await.err().unwrap();
    assert!(
        refused.to_string().contains("order-api migrate"),
        "{refused}"
    );

    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let database = database.clone();
            tokio::spawn(async move { migrate(&database).await.unwrap().len() })
        })
        .collect();
    let mut applied = Vec::new();
    for task in tasks {
        applied.push(task.await.unwrap());
    }
    applied.sort_unstable();
    assert_eq!(applied[..3], [0, 0, 0], "one of them did it all");
    assert!(applied[3] > 0);

    let mut conn = connect_when_ready(&database, &session).await.unwrap();
    assert_eq!(missing(&mut conn).await.unwrap(), Vec::<String>::new());
    assert_eq!(migrate(&database).await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_whose_text_may_be_any_bytes_is_refused() {
    let fixture = Fixture::new().await;
    let name = format!("ascii_{}", uuid::Uuid::now_v7().simple());
    fixture
        .run(&format!(
            "create database {name} encoding 'SQL_ASCII' locale 'C' template template0"
        ))
        .await;
    let mut url: url::Url = fixture.test.url().parse().unwrap();
    url.set_path(&name);
    let database: Database = url.as_str().parse().unwrap();
    let refused = migrate(&database).await.unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("encoding is SQL_ASCII, expected UTF8"),
        "{refused}"
    );
    // One that was filled in another way.
    let mut conn = database
        .connect(&Session::long_running("test"))
        .await
        .unwrap();
    let unfit = check_fitness(&mut conn).await.unwrap();
    assert!(matches!(unfit, Some(Unfit::Encoding(_))), "{unfit:?}");
    drop(conn);
    fixture
        .run(&format!("drop database {name} with (force)"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_schemas_of_one_database_do_not_meet() {
    let fixture = Fixture::new().await;
    let database = with_schema(&fixture.test, "Other's");
    migrate(&database).await.unwrap();
    let mut conn = database
        .connect(&Session::long_running("test"))
        .await
        .unwrap();
    storage::outbox::append(&mut conn, &[crate::support::event("k")])
        .await
        .unwrap();
    assert_eq!(
        fixture
            .number("select count(*) from \"Other's\".outbox_pending")
            .await,
        1
    );
    assert_eq!(
        fixture
            .number("select count(*) from public.outbox_pending")
            .await,
        0
    );
}

#[tokio::test]
async fn every_table_says_what_it_is_for() {
    let fixture = Fixture::new().await;
    let silent = fixture
        .text(
            "select coalesce(string_agg(relname, ' '), '') from pg_class c
             where relnamespace = 'public'::regnamespace and relkind in ('r', 'v')
               and relname !~ '^__diesel' and obj_description(c.oid) is null",
        )
        .await;
    assert_eq!(silent, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_back_leaves_nothing() {
    let fixture = Fixture::new().await;
    for folder in [
        "00000000000016_order_cancellation",
        "00000000000015_product_sales",
        "00000000000014_inbox",
        "00000000000013_leases",
        "00000000000012_outbox",
        "00000000000011_orders",
    ] {
        let path = format!(
            "{}/../../migrations/{folder}/down.sql",
            env!("CARGO_MANIFEST_DIR")
        );
        fixture.run(&std::fs::read_to_string(path).unwrap()).await;
    }
    let left = fixture
        .text(
            "select coalesce(string_agg(relname, ' '), '') from pg_class
             where relnamespace = 'public'::regnamespace and relkind in ('r', 'v', 'S')
               and relname !~ '^__diesel'",
        )
        .await;
    assert_eq!(left, "");
}

/// A role of its own for a test, who may do what `rights` say, and the URL of the fixture's database
/// for it.
async fn role(fixture: &Fixture, rights: &str) -> (String, String) {
    let role = format!("role_{}", uuid::Uuid::now_v7().simple());
    let name = fixture.text("select current_database()::text").await;
    let statements = rights.replace("ROLE", &role).replace("DATABASE", &name);
    fixture
        .run(&format!(
            "create role {role} login password 'p'; {statements}"
        ))
        .await;
    let url = fixture
        .test
        .url()
        .replace("outbox:outbox", &format!("{role}:p"));
    (role, url)
}

async fn drop_role(fixture: &Fixture, role: &str) {
    fixture
        .run(&format!("drop owned by {role} cascade; drop role {role}"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn migrating_into_a_schema_that_exists_needs_no_right_on_the_database() {
    let fixture = Fixture::new().await;
    let own =
        "create schema app authorization ROLE; revoke create on database DATABASE from public";
    let (role, url) = role(&fixture, own).await;
    let database: Database = format!("{url}?schema=app").parse().unwrap();
    let applied = migrate(&database).await;
    assert!(applied.is_ok(), "{applied:?}");
    assert!(!applied.unwrap().is_empty());
    assert_eq!(migrate(&database).await.unwrap(), Vec::<String>::new());
    drop_role(&fixture, &role).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_is_to_be_done_no_right_is_needed() {
    let fixture = Fixture::new().await;
    let only_looking = "grant select on __diesel_schema_migrations to ROLE";
    let (role, url) = role(&fixture, only_looking).await;
    let database: Database = url.parse().unwrap();
    let applied = migrate(&database).await;
    assert_eq!(applied.unwrap(), Vec::<String>::new());
    drop_role(&fixture, &role).await;
}
