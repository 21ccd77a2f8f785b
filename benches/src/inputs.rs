//! Batches of TPC-H lineitem: the same on every machine.

use std::path::PathBuf;
use std::sync::Arc;

use arrow_ipc::reader::FileReader;
use arrow_ipc::writer::FileWriter;
use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeBinaryArray, ListArray, RecordBatch, RecordBatchReader,
};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::compute::{cast, nullif};

use datafusion::arrow::csv::WriterBuilder;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use dpone_engine::{Error, Result};
use tpchgen::generators::LineItemGenerator;
use tpchgen_arrow::LineItemArrow;

/// Rows of each input.
pub const ROWS: usize = 8192;

/// The first rows of lineitem at scale factor 0.01, from the file that [`write`] left or generated.
pub fn lineitem() -> Result<RecordBatch> {
    match std::fs::File::open(prepared()?) {
        Err(_) => generate(),
        Ok(file) => {
            let mut rows = FileReader::try_new(file, None)?;
            Ok(rows.next().ok_or_else(|| Error::internal("the prepared rows are no batch"))??)
        }
    }
}

/// Puts the rows where [`lineitem`] looks: under valgrind, which counts slowly, generating them takes longer than all
/// kernels together.
pub fn write() -> Result<()> {
    let batch = generate()?;
    let mut file = FileWriter::try_new(std::fs::File::create(prepared()?)?, &batch.schema())?;
    file.write(&batch)?;
    Ok(file.finish()?)
}

/// Beside the program, which cargo puts into a folder of its profile, or into `deps` in it.
fn prepared() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let folder = program.ancestors().skip(1).find(|folder| !folder.ends_with("deps"));
    Ok(folder.ok_or_else(|| Error::internal("the program is in no folder"))?.join("lineitem.arrow"))
}

fn generate() -> Result<RecordBatch> {
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

/// Columns with their types in PostgreSQL, and what is in them.
pub type Columns = (Vec<(&'static str, &'static str)>, Vec<ArrayRef>);

/// The families of [`family`].
pub const FAMILIES: [&str; 16] = [
    "integer",
    "numeric",
    "numeric_wide",
    "numeric_text",
    "real",
    "double",
    "text",
    "date",
    "time",
    "timestamptz",
    "boolean",
    "uuid",
    "bytea",
    "jsonb",
    "array",
    "nulls",
];

/// Columns of lineitem and what is made of them, by the family of their type in PostgreSQL.
pub fn family(name: &str) -> Result<Columns> {
    let lineitem = lineitem()?;
    let column = |name: &str| {
        lineitem.column_by_name(name).cloned().ok_or_else(|| Error::internal(format!("lineitem has no {name}")))
    };
    let converted = |from: &str, to: DataType| -> Result<ArrayRef> { Ok(cast(&column(from)?, &to)?) };
    let one = |native, array| (vec![("a", native)], vec![array]);
    Ok(match name {
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
        "numeric_wide" => one("numeric(38,10)", converted("l_extendedprice", DataType::Decimal128(38, 10))?),
        "numeric_text" => one("numeric", converted("l_extendedprice", DataType::Utf8)?),
        "real" => one("real", converted("l_tax", DataType::Float32)?),
        "double" => one("double precision", converted("l_extendedprice", DataType::Float64)?),
        "text" => (
            vec![("a", "character varying(44)"), ("b", "character(10)")],
            vec![column("l_comment")?, column("l_shipmode")?],
        ),
        "date" => (vec![("a", "date"), ("b", "date")], vec![column("l_shipdate")?, column("l_receiptdate")?]),
        "time" => {
            let seconds = cast(&converted("l_partkey", DataType::Int32)?, &DataType::Time32(TimeUnit::Second))?;
            one("time", cast(&seconds, &DataType::Time64(TimeUnit::Microsecond))?)
        }
        "timestamptz" => {
            let midnight = converted("l_shipdate", DataType::Timestamp(TimeUnit::Microsecond, None))?;
            let zoned = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
            one("timestamp with time zone", cast(&midnight, &zoned)?)
        }
        "boolean" => one("boolean", converted("l_linenumber", DataType::Boolean)?),
        "uuid" => {
            let values = (0..lineitem.num_rows()).map(|row| (row as u128 * 0x9e37_79b9_7f4a_7c15).to_be_bytes());
            one("uuid", Arc::new(FixedSizeBinaryArray::try_from_iter(values)?))
        }
        "bytea" => one("bytea", converted("l_comment", DataType::Binary)?),
        "jsonb" => one("jsonb", documents(&column("l_comment")?)),
        "array" => one("integer[]", lists(&converted("l_partkey", DataType::Int32)?)?),
        "nulls" => {
            let some = |column: ArrayRef| -> Result<ArrayRef> { Ok(nullif(&column, &every_fifth(column.len()))?) };
            (
                vec![("a", "numeric(15,2)"), ("b", "character varying(44)")],
                vec![some(column("l_extendedprice")?)?, some(column("l_comment")?)?],
            )
        }
        other => return Err(Error::internal(format!("there is no family {other:?}"))),
    })
}

fn every_fifth(rows: usize) -> BooleanArray {
    (0..rows).map(|row| Some(row % 5 == 0)).collect()
}

fn documents(texts: &ArrayRef) -> ArrayRef {
    let document = |text: Option<&str>| text.map(|text| format!("{{\"comment\": {text:?}}}"));
    Arc::new(texts.as_string::<i32>().iter().map(document).collect::<datafusion::arrow::array::StringArray>())
}

/// Lists of four values.
fn lists(values: &ArrayRef) -> Result<ArrayRef> {
    let count = values.len() / 4;
    let item = Arc::new(Field::new("item", values.data_type().clone(), true));
    let offsets = OffsetBuffer::from_repeated_length(4, count);
    Ok(Arc::new(ListArray::try_new(item, offsets, values.slice(0, count * 4), None)?))
}

/// Lineitem as a file.
pub fn csv() -> Result<(SchemaRef, Vec<u8>)> {
    let batch = lineitem()?;
    let mut bytes = Vec::new();
    let mut writer = WriterBuilder::new().with_header(false).build(&mut bytes);
    writer.write(&batch)?;
    drop(writer);
    Ok((batch.schema(), bytes))
}
