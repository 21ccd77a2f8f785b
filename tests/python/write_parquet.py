"""Replaces a Parquet file by the rows of a CSV file that PostgreSQL exported.

write_parquet.py FILE CSV TYPES     TYPES is a DuckDB struct literal: {'id': 'BIGINT', …}
"""

import sys

import duckdb

file, csv, types = sys.argv[1:]
connection = duckdb.connect()
connection.execute("SET TimeZone = 'UTC'")
rows = f"SELECT * FROM read_csv('{csv}', columns = {types}, header = true, allow_quoted_nulls = false)"
connection.execute(f"COPY ({rows}) TO '{file}' (FORMAT parquet)")
