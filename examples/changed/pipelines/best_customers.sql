-- Reads what sales and customers write.
CREATE PIPELINE best_customers INTO lake.mart.best_customers STRATEGY full_refresh
AS SELECT c.name, sum(s.amount) AS amount
   FROM lake.mart.sales s JOIN lake.landing.customers c ON c.customer_id = s.customer_id
   GROUP BY c.name;
