-- A read brings events by the thousand, bounded by key, payload and headers: what else an event has
-- must be small.
alter table outbox_event add constraint outbox_event_event_type_is_short
    check (octet_length(event_type) <= 1024) not valid;
comment on column outbox_event.event_type is 'Record header ce_type. At most 1024 bytes.';

-- `generated always` does not keep COPY from bringing its own ids. One that is not drawn yet would
-- be drawn later, for another event, or end the sequence.
create or replace function outbox_enqueue() returns trigger
language plpgsql security definer as $$
begin
    if exists (select from written, outbox_event_id_seq drawn
               where written.id not between 1 and drawn.last_value) then
        raise exception 'outbox_event.id was not drawn from its sequence: leave it out'
            using errcode = 'generated_always';
    end if;
    insert into outbox_pending (slot, id, bytes)
    select (hashtextextended(key, 0) & 31)::smallint, id,
           octet_length(key) + octet_length(payload::text) + octet_length(headers::text)
    from written;
    return null;
end $$;
do $$ begin
    execute format('alter function outbox_enqueue() set search_path = %I, pg_temp', current_schema());
end $$;
comment on column outbox_event.id is 'Order of events within a key, drawn from a sequence and never given. Gaps and late commits are harmless: no reader remembers a position.';
