//! Loads into Delta tables in temporary folders, read back by our source and by readers that are not ours.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_debug_implementations, unreachable_pub)]

mod changes;
mod lake;
mod modes;
mod safety;
mod types;
