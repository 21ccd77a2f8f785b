CREATE PIPELINE orders INTO lake.landing.orders STRATEGY full_refresh
AS SELECT * FROM shop.files.orders;
