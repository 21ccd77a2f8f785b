-- A dpone project: connections, and pipelines that load tables.
--
--   dpone check    are the connections there, and do source and target agree?
--   dpone plan     what would a run do?
--   dpone run      do it
--
-- Run it twice: the second run reads only what is new. Then add a line to data/orders.csv, or change one and give it
-- a later updated_at, and run it again.

-- A folder of files. Paths begin at the folder of this file. Values that are secret come by reference:
-- 'password' 'env:SHOP_PASSWORD' or 'file:/run/secrets/shop'.
CREATE CONNECTION inbox TYPE file OPTIONS ('path' 'data/orders.csv');

-- A folder of Delta tables: no server is needed.
CREATE CONNECTION lake TYPE delta OPTIONS ('path' 'warehouse');

-- incremental_merge reads rows whose cursor has not been seen yet, and updates or inserts them by key.
-- The table is created by the first run.
CREATE PIPELINE orders INTO lake.landing.orders
  STRATEGY incremental_merge KEY (order_id) CURSOR updated_at
AS SELECT order_id, customer, amount, note, updated_at
   FROM inbox.files.orders;
