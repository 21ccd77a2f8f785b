//! CSV, NDJSON and Parquet: source; Parquet and CSV: sink.

mod config;
mod csv;
mod decode;
mod location;
mod ndjson;
mod parquet_table;
mod scan;
mod sink;
mod source;
mod text_table;
