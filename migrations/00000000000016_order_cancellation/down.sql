alter table orders drop column cancelled_at;
