-- What no record can carry is refused where it is written. A time that no header has words for,
-- infinity among them, would keep a relay from reading anything; no topic has a longer name. Not
-- valid: what is there already is not looked at, which would keep writers waiting for as long.
alter table outbox_event
    add constraint outbox_event_created_at_in_rfc_3339
        check (created_at >= '0001-01-01 00:00:00+00' and created_at < '10000-01-01 00:00:00+00')
        not valid,
    add constraint outbox_event_topic_fits_kafka
        check (octet_length(topic) <= 249) not valid;
comment on column outbox_event.topic is 'Kafka topic. At most 249 bytes, as in Kafka.';
comment on column outbox_event.created_at is 'Start of the writing transaction; record header ce_time. Within the years 1 to 9999.';
