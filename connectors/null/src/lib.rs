//! A sink that counts and forgets, for benchmarks.
