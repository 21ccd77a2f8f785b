//! PostgreSQL, source and sink.
