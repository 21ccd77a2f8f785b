//! Test doubles for strategies: a dialect that stores everything as it is.
