CREATE PIPELINE products INTO lake.landing.products STRATEGY full_refresh
AS SELECT * FROM shop.files.products;
