drop table product_sales;
