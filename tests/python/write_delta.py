"""Replaces a Delta table's rows with those of a CSV file that PostgreSQL exported.

write_delta.py TABLE CSV TYPES     TYPES is a DuckDB struct literal: {'id': 'BIGINT', …}
"""

import sys

import duckdb
from deltalake import write_deltalake

table, csv, types = sys.argv[1:]
connection = duckdb.connect()
connection.execute("SET TimeZone = 'UTC'")
rows = connection.execute(
    f"SELECT * FROM read_csv('{csv}', columns = {types}, header = true, allow_quoted_nulls = false)"
).to_arrow_table()
write_deltalake(table, rows, mode="overwrite")
