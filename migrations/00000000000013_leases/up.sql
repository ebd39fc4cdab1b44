-- Time in these tables is Postgres' own clock_timestamp(), never a process's.

create table lease_member (
    scope      text not null,
    member_id  uuid not null,
    ttl        interval not null,
    expires_at timestamptz not null,
    primary key (scope, member_id)
);
comment on table lease_member is 'One heartbeat row per live process and scope.';
comment on column lease_member.scope is 'What is shared: ''outbox-relay'' (units are slots) or ''<consumer group>/<topic>'' (units are Kafka partitions).';
comment on column lease_member.member_id is 'New at every start of a process.';
comment on column lease_member.expires_at is 'The process is presumed dead from here on. Further ahead than its ttl counts as expired too: clocks step back.';

create table lease (
    scope text not null,
    unit  integer not null,
    owner uuid,
    epoch bigint not null default 0,
    primary key (scope, unit)
) with (fillfactor = 50);
comment on table lease is 'Who works on which unit. A unit is free when its owner is null, or has no live row in lease_member.';
comment on column lease.epoch is 'Grows with every change of owner; work started under an older epoch is void.';
