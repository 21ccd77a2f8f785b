//! The source of a case as a table of ClickHouse: a copy that is made anew before every run.

use crate::ClickHouse;
use crate::oracle::{Kind, Value};

use super::{Design, SourceTable};

/// Takes what ClickHouse has no type for out of a design. A number of any length has none, nor has binary JSON; a
/// length of texts is not kept, and bytes would have to be declared.
pub(super) fn fit(design: &mut Design) {
    let fitting = |kind: Kind| match kind {
        Kind::Numeric => Kind::Decimal(20, 6),
        Kind::Varchar(_) | Kind::Jsonb | Kind::Bytea => Kind::Text,
        other => other,
    };
    for column in &mut design.shape.columns {
        let same = column.source == column.target;
        column.source = fitting(column.source);
        column.target = if same { column.source } else { fitting(column.target) };
    }
}

pub(super) fn mirror(clickhouse: &ClickHouse, source: &SourceTable) {
    let columns = &source.shape.columns;
    let defined: Vec<_> = columns.iter().map(|c| format!("`{}` Nullable({})", c.name, native(c.source))).collect();
    clickhouse.execute("DROP TABLE IF EXISTS source_of_t SYNC");
    clickhouse
        .execute(&format!("CREATE TABLE source_of_t ({}) ENGINE = MergeTree ORDER BY tuple()", defined.join(", ")));
    if source.rows.is_empty() {
        return;
    }
    let rows: Vec<_> = source
        .rows
        .iter()
        .map(|row| {
            let values: Vec<_> = row.iter().zip(columns).map(|(value, c)| literal(value, c.source)).collect();
            format!("({})", values.join(", "))
        })
        .collect();
    clickhouse.execute(&format!("INSERT INTO source_of_t VALUES {}", rows.join(", ")));
    assert_eq!(clickhouse.value("SELECT count() FROM source_of_t"), source.rows.len().to_string());
}

fn native(kind: Kind) -> String {
    match kind {
        Kind::SmallInt => "Int16".to_owned(),
        Kind::Int => "Int32".to_owned(),
        Kind::BigInt => "Int64".to_owned(),
        Kind::Decimal(precision, scale) => format!("Decimal({precision}, {scale})"),
        Kind::Real => "Float32".to_owned(),
        Kind::Double => "Float64".to_owned(),
        Kind::Text => "String".to_owned(),
        Kind::Boolean => "Bool".to_owned(),
        Kind::Date => "Date32".to_owned(),
        Kind::Timestamp => "DateTime64(6)".to_owned(),
        Kind::Timestamptz => "DateTime64(6, 'UTC')".to_owned(),
        Kind::Uuid => "UUID".to_owned(),
        Kind::Numeric | Kind::Varchar(_) | Kind::Jsonb | Kind::Bytea => panic!("{kind:?} was taken out of the design"),
    }
}

fn literal(value: &Value, kind: Kind) -> String {
    let Some(text) = value else { return "NULL".to_owned() };
    match kind {
        Kind::Real | Kind::Double => match text.as_str() {
            "Infinity" => "inf".to_owned(),
            "-Infinity" => "-inf".to_owned(),
            "NaN" => "nan".to_owned(),
            // A number with a point is read quickly, and not to the last digit: by its bits it is itself.
            text => {
                let bits = text.parse::<f64>().unwrap();
                if kind == Kind::Double {
                    format!("reinterpretAsFloat64(toUInt64({}))", bits.to_bits())
                } else {
                    format!("reinterpretAsFloat32(toUInt32({}))", (bits as f32).to_bits())
                }
            }
        },
        Kind::Boolean | Kind::SmallInt | Kind::Int | Kind::BigInt => text.clone(),
        Kind::Timestamp | Kind::Timestamptz => {
            // The clock of UTC, whatever zone the server has.
            format!("toDateTime64('{}', 6, 'UTC')", text.trim_end_matches("+00"))
        }
        _ => format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'")),
    }
}
