-- A record of many megabytes is held without them: Kafka compresses a thousandfold.
alter table inbox_dead_letter add column omitted_bytes bigint;
comment on column inbox_dead_letter.omitted_bytes is 'Size of a record that was too large to be held: its value and headers are missing here, and it can only be discarded. Null otherwise.';
comment on column inbox_dead_letter.header_values is 'Null where a header had none.';
