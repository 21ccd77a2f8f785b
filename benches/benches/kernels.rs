//! The kernels by time: `make bench`. A figure is rows per second of one thread.

#![allow(clippy::unwrap_used)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dpone_benches::diff::{Comparison, Next};
use dpone_benches::inputs::{FAMILIES, ROWS};
use dpone_benches::kernels::{Csv, Hash, Wire};

fn wire(criterion: &mut Criterion) {
    for direction in ["decode", "encode"] {
        let mut group = criterion.benchmark_group(format!("postgres_{direction}"));
        group.throughput(Throughput::Elements(ROWS as u64));
        for family in FAMILIES {
            let wire = Wire::new(family).unwrap();
            group.bench_function(family, |bencher| {
                bencher.iter(|| {
                    let wire = black_box(&wire);
                    if direction == "decode" { wire.decode() } else { wire.encode() }.unwrap()
                });
            });
        }
    }
}

fn rows(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rows");
    group.throughput(Throughput::Elements(ROWS as u64));
    let hash = Hash::new().unwrap();
    group.bench_function("row_hash", |bencher| bencher.iter(|| black_box(&hash).run().unwrap()));
    for (name, next) in
        [("key_join_probe", Next::Same), ("change_set_split", Next::HalfChanged), ("diff_mixed", Next::Mixed)]
    {
        let comparison = Comparison::new(next).unwrap();
        group.bench_function(name, |bencher| bencher.iter(|| black_box(&comparison).run().unwrap()));
    }
    let csv = Csv::new().unwrap();
    group.bench_function("csv_parse", |bencher| bencher.iter(|| black_box(&csv).parse().unwrap()));
}

criterion_group!(benches, wire, rows);
criterion_main!(benches);
