#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, Date32Array, Int64Array, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::common::DFSchema;
use datafusion::prelude::SessionContext;

use super::{Cut, Unit, of_partitions, of_values, parse};

fn schema() -> DFSchema {
    let timestamp = |zone: Option<&str>| DataType::Timestamp(TimeUnit::Microsecond, zone.map(Into::into));
    DFSchema::try_from(Schema::new(vec![
        Field::new("at", timestamp(None), true),
        Field::new("zoned", timestamp(Some("UTC")), true),
        Field::new("day", DataType::Date32, true),
        Field::new("n", DataType::Int64, true),
        Field::new("v", DataType::Utf8, true),
    ]))
    .unwrap()
}

const CUTS: &[(&str, &str, Cut)] = &[
    ("at", "date_trunc('month', at)", Cut::Calendar(Unit::Month)),
    ("at", "DATE_TRUNC('Hour', \"at\")", Cut::Calendar(Unit::Hour)),
    ("zoned", "CAST(date_trunc('week', zoned) AS DATE)", Cut::Calendar(Unit::Week)),
    ("at", "date_trunc('quarter', at)::date", Cut::Calendar(Unit::Quarter)),
    ("zoned", "CAST(zoned AS DATE)", Cut::Calendar(Unit::Day)),
    ("day", "date_trunc('month', day)", Cut::Calendar(Unit::Month)),
    ("day", "EXTRACT(YEAR FROM day)", Cut::Calendar(Unit::Year)),
    ("n", "n / 1000", Cut::Quotient(1000)),
    ("n", "n % 7", Cut::Remainder(7)),
];

#[test]
fn expressions_are_understood_or_refused() {
    for (column, sql, expected) in CUTS {
        assert_eq!(parse("it", sql, column, &schema()).unwrap(), *expected, "{sql}");
    }
    for (column, sql, says) in [
        ("at", "date_trunc('month', day)", "reads day; its partitions are of \"at\""),
        ("at", "1", "reads no column"),
        ("at", "date_trunc('decade', at)", "whose partitions are known"),
        ("at", "date_trunc('hour', at)::date", "whose partitions are known"),
        ("n", "n / 0", "whose partitions are known"),
        ("n", "abs(n)", "whose partitions are known"),
        ("v", "date_trunc('month', v)", "v"),
        ("at", "missing", "missing"),
    ] {
        let error = parse("it", sql, column, &schema()).unwrap_err();
        assert!(error.message().contains(says), "{sql}: {error}");
    }
}

/// DataFusion's own value of the expression is the judge: a row is in the predicate of its own partition, and in no other.
#[tokio::test]
async fn a_predicate_has_the_rows_with_the_same_value_of_the_expression() {
    let micros: Vec<Option<i64>> = moments().into_iter().map(Some).chain([None]).collect();
    let days: Vec<Option<i32>> = micros.iter().map(|at| at.map(|at| at.div_euclid(86_400_000_000) as i32)).collect();
    let numbers: Vec<Option<i64>> =
        (-3000..3000).step_by(97).chain([-7, 7, 0, i64::MIN + 1, i64::MAX]).map(Some).chain([None]).collect();
    for (column, sql, cut) in CUTS {
        let values: ArrayRef = match *column {
            "at" => Arc::new(TimestampMicrosecondArray::from(micros.clone())),
            "zoned" => Arc::new(TimestampMicrosecondArray::from(micros.clone()).with_timezone("UTC")),
            "day" => Arc::new(Date32Array::from(days.clone())),
            _ => Arc::new(Int64Array::from(numbers.clone())),
        };
        let mut partitions = BTreeSet::new();
        cut.partitions(&values, |partition| {
            partitions.insert(partition);
        })
        .unwrap();
        let session = SessionContext::new();
        let batch = arrow::array::RecordBatch::try_from_iter_with_nullable([(*column, values, true)]).unwrap();
        session.register_batch("t", batch.clone()).unwrap();
        let count = async |query: String| {
            let found = session.sql(&query).await.unwrap().collect().await.unwrap();
            found[0].column(0).as_any().downcast_ref::<Int64Array>().unwrap().value(0)
        };
        let distinct = count(format!("SELECT count(DISTINCT {sql}) + 1 FROM t")).await;
        assert_eq!(partitions.len() as i64, distinct, "{sql}");
        let field = schema().field_with_unqualified_name(column).unwrap().as_ref().clone();
        for partition in &partitions {
            let predicate = of_partitions(*cut, &field, &BTreeSet::from([*partition])).unwrap();
            let inside = count(format!("SELECT count(DISTINCT {sql}) FROM t WHERE {predicate}")).await;
            assert_eq!(inside, i64::from(partition.is_some()), "{sql}: {predicate}");
            let rows = count(format!("SELECT count(*) FROM t WHERE {predicate}")).await;
            assert!(rows > 0, "{sql}: {predicate}");
        }
        let all = of_partitions(*cut, &field, &partitions).unwrap();
        assert_eq!(count(format!("SELECT count(*) FROM t WHERE {all}")).await, batch.num_rows() as i64, "{sql}: {all}");
    }
}

/// Around the edges of every unit, and before 1970.
fn moments() -> Vec<i64> {
    let starts = [
        "1969-12-29",
        "1969-12-31",
        "1970-01-01",
        "2023-12-31",
        "2024-02-29",
        "2024-03-01",
        "2026-04-01",
        "2026-11-23",
    ];
    let mut out = Vec::new();
    for start in starts {
        let date: chrono::NaiveDate = start.parse().unwrap();
        let at = i64::from(date.to_epoch_days()) * 86_400_000_000;
        out.extend([at - 1, at, at + 1, at + 3_600_000_000, at + 86_399_999_999]);
    }
    out
}

#[test]
fn neighbours_are_one_range() {
    let field = Field::new("day", DataType::Date32, true);
    let months = ["2026-01-01", "2026-02", "2026-04-01"].map(str::to_owned);
    assert_eq!(
        of_values(Cut::Calendar(Unit::Month), &field, &months).unwrap(),
        "(\"day\" >= CAST('2026-01-01' AS DATE) AND \"day\" < CAST('2026-03-01' AS DATE)) OR \
         (\"day\" >= CAST('2026-04-01' AS DATE) AND \"day\" < CAST('2026-05-01' AS DATE))"
    );
    for (cut, wrong) in [
        (Cut::Calendar(Unit::Month), "2026-01-02"),
        (Cut::Calendar(Unit::Week), "2026-11-24"),
        (Cut::Calendar(Unit::Year), "soon"),
        (Cut::Remainder(4), "4"),
        (Cut::Quotient(4), "x"),
    ] {
        let error = of_values(cut, &field, &[wrong.to_owned()]).unwrap_err();
        assert!(error.message().contains(wrong) && error.message().contains("expected"), "{error}");
    }
}
