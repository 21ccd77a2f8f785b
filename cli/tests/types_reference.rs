//! `docs/reference/types.md` is written from the tables in the code: this test keeps it current.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, IntervalUnit, TimeUnit};
use dpone_engine::{Connector, ResolvedConnection, Secret};
use dpone_planner::dialect::Dialect;
use dpone_planner::exact_cast::convert;
use dpone_planner::types::{EXTENSION_JSON, EXTENSION_UUID, logical_name, utc, widens, with_extension};

#[test]
fn the_type_reference_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/types.md");
    let page = page();
    if std::env::var_os("DPONE_UPDATE_DOCS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == page, "docs/reference/types.md is out of date: run this test with DPONE_UPDATE_DOCS=1");
}

fn page() -> String {
    let mut out = String::from(
        "# Types\n\n\
         <!-- Written by a test from the tables in the code: DPONE_UPDATE_DOCS=1 cargo test -p dpone-cli --test types_reference -->\n\n\
         Arrow is the type system. A source keeps a column's native type beside it, so that a round trip between like\n\
         systems is exact; a sink stores the nearest type that holds every value. A value that does not fit fails the run\n\
         by column and row position, or the pair is refused by name before anything is read. Nothing is rounded, cut or\n\
         turned into NULL on the way.\n\n\
         ## Reading PostgreSQL\n\n\
         *Portable* is what queries and other systems see. *Raw* is used between two PostgreSQL servers for columns that\n\
         nothing reads on the way: the server's own bytes, exact for every value.\n\n\
         | PostgreSQL | portable | raw | notes |\n|---|---|---|---|\n",
    );
    for row in dpone_postgres::types::type_table() {
        let cell = |text: &str| text.replace('|', "\\|");
        writeln!(out, "| {} | {} | {} | {} |", cell(row.native), cell(row.portable), cell(row.raw), cell(row.notes))
            .unwrap();
    }
    out.push_str(
        "\n## Reading ClickHouse\n\n\
         *Raw* is used between two ClickHouse servers, for columns that nothing reads on the way.\n\n\
         | ClickHouse | portable | raw | notes |\n|---|---|---|---|\n",
    );
    for row in dpone_clickhouse::read::type_table() {
        writeln!(out, "| {} |", row.map(|text| text.replace('|', "\\|")).join(" | ")).unwrap();
    }
    stored(&mut out);
    lattice(&mut out);
    out
}

/// What each sink stores for each type.
fn stored(out: &mut String) {
    out.push_str(
        "\n## Writing\n\n\
         What a new column of each sink is for each type. Where a sink stores another Arrow type, the conversion is exact, or\n\
         checked value by value. *refused* names the column and says what to do.\n\n",
    );
    let sinks = sinks();
    let names: Vec<&str> = sinks.iter().map(|(name, _)| *name).collect();
    writeln!(out, "| type | {} |", names.join(" | ")).unwrap();
    writeln!(out, "|---|{}", "---|".repeat(names.len())).unwrap();
    for field in fields() {
        let cells: Vec<String> = sinks
            .iter()
            .map(|(_, dialect)| match written(dialect.as_ref(), &field) {
                Ok(native) => native.replace('|', "\\|"),
                Err(_) => "*refused*".to_owned(),
            })
            .collect();
        writeln!(out, "| {} | {} |", described(&field), cells.join(" | ")).unwrap();
    }
}

/// The type of the column, where the values get into it.
fn written(dialect: &dyn Dialect, field: &Field) -> dpone_planner::Result<String> {
    let stored = dialect.stored_field(field)?;
    convert(datafusion::prelude::col("c"), field, &stored)?;
    dialect.native_type(&stored)
}

/// Which types hold every value of which.
fn lattice(out: &mut String) {
    out.push_str(
        "\n## Widening\n\n\
         A source column may be loaded into an existing column of its own type, or of a wider one: one that holds every value\n\
         of the source's type exactly. Everything else is drift, which fails before staging.\n\n\
         | type | also fits |\n|---|---|\n",
    );
    let fields = fields();
    for from in &fields {
        let wider: Vec<String> = fields
            .iter()
            .filter(|to| described(to) != described(from) && widens(from.data_type(), to.data_type()))
            .map(described)
            .collect();
        let wider = if wider.is_empty() { "-".to_owned() } else { wider.join(", ") };
        writeln!(out, "| {} | {wider} |", described(from)).unwrap();
    }
}

