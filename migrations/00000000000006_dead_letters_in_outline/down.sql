alter table inbox_dead_letter drop column omitted_bytes;
comment on column inbox_dead_letter.header_values is null;
