-- An event's state is the table its id is in: pending, published or held. A move is one statement.

create table outbox_event (
    id             bigint generated always as identity (cache 1) primary key,
    event_id       uuid not null,
    topic          text not null,
    key            text not null,
    event_type     text not null,
    schema_version smallint not null default 1,
    source         text,
    content_type   text default 'application/json',
    payload        json,
    payload_bytes  bytea,
    headers        jsonb not null default '{}',
    created_at     timestamptz not null default now(),
    -- What no record can carry is refused where it is written: a read brings events by the thousand,
    -- and one that it cannot bring would keep it from all others.
    constraint outbox_event_key_fits_index check (octet_length(key) <= 2048),
    constraint outbox_event_topic_fits_kafka check (octet_length(topic) <= 249),
    constraint outbox_event_attributes_are_short check (
        octet_length(event_type) between 1 and 1024 and octet_length(source) between 1 and 1024
        and octet_length(content_type) between 1 and 256),
    constraint outbox_event_headers_is_object check (jsonb_typeof(headers) = 'object'),
    constraint outbox_event_has_one_payload_or_is_tombstone check (
        num_nonnulls(payload, payload_bytes) = num_nonnulls(content_type)),
    constraint outbox_event_created_at_in_rfc_3339 check (
        created_at >= '0001-01-01 00:00:00+00' and created_at < '10000-01-01 00:00:00+00')
);
create index outbox_event_key on outbox_event (key, id);
comment on table outbox_event is 'Events as written; rows never change. Any service that may insert here, in any language and from any transaction, is a writer. A trigger queues the event.';
comment on column outbox_event.id is 'Order of events within a key, drawn from a sequence and never given. Gaps and late commits are harmless: no reader remembers a position.';
comment on column outbox_event.event_id is 'UUID v7, the consumer''s idempotency key; record header ce_id.';
comment on column outbox_event.topic is 'Kafka topic. At most 249 bytes, as in Kafka.';
comment on column outbox_event.key is 'Record key: picks the partition and the slot. Events of one topic and key are published in the order of their ids. At most 2048 bytes.';
comment on column outbox_event.event_type is 'Record header ce_type. At most 1024 bytes.';
comment on column outbox_event.schema_version is 'Version of the payload''s schema; record header ce_schemaversion.';
comment on column outbox_event.source is 'Record header ce_source, a URI reference of at most 1024 bytes. Null: the relay''s setting EVENT_SOURCE.';
comment on column outbox_event.content_type is 'Media type of the payload; record header content-type. Null for a tombstone, and only then. At most 256 bytes.';
comment on column outbox_event.payload is 'JSON text; json, not jsonb: Kafka gets the writer''s bytes. An event has this or payload_bytes, and a tombstone has neither.';
comment on column outbox_event.payload_bytes is 'Any other payload, such as Avro or Protobuf. Kafka gets these bytes.';
comment on column outbox_event.headers is 'The event''s own record headers, name to text, such as traceparent.';
comment on column outbox_event.created_at is 'Start of the writing transaction; record header ce_time. Within the years 1 to 9999.';

create table outbox_pending (
    slot  smallint not null,
    id    bigint not null,
    bytes integer not null,
    primary key (slot, id)
) with (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 20000,
    autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_vacuum_insert_threshold = 100000,
    autovacuum_vacuum_cost_delay = 0
);
comment on table outbox_pending is 'Events still to publish. Filled by the trigger on outbox_event, emptied by settling; vacuumed early because dead entries are what a read walks over.';
comment on column outbox_pending.slot is 'hashtextextended(key, 0) & 31: the unit of work a relay owns.';
comment on column outbox_pending.bytes is 'Size of key, payload and headers: readers bound their batches by it.';

create table outbox_published (
    id              bigint primary key,
    kafka_partition integer not null,
    kafka_offset    bigint not null,
    processed_at    timestamptz not null default now()
);
comment on table outbox_published is 'Events acknowledged by Kafka, and where they lie. A fact: any process that saw the acknowledgement may record it, with or without a lease.';
comment on column outbox_published.processed_at is 'When the acknowledgement was recorded; retention counts from here.';