fn described(field: &Field) -> String {
    match field.data_type() {
        DataType::Timestamp(TimeUnit::Second | TimeUnit::Millisecond, _) => {
            format!("{} in {:?}s", logical_name(field), unit(field)).to_lowercase()
        }
        DataType::Time64(TimeUnit::Nanosecond) => "time(9)".to_owned(),
        DataType::LargeUtf8 => "large text".to_owned(),
        DataType::Dictionary(_, _) => "dictionary of text".to_owned(),
        _ => logical_name(field),
    }
}

fn unit(field: &Field) -> TimeUnit {
    match field.data_type() {
        DataType::Timestamp(unit, _) => *unit,
        other => panic!("{other} has no unit"),
    }
}

fn fields() -> Vec<Field> {
    use DataType::*;
    let plain = |data_type: DataType| Field::new("c", data_type, true);
    let list = |item: DataType| plain(List(Arc::new(Field::new("item", item, true))));
    let uuid = |name: &str| with_extension(Field::new(name, FixedSizeBinary(16), true), EXTENSION_UUID);
    vec![
        plain(Boolean),
        plain(Int8),
        plain(Int16),
        plain(Int32),
        plain(Int64),
        plain(UInt8),
        plain(UInt16),
        plain(UInt32),
        plain(UInt64),
        plain(Float16),
        plain(Float32),
        plain(Float64),
        plain(Decimal128(18, 2)),
        plain(Decimal128(38, 10)),
        plain(Decimal256(76, 10)),
        plain(Utf8),
        plain(LargeUtf8),
        plain(Dictionary(Box::new(Int32), Box::new(Utf8))),
        plain(Binary),
        plain(FixedSizeBinary(16)),
        uuid("c"),
        with_extension(plain(Utf8), EXTENSION_JSON),
        plain(Date32),
        plain(Time64(TimeUnit::Microsecond)),
        plain(Time64(TimeUnit::Nanosecond)),
        plain(Timestamp(TimeUnit::Second, None)),
        plain(Timestamp(TimeUnit::Millisecond, None)),
        plain(Timestamp(TimeUnit::Microsecond, None)),
        plain(Timestamp(TimeUnit::Microsecond, Some(utc()))),
        plain(Timestamp(TimeUnit::Nanosecond, None)),
        plain(Timestamp(TimeUnit::Nanosecond, Some(utc()))),
        plain(Duration(TimeUnit::Microsecond)),
        plain(Interval(IntervalUnit::MonthDayNano)),
        list(Int32),
        list(Utf8),
        plain(List(Arc::new(uuid("item")))),
        plain(Struct(vec![Field::new("a", Int32, true), Field::new("b", Utf8, true)].into())),
        plain(Null),
    ]
}

/// The dialects of the sinks. None of them needs its system to spell types.
fn sinks() -> Vec<(&'static str, Arc<dyn Dialect>)> {
    let connection = |kind: &str, options: &[(&str, &str)]| ResolvedConnection {
        name: kind.to_owned(),
        kind: kind.to_owned(),
        options: options.iter().map(|(k, v)| ((*k).to_owned(), Secret::new(*v))).collect::<BTreeMap<_, _>>(),
        base_dir: std::env::temp_dir(),
    };
    let dialect = |connector: &dyn Connector, kind: &str, options: &[(&str, &str)]| {
        connector.sink(&connection(kind, options)).unwrap().dialect()
    };
    let path = &[("path", "types")][..];
    vec![
        ("postgres", dialect(&dpone_postgres::PostgresConnector, "postgres", &[("url", "postgres://u@localhost/db")])),
        (
            "clickhouse",
            dialect(&dpone_clickhouse::ClickHouseConnector, "clickhouse", &[("url", "http://localhost:8123/")]),
        ),
        ("delta", dialect(&dpone_delta::DeltaConnector, "delta", path)),
        ("parquet", dialect(&dpone_files::FilesConnector, "parquet", path)),
        ("csv", dialect(&dpone_files::FilesConnector, "csv", path)),
    ]
}
