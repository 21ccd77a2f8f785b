//! `docs/reference/cli.md` is written from the arguments, and `docs/reference/widening.md` from the lattice: these tests keep
//! them current. `DPONE_UPDATE_DOCS=1 cargo test -p dpone-cli --test reference` writes them.

#![allow(clippy::unwrap_used, clippy::panic)]

use clap_markdown::{MarkdownOptions, help_markdown_command_custom};
use dpone_planner::schema::{Fit, TypeShape, fit};

#[test]
fn the_reference_page_is_current() {
    let options = MarkdownOptions::new().title("Command line".to_owned()).show_footer(false);
    let page = help_markdown_command_custom(&dpone_cli::command(), &options);
    let page = format!("{}\n", page.trim_end());
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/cli.md");
    if std::env::var_os("DPONE_UPDATE_DOCS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == page, "docs/reference/cli.md is out of date: run this test with DPONE_UPDATE_DOCS=1");
}

/// The lattice as a table: the rows are a target's column, the columns a source's.
#[test]
fn the_page_of_the_widening_lattice_is_current() {
    let shapes = lattice_shapes();
    let mut page = String::from(LATTICE_HEAD);
    page.push_str(&format!("| target \\ source | {} |\n", names(&shapes).join(" | ")));
    page.push_str(&format!("|---|{}\n", "---|".repeat(shapes.len())));
    for target in &shapes {
        let cells: Vec<String> = shapes
            .iter()
            .map(|source| match fit(source, target) {
                Fit::Same => "=".to_owned(),
                Fit::Narrower => "fits".to_owned(),
                Fit::Wider(join) => join.name(),
                Fit::Incompatible => "·".to_owned(),
            })
            .collect();
        page.push_str(&format!("| **{}** | {} |\n", target.name(), cells.join(" | ")));
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/widening.md");
    if std::env::var_os("DPONE_UPDATE_DOCS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == page, "docs/reference/widening.md is out of date: run this test with DPONE_UPDATE_DOCS=1");
}

const LATTICE_HEAD: &str = "# Widening

A column is widened to the smallest type that holds every value of both sides and means the same by it; to nothing else.
This table is written by a test from the code that decides, for one type of each kind. Lengths, digits and fractions of a
second widen likewise: `varchar(20)` and `varchar(50)` give `varchar(50)`, `decimal(12,2)` and `decimal(10,4)` give
`decimal(14,4)`, `timestamp(3)` and `timestamp` give `timestamp`.

`=`: the same. `fits`: the column holds what comes, and stays. A type: what the column becomes. `·`: no type holds both as
what they are; see `on_type_change`. What a change costs on a server is another question: the pages of DDL costs answer it.

";

fn names(shapes: &[TypeShape]) -> Vec<String> {
    shapes.iter().map(TypeShape::name).collect()
}

fn lattice_shapes() -> Vec<TypeShape> {
    use TypeShape::*;
    let integer = |bits, signed| Integer { bits, signed };
    let text = |length, padded| Text { length, padded };
    vec![
        Boolean,
        integer(16, true),
        integer(32, true),
        integer(64, true),
        integer(32, false),
        TypeShape::decimal(10, 2),
        Decimal { digits: None },
        Float { bits: 32 },
        Float { bits: 64 },
        text(Some(10), true),
        text(Some(20), false),
        text(None, false),
        Bytes { length: Some(16), fixed: true },
        Bytes { length: None, fixed: false },
        Date,
        Time { digits: 6, zoned: false },
        Timestamp { digits: 3, zoned: false },
        Timestamp { digits: 6, zoned: false },
        Timestamp { digits: 6, zoned: true },
        Uuid,
        Json { binary: false },
        Json { binary: true },
        Array(Box::new(integer(32, true))),
    ]
}
