alter table outbox_event
    drop constraint outbox_event_created_at_in_rfc_3339,
    drop constraint outbox_event_topic_fits_kafka;
comment on column outbox_event.topic is 'Kafka topic.';
comment on column outbox_event.created_at is 'Start of the writing transaction; record header ce_time.';
