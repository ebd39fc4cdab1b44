alter table outbox_event drop constraint outbox_event_event_type_is_short;
comment on column outbox_event.event_type is 'Record header ce_type.';
create or replace function outbox_enqueue() returns trigger
language plpgsql security definer as $$
begin
    insert into outbox_pending (slot, id, bytes)
    select (hashtextextended(key, 0) & 31)::smallint, id,
           octet_length(key) + octet_length(payload::text) + octet_length(headers::text)
    from written;
    return null;
end $$;
do $$ begin
    execute format('alter function outbox_enqueue() set search_path = %I, pg_temp', current_schema());
end $$;
comment on column outbox_event.id is 'Order of events within a key. Gaps and late commits are harmless: no reader remembers a position.';
