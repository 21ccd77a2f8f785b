//! Delta Lake, source and sink: the embedded default.
