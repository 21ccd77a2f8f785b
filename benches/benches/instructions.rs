//! The kernels by instructions, counted by valgrind: `make bench-gate`.

#![allow(clippy::unwrap_used)]

use std::hint::black_box;

use dpone_benches::diff::Comparison;
use dpone_benches::kernels::{Csv, Hash, Wire};
use gungraun::{library_benchmark, library_benchmark_group, main};

fn wire(family: &str) -> Wire {
    Wire::new(family).unwrap()
}

#[library_benchmark(setup = wire)]
#[bench::integer("integer")]
#[bench::numeric("numeric")]
#[bench::double("double")]
#[bench::text("text")]
#[bench::date("date")]
#[bench::timestamptz("timestamptz")]
#[bench::boolean("boolean")]
#[bench::uuid("uuid")]
#[bench::bytea("bytea")]
fn decode(wire: Wire) -> usize {
    black_box(wire).decode().unwrap()
}

#[library_benchmark(setup = wire)]
#[bench::integer("integer")]
#[bench::numeric("numeric")]
#[bench::double("double")]
#[bench::text("text")]
#[bench::date("date")]
#[bench::timestamptz("timestamptz")]
#[bench::boolean("boolean")]
#[bench::uuid("uuid")]
#[bench::bytea("bytea")]
fn encode(wire: Wire) -> usize {
    black_box(wire).encode().unwrap()
}

#[library_benchmark]
#[bench::lineitem(Hash::new().unwrap())]
fn row_hash(hash: Hash) -> usize {
    black_box(hash).run().unwrap()
}

#[library_benchmark]
#[bench::lineitem(Comparison::new().unwrap())]
fn diff(comparison: Comparison) -> usize {
    black_box(comparison).run().unwrap()
}

#[library_benchmark]
#[bench::lineitem(Csv::new().unwrap())]
fn csv_parse(csv: Csv) -> usize {
    black_box(csv).parse().unwrap()
}

library_benchmark_group!(name = kernels, benchmarks = [decode, encode, row_hash, diff, csv_parse]);
main!(library_benchmark_groups = kernels);
