//! Tables in this process, source and sink, for tests.
