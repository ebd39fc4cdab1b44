//! All that is committed, a line for each row, without times and versions.

use simulation::database::Database;
use storage::inbox::dead_letters::Ending;
use tokio_postgres::Client;

fn text(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn plain(bytes: Option<&Vec<u8>>) -> String {
    text(bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
}

pub(crate) fn of_model(database: &Database) -> Vec<String> {
    let mut lines = Vec::new();
    for (id, row) in database.events() {
        lines.push(format!("event {id} {}", row.event.event_id));
    }
    for ((slot, id), row) in database.pending() {
        lines.push(format!("pending {slot} {id} {}", row.bytes));
    }
    for (id, row) in database.published() {
        lines.push(format!("published {id} {} {}", row.partition, row.offset));
    }
    for (id, row) in database.held() {
        let to = row.destination;
        lines.push(format!(
            "held {id} {} {} {} {} {} {} {} {} {} {} {}",
            row.slot,
            row.topic,
            row.key,
            row.cause.as_str(),
            to.partition_count,
            to.partition,
            row.bytes,
            text(row.error.as_ref()),
            text(row.attempts),
            text(row.blocked_by),
            row.discarded_at.is_some()
        ));
    }
    for ((scope, unit), row) in database.leases() {
        lines.push(format!(
            "lease {scope} {unit} {} {}",
            text(row.owner),
            row.epoch
        ));
    }
    for ((scope, member), row) in database.members() {
        lines.push(format!("member {scope} {member} {}", row.ttl.as_secs()));
    }
    for ((group, event), row) in database.inbox() {
        let again = row.redelivered_at.is_some();
        let place = format!("{} {} {}", row.topic, row.partition, row.offset);
        lines.push(format!("inbox {group} {event} {place} {again}"));
    }
    for ((group, topic, partition), row) in database.offsets() {
        let (last, topic_id) = (text(row.last_event_id), text(row.topic_id));
        let next = row.next_offset;
        lines.push(format!(
            "offset {group} {topic} {partition} {next} {last} {topic_id}"
        ));
    }
    for ((group, topic, partition, offset), row) in database.dead_letters() {
        let letter = &row.letter;
        lines.push(format!(
            "letter {group} {topic} {partition} {offset} {} {} {} {} {} {} {}",
            text(letter.event_id),
            plain(letter.key.as_ref()),
            plain(letter.value.as_ref()),
            letter.cause.as_str(),
            letter.reason,
            letter.attempts,
            text(row.settled.map(|(_, ending): (_, Ending)| ending.as_str()))
        ));
    }
    for (target, events) in database.effects() {
        let events: Vec<String> = events.iter().map(ToString::to_string).collect();
        lines.push(format!("effect {target} {}", events.join(",")));
    }
    lines.sort_unstable();
    lines
}

const CONTENTS: &str = r#"
select concat_ws(' ', 'event', id, event_id) from outbox_event
union all
select concat_ws(' ', 'pending', slot, id, bytes) from outbox_pending
union all
select concat_ws(' ', 'published', id, kafka_partition, kafka_offset) from outbox_published
union all
select concat_ws(' ', 'held', id, slot, topic, key, cause, partition_count, partition, bytes,
                 coalesce(error, '-'), coalesce(attempts::text, '-'), coalesce(blocked_by::text, '-'),
                 (discarded_at is not null)::text) from outbox_held
union all
select concat_ws(' ', 'lease', scope, unit, coalesce(owner::text, '-'), epoch) from lease
union all
select concat_ws(' ', 'member', scope, member_id, extract(epoch from ttl)::bigint) from lease_member
union all
select concat_ws(' ', 'inbox', consumer_group, event_id, topic, partition, "offset",
                 (redelivered_at is not null)::text) from inbox
union all
select concat_ws(' ', 'offset', consumer_group, topic, partition, next_offset,
                 coalesce(last_event_id::text, '-'), coalesce(topic_id::text, '-')) from inbox_offset
union all
select concat_ws(' ', 'letter', consumer_group, topic, partition, "offset",
                 coalesce(event_id::text, '-'), coalesce(convert_from(key, 'utf8'), '-'),
                 coalesce(convert_from(value, 'utf8'), '-'), cause, reason, attempts,
                 coalesce(settled_as, '-')) from inbox_dead_letter
union all
select concat_ws(' ', 'effect', target, array_to_string(events, ',')) from effect"#;

pub(crate) async fn of_postgres(client: &Client) -> Vec<String> {
    let rows = client.query(CONTENTS, &[]).await.unwrap();
    let mut lines: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    lines.sort_unstable();
    lines
}

/// Empties all tables and numbers events from 1 again.
pub(crate) async fn clear(client: &Client) {
    let tables = [
        "outbox_event",
        "outbox_pending",
        "outbox_published",
        "outbox_held",
        "lease",
        "lease_member",
        "inbox",
        "inbox_offset",
        "inbox_dead_letter",
        "effect",
    ];
    let deletes = tables.map(|table| format!("delete from {table};")).concat();
    let reset = "select setval('outbox_event_id_seq', 1, false);";
    client.batch_execute(&(deletes + reset)).await.unwrap();
}
