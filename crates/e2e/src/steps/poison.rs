//! A record that cannot be applied stops its key, and nothing else.

use anyhow::{Context, Result, ensure};
use messaging::{OutgoingRecord, partition_of};
use uuid::Uuid;

use crate::eventually::{Seen, eventually};
use crate::topic::Topic;
use crate::world::World;

const BROKEN: &[u8] = br#"{"orderId": "#;
const DEAD_LETTER_TOPIC: &str = "order.created.dlq";

/// Writes broken JSON on a key of its own, and a good record of that key behind it.
pub(crate) async fn stops_its_key_alone(world: &mut World) -> Result<String> {
    let key = Uuid::now_v7().to_string();
    let partition = partition_of(key.as_bytes(), world.topic.partition_count());
    world.account.stray(key.as_bytes());
    let offset = world.topic.write(partition, record(&key, BROKEN)).await?;
    let good = format!(r#"{{"orderId":"{key}","productId":"e2e-behind"}}"#);
    let behind = world
        .topic
        .write(partition, record(&key, good.as_bytes()))
        .await?;

    // Neighbours: orders until one has come through the same partition behind the bad record.
    let mut neighbours = 0;
    loop {
        let order = world.place("e2e-neighbour", 1).await?;
        neighbours += 1;
        if partition_of(
            order.id.to_string().as_bytes(),
            world.topic.partition_count(),
        ) == partition
        {
            break;
        }
    }
    let letters = eventually("the bad record to be a dead letter", async || {
        let letters = world.books.dead_letters(key.as_bytes()).await?;
        Ok(if letters.len() == 2 {
            Seen::Done(letters)
        } else {
            Seen::NotYet(format!("{letters:?}"))
        })
    })
    .await?;
    let causes: Vec<(&str, i32, i64)> = letters
        .iter()
        .map(|letter| (letter.cause.as_str(), letter.partition, letter.offset))
        .collect();
    ensure!(
        causes == [("dead", partition, offset), ("blocked", partition, behind)]
            && letters[0].value == BROKEN
            && letters[0].reason.contains("OrderCreated"),
        "the dead letters of key {key} at {partition}/{offset} are {letters:?}"
    );
    world.settle().await?;
    world.check_books().await?;
    let reason = announced(world, partition, offset).await?;
    ensure!(
        reason == letters[0].reason,
        "announced is {reason:?}, held for {:?}",
        letters[0].reason
    );
    Ok(format!(
        "a bad record became a dead letter, announced on {DEAD_LETTER_TOPIC}, and holds back its \
         key alone: {neighbours} other orders went past it"
    ))
}

fn record(key: &str, value: &[u8]) -> OutgoingRecord {
    let id = Uuid::now_v7().to_string();
    let headers = [
        ("ce_specversion", "1.0"),
        ("ce_id", &id),
        ("ce_type", "OrderCreated"),
        ("ce_source", "/e2e"),
        ("ce_schemaversion", "1"),
    ];
    OutgoingRecord {
        key: key.as_bytes().to_vec(),
        value: Some(value.to_vec()),
        headers: headers
            .map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()))
            .into(),
    }
}

/// The reason that the dead letter's announcement in Kafka gives.
async fn announced(world: &World, partition: i32, offset: i64) -> Result<String> {
    let counts = world.cluster.partition_counts().await?;
    ensure!(
        counts.contains_key(DEAD_LETTER_TOPIC),
        "the relay has published to {DEAD_LETTER_TOPIC}, and there is no such topic"
    );
    let mut topic = Topic::open_at_start(&world.cluster, DEAD_LETTER_TOPIC).await?;
    let key = format!("order.created/{partition}/{offset}");
    let records = topic.read().await?;
    let placed = records
        .iter()
        .find(|placed| placed.key() == key.as_bytes())
        .with_context(|| format!("no record of {DEAD_LETTER_TOPIC} has the key {key}"))?;
    let value = placed.record.value.as_deref().unwrap_or_default();
    let value: serde_json::Value = serde_json::from_slice(value)?;
    let reason = value["reason"].as_str();
    Ok(reason
        .with_context(|| format!("no reason in {value}"))?
        .to_owned())
}