create table outbox_held (
    id              bigint primary key,
    slot            smallint not null,
    topic           text not null,
    key             text not null,
    cause           text not null,
    partition_count integer not null default 0,
    partition       integer not null default -1,
    bytes           integer not null,
    error           text,
    attempts        integer,
    blocked_by      bigint,
    held_at         timestamptz not null default now(),
    discarded_at    timestamptz,
    constraint outbox_held_cause check (cause in ('dead', 'blocked', 'unavailable')),
    constraint outbox_held_only_dead_are_discarded check (discarded_at is null or cause = 'dead')
) with (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 20000,
    autovacuum_vacuum_cost_delay = 0
);
-- Two indexes of which a row is in one at most: a key with many unavailable events costs nothing to
-- those who ask whether a dead letter blocks it.
create index outbox_held_key on outbox_held (topic, key, id)
    where cause <> 'unavailable' and discarded_at is null;
create index outbox_held_unavailable on outbox_held (slot, topic, partition_count, partition, id)
    where cause = 'unavailable';
comment on table outbox_held is 'Events that cannot go out now. A dead letter blocks later events of its topic and key; unavailable events hold back later events of their partition and slot.';
comment on column outbox_held.cause is 'dead: can never be produced. blocked: a dead letter of its key blocks it. unavailable: its partition cannot be written.';
comment on column outbox_held.partition_count is 'How many partitions the topic had when the event was routed; 0 when the topic did not exist.';
comment on column outbox_held.partition is 'Where the event was routed; -1 when the topic did not exist.';
comment on column outbox_held.bytes is 'As in outbox_pending, so that moving back reads no event.';
comment on column outbox_held.error is 'What Kafka or the client said of a dead or unavailable event.';
comment on column outbox_held.attempts is 'Produce requests that carried it before it was held.';
comment on column outbox_held.blocked_by is 'Id of the dead letter that blocks it.';
comment on column outbox_held.discarded_at is 'When an operator discarded the dead letter; from then on it blocks nothing.';

-- One multi-row insert into outbox_event costs one of these, however it was phrased
-- (INSERT, COPY, MERGE, ON CONFLICT). It runs with its owner's rights, so it looks up nothing in a
-- schema that a writer could fill: pg_catalog comes first, and tables are named in full.
do $$ begin execute format($function$
create function outbox_enqueue() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $body$
begin
    -- `generated always` does not keep COPY from bringing its own ids. One that is not drawn yet
    -- would be drawn later, for another event, or end the sequence.
    if exists (select from written, %1$I.outbox_event_id_seq drawn
               where written.id not between 1 and drawn.last_value) then
        raise exception 'outbox_event.id was not drawn from its sequence: leave it out'
            using errcode = 'generated_always';
    end if;
    insert into %1$I.outbox_pending (slot, id, bytes)
    select (hashtextextended(key, 0) & 31)::smallint, id,
           octet_length(key) + coalesce(octet_length(payload::text), 0)
               + coalesce(octet_length(payload_bytes), 0) + octet_length(headers::text)
    from written;
    return null;
end $body$
$function$, current_schema()); end $$;
comment on function outbox_enqueue() is 'Queues what a statement wrote. Runs with its owner''s rights, so that writers need none on the queue.';
revoke execute on function outbox_enqueue() from public;

create trigger outbox_enqueue after insert on outbox_event
    referencing new table as written
    for each statement execute function outbox_enqueue();

create view outbox as
select e.*,
       case
           when p.id is not null then 'published'
           when h.discarded_at is not null then 'discarded'
           when h.id is not null then h.cause
           when q.id is not null then 'pending'
           else 'unqueued'
       end as state,
       p.processed_at, p.kafka_partition, p.kafka_offset,
       case when p.id is null and h.discarded_at is null then clock_timestamp() - e.created_at end
           as waiting
from outbox_event e
left join outbox_published p on p.id = e.id
left join outbox_held h on h.id = e.id
left join outbox_pending q on q.slot = (hashtextextended(e.key, 0) & 31)::smallint and q.id = e.id;
comment on view outbox is 'One row per event, with its state: pending, published, dead, blocked, unavailable, discarded, or unqueued (written by a session that switched triggers off). Column waiting says for how long an event that is not published has waited since it was written.';

create table outbox_sample_hash (
    only_row boolean primary key default true check (only_row),
    key      text not null,
    hash     bigint not null
);
insert into outbox_sample_hash (key, hash) select k, hashtextextended(k, 0) from (values ('transactional-outbox')) v(k);
comment on table outbox_sample_hash is 'What hashtextextended gave for one key when the schema was made. Slots are numbered by that function: a relay refuses a database where it gives something else.';
