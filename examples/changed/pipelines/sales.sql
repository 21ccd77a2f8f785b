-- Reads what orders and products write.
CREATE PIPELINE sales INTO lake.mart.sales STRATEGY full_refresh
AS SELECT o.order_id, o.customer_id, p.name AS product, o.quantity * p.price AS amount
   FROM lake.landing.orders o JOIN lake.landing.products p ON p.product_id = o.product_id;
