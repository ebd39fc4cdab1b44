drop table inbox_dead_letter;
drop table inbox_offset;
drop table inbox;
