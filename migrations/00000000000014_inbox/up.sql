create table inbox (
    consumer_group text not null,
    event_id       uuid not null,
    topic          text not null,
    partition      integer not null,
    "offset"       bigint not null,
    processed_at   timestamptz not null default now(),
    redelivered_at timestamptz,
    primary key (consumer_group, event_id)
);
comment on table inbox is 'Events whose effect has happened, once. Written in the transaction of the effect.';
comment on column inbox.event_id is 'Record header ce_id.';
comment on column inbox.redelivered_at is 'When the newest copy of the record came, null while there was one only; retention counts from here.';
comment on column inbox."offset" is 'Of the newest copy of the record that was seen: the row stays while Kafka can deliver that copy again.';

create table inbox_offset (
    consumer_group text not null,
    topic          text not null,
    partition      integer not null,
    next_offset    bigint not null,
    last_event_id  uuid,
    topic_id       uuid,
    updated_at     timestamptz not null default now(),
    primary key (consumer_group, topic, partition)
) with (fillfactor = 50);
comment on table inbox_offset is 'How far a consumer group has come. Moves in the transaction of the effects, from its expected value only.';
comment on column inbox_offset.next_offset is 'The offset to fetch next.';
comment on column inbox_offset.last_event_id is 'Event id of the record at next_offset - 1, null when it had none: another one there means that the topic was created again or that Kafka lost records.';
comment on column inbox_offset.topic_id is 'Kafka''s id of the topic that next_offset is in: a topic of the same name with another id is another one. Null where brokers have no ids.';

create table inbox_dead_letter (
    consumer_group text not null,
    topic          text not null,
    partition      integer not null,
    "offset"       bigint not null,
    event_id       uuid,
    key            bytea,
    value          bytea,
    header_names   bytea[] not null default '{}',
    header_values  bytea[] not null default '{}',
    cause          text not null,
    reason         text not null,
    attempts       integer not null default 1,
    held_at        timestamptz not null default now(),
    settled_at     timestamptz,
    settled_as     text,
    omitted_bytes  bigint,
    primary key (consumer_group, topic, partition, "offset"),
    constraint inbox_dead_letter_cause check (cause in ('dead', 'blocked')),
    constraint inbox_dead_letter_settled check (
        (settled_at is null) = (settled_as is null) and settled_as in ('redriven', 'discarded')),
    constraint inbox_dead_letter_headers_pair check (cardinality(header_names) = cardinality(header_values))
);
-- By hash: a key may be larger than an index entry.
create index inbox_dead_letter_key on inbox_dead_letter (consumer_group, topic, sha256(key), partition, "offset")
    where settled_at is null and key is not null;
comment on table inbox_dead_letter is 'Records that could not be applied, byte for byte, and the records they block.';
comment on column inbox_dead_letter.event_id is 'Record header ce_id, where there was a readable one.';
comment on column inbox_dead_letter.key is 'Record key; null when it had none. A record with a key blocks later ones of its topic and key.';
comment on column inbox_dead_letter.header_names is 'Names of the record''s headers; values at the same place in header_values.';
comment on column inbox_dead_letter.header_values is 'Null where a header had no value.';
comment on column inbox_dead_letter.omitted_bytes is 'Size of a record that was too large to be held: its value and headers are missing here, and it can only be discarded. Null otherwise.';
comment on column inbox_dead_letter.cause is 'dead: could not be applied. blocked: a dead letter of its key blocks it.';
comment on column inbox_dead_letter.reason is 'Why it cannot be applied.';
comment on column inbox_dead_letter.attempts is 'How often it was tried.';
comment on column inbox_dead_letter.settled_as is 'How it ended: redriven or discarded. Null while it is held.';
