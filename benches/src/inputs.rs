//! Batches of TPC-H lineitem: the same on every machine.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, FixedSizeBinaryArray, RecordBatch, RecordBatchReader};
use datafusion::arrow::compute::cast;
use datafusion::arrow::csv::WriterBuilder;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use dpone_engine::{Error, Result};
use tpchgen::generators::LineItemGenerator;
use tpchgen_arrow::LineItemArrow;

/// Rows of each input.
pub const ROWS: usize = 8192;

/// The first rows of lineitem at scale factor 0.01.
pub fn lineitem() -> Result<RecordBatch> {
    let mut generator = LineItemArrow::new(LineItemGenerator::new(0.01, 1, 1)).with_batch_size(ROWS);
    let schema = plain_schema(&generator.schema());
    let batch = generator.next().ok_or_else(|| Error::internal("lineitem has no rows"))??;
    let columns = batch.columns().iter().zip(schema.fields());
    let columns = columns.map(|(column, field)| cast(column, field.data_type())).collect::<Result<Vec<_>, _>>()?;
    Ok(RecordBatch::try_new(schema, columns)?)
}

/// What a table of PostgreSQL gives: plain texts in place of views.
fn plain_schema(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| {
        let data_type = match field.data_type() {
            DataType::Utf8View => DataType::Utf8,
            other => other.clone(),
        };
        Field::new(field.name(), data_type, false)
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Columns of lineitem and what is made of them, by the family of their type in PostgreSQL.
pub fn family(name: &str) -> Result<(Vec<(&'static str, &'static str)>, Vec<ArrayRef>)> {
    let lineitem = lineitem()?;
    let column = |name: &str| {
        lineitem.column_by_name(name).cloned().ok_or_else(|| Error::internal(format!("lineitem has no {name}")))
    };
    let converted = |from: &str, to: DataType| -> Result<ArrayRef> { Ok(cast(&column(from)?, &to)?) };
    let zoned = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let (columns, arrays): (Vec<_>, Vec<ArrayRef>) = match name {
        "integer" => (
            vec![("a", "bigint"), ("b", "integer"), ("c", "smallint")],
            vec![
                converted("l_orderkey", DataType::Int64)?,
                converted("l_partkey", DataType::Int32)?,
                converted("l_linenumber", DataType::Int16)?,
            ],
        ),
        "numeric" => {
            (vec![("a", "numeric(15,2)"), ("b", "numeric(15,2)")], vec![column("l_extendedprice")?, column("l_tax")?])
        }
        "double" => (vec![("a", "double precision")], vec![converted("l_extendedprice", DataType::Float64)?]),
        "text" => (
            vec![("a", "character varying(44)"), ("b", "character(10)")],
            vec![column("l_comment")?, column("l_shipmode")?],
        ),
        "date" => (vec![("a", "date"), ("b", "date")], vec![column("l_shipdate")?, column("l_receiptdate")?]),
        "timestamptz" => {
            let midnight = cast(&column("l_shipdate")?, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
            (vec![("a", "timestamp with time zone")], vec![cast(&midnight, &zoned)?])
        }
        "boolean" => (vec![("a", "boolean")], vec![converted("l_linenumber", DataType::Boolean)?]),
        "uuid" => {
            let values = (0..lineitem.num_rows()).map(|row| (row as u128 * 0x9e37_79b9_7f4a_7c15).to_be_bytes());
            (vec![("a", "uuid")], vec![Arc::new(FixedSizeBinaryArray::try_from_iter(values)?)])
        }
        "bytea" => (vec![("a", "bytea")], vec![converted("l_comment", DataType::Binary)?]),
        other => return Err(Error::internal(format!("there is no family {other:?}"))),
    };
    Ok((columns, arrays))
}

/// The families of [`family`].
pub const FAMILIES: [&str; 9] =
    ["integer", "numeric", "double", "text", "date", "timestamptz", "boolean", "uuid", "bytea"];

/// Lineitem as a file.
pub fn csv() -> Result<(SchemaRef, Vec<u8>)> {
    let batch = lineitem()?;
    let mut bytes = Vec::new();
    let mut writer = WriterBuilder::new().with_header(false).build(&mut bytes);
    writer.write(&batch)?;
    drop(writer);
    Ok((batch.schema(), bytes))
}
