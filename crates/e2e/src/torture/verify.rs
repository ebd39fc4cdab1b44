//! `outbox-relay status --verify`, as an operator runs it.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::child::command;
use crate::deployment::Service;
use crate::torture::services::database_url;
use crate::torture::world::World;

/// Fails unless every event is in exactly one state.
pub(crate) async fn verify(world: &World, folder: &Path) -> Result<()> {
    let url = database_url(world.postgres.port());
    let environment = [
        ("DATABASE_URL", url.as_str()),
        ("KAFKA_BROKERS", &world.kafka.brokers()),
    ];
    let output = command(Service::Relay, folder, &environment)?
        .args(["status", "--verify"])
        .output()
        .await?;
    ensure!(
        output.status.success(),
        "outbox-relay status --verify: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
