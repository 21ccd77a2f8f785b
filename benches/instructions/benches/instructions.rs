//! The kernels by instructions, counted by valgrind: `make bench-gate`.

#![allow(clippy::unwrap_used)]

use std::hint::black_box;

use dpone_benches::diff::{Comparison, Next};
use dpone_benches::kernels::{Csv, Hash, Wire};
use gungraun::{Callgrind, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main};

fn wire(family: &str) -> Wire {
    Wire::new(family).unwrap()
}

#[library_benchmark(setup = wire)]
#[bench::integer("integer")]
#[bench::numeric("numeric")]
#[bench::numeric_wide("numeric_wide")]
#[bench::numeric_text("numeric_text")]
#[bench::real("real")]
#[bench::double("double")]
#[bench::text("text")]
#[bench::date("date")]
#[bench::time("time")]
#[bench::timestamptz("timestamptz")]
#[bench::boolean("boolean")]
#[bench::uuid("uuid")]
#[bench::bytea("bytea")]
#[bench::jsonb("jsonb")]
#[bench::array("array")]
#[bench::nulls("nulls")]
fn decode(wire: Wire) -> usize {
    black_box(wire).decode().unwrap()
}

#[library_benchmark(setup = wire)]
#[bench::integer("integer")]
#[bench::numeric("numeric")]
#[bench::numeric_wide("numeric_wide")]
#[bench::numeric_text("numeric_text")]
#[bench::real("real")]
#[bench::double("double")]
#[bench::text("text")]
#[bench::date("date")]
#[bench::time("time")]
#[bench::timestamptz("timestamptz")]
#[bench::boolean("boolean")]
#[bench::uuid("uuid")]
#[bench::bytea("bytea")]
#[bench::jsonb("jsonb")]
#[bench::array("array")]
#[bench::nulls("nulls")]
fn encode(wire: Wire) -> usize {
    black_box(wire).encode().unwrap()
}

#[library_benchmark]
#[bench::lineitem(Hash::new().unwrap())]
fn row_hash(hash: Hash) -> usize {
    black_box(hash).run().unwrap()
}

fn comparison(next: Next) -> Comparison {
    Comparison::new(next).unwrap()
}

#[library_benchmark(setup = comparison)]
#[bench::key_join_probe(Next::Same)]
#[bench::change_set_split(Next::HalfChanged)]
#[bench::mixed(Next::Mixed)]
fn diff(comparison: Comparison) -> usize {
    black_box(comparison).run().unwrap()
}

#[library_benchmark]
#[bench::lineitem(Csv::new().unwrap())]
fn csv_parse(csv: Csv) -> usize {
    black_box(csv).parse().unwrap()
}

library_benchmark_group!(name = kernels, benchmarks = [decode, encode, row_hash, diff, csv_parse]);
// Caches differ from machine to machine, and simulating them takes most of the time.
main!(
    config = LibraryBenchmarkConfig::default().tool(Callgrind::with_args(["--cache-sim=no"])),
    library_benchmark_groups = kernels
);
