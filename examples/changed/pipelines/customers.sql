CREATE PIPELINE customers INTO lake.landing.customers STRATEGY full_refresh
AS SELECT * FROM shop.files.customers;
