drop table outbox_sample_hash;
drop view outbox;
drop table outbox_event;
drop function outbox_enqueue();
drop table outbox_held;
drop table outbox_published;
drop table outbox_pending;
