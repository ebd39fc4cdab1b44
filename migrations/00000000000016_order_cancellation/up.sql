alter table orders add column cancelled_at timestamptz;
comment on column orders.cancelled_at is 'When the order was cancelled, in one transaction with its OrderCancelled event; null while it stands.';
comment on table product_sales is 'The effect of OrderCreated and OrderCancelled: what is ordered of each product, each order counted once and taken back once. Below zero while cancellations of orders are applied that are still to come.';
