//! The single-threaded kernels and the batches that they are measured on. Both benchmarks, of time and of instructions,
//! call the same functions.

pub mod diff;
pub mod inputs;
pub mod kernels;
