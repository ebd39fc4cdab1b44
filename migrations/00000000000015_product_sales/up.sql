create table product_sales (
    product_id text primary key,
    orders     bigint not null,
    units      bigint not null
) with (fillfactor = 70);
comment on table product_sales is 'The effect of OrderCreated: what was ordered of each product, each order counted once.';
comment on column product_sales.orders is 'Number of orders.';
comment on column product_sales.units is 'Sum of their quantities.';
