//! Writes the rows that the kernels run on to where they look for them: `make bench-gate` calls it before it counts.

fn main() -> dpone_engine::Result<()> {
    dpone_benches::inputs::write()
}
