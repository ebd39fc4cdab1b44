create table orders (
    id         uuid primary key,
    product_id text not null check (product_id ~ '^[A-Za-z0-9._-]{1,64}$'),
    quantity   integer not null check (quantity between 1 and 10000),
    created_at timestamptz not null default now()
);
comment on table orders is 'Orders as accepted by order-api. Each is written in one transaction with its OrderCreated event in outbox_event.';
comment on column orders.id is 'UUID v7: sorts by time of creation, which paging relies on. Also the key of the order''s events.';
comment on column orders.quantity is 'Units ordered, 1 to 10000.';

create table idempotency_key (
    key          text primary key,
    request_hash bytea not null,
    status       smallint not null,
    response     text not null,
    order_id     uuid not null,
    created_at   timestamptz not null default now()
);
create index idempotency_key_age on idempotency_key (created_at);
comment on table idempotency_key is 'Answers given under an Idempotency-Key header, written in the transaction of the order they speak of.';
comment on column idempotency_key.key is 'The header''s value.';
comment on column idempotency_key.request_hash is 'SHA-256 of the request''s body: the same key with another body is refused.';
comment on column idempotency_key.status is 'HTTP status of the stored answer.';
comment on column idempotency_key.response is 'Body of the stored answer, byte for byte.';
comment on column idempotency_key.created_at is 'Rows go when they are older than the configured lifetime.';
