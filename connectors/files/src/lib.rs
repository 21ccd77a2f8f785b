//! CSV, NDJSON and Parquet: source; Parquet and CSV: sink.
