//! What README.md and the pages under docs/ say is so: settings, commands, metrics, SQL, and the
//! tests, files and pages they name. Whether their sentences are true is for their readers.

#![allow(clippy::unwrap_used)]

mod commands;
mod metrics;
mod named;
mod pages;
mod settings;

use local_stack::testing::TestDatabase;

use crate::pages::{blocks, pages};

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
