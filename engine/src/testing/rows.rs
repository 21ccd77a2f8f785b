//! Small tables for the suite: made from tuples, read back as sorted text.

use std::sync::Arc;

use arrow::array::{Int8Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::util::display::array_value_to_string;
use datafusion::prelude::SessionContext;
use dpone_planner::plan::{LOAD_ID, OPERATION_COLUMN};

use crate::{Relation, Result, Sink};

/// `id bigint not null, name text, amount bigint`
pub(crate) fn schema() -> SchemaRef {
    Arc::new(Schema::new(fields()))
}

fn fields() -> Vec<Field> {
    vec![
        Field::new("id", DataType::Int64, false),
        Field::new("name", DataType::Utf8, true),
        Field::new("amount", DataType::Int64, true),
    ]
}

pub(crate) fn schema_with_operation() -> SchemaRef {
    let mut fields = fields();
    fields.push(Field::new(OPERATION_COLUMN, DataType::Int8, false));
    Arc::new(Schema::new(fields))
}

/// One row: id, name, amount.
pub(crate) type Row = (i64, Option<&'static str>, Option<i64>);

/// A batch of the suite's rows.
pub fn batch(rows: &[Row]) -> Result<RecordBatch> {
    Ok(RecordBatch::try_new(
        schema(),
        vec![
            Arc::new(rows.iter().map(|r| Some(r.0)).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|r| r.1).collect::<StringArray>()),
            Arc::new(rows.iter().map(|r| r.2).collect::<Int64Array>()),
        ],
    )?)
}

pub(crate) fn batch_with_operation(rows: &[(Row, i8)]) -> Result<RecordBatch> {
    let plain: Vec<Row> = rows.iter().map(|(row, _)| *row).collect();
    let mut columns = batch(&plain)?.columns().to_vec();
    columns.push(Arc::new(rows.iter().map(|(_, op)| Some(*op)).collect::<Int8Array>()));
    Ok(RecordBatch::try_new(schema_with_operation(), columns)?)
}

/// The same with the load's id in each row.
pub(crate) fn stamped(rows: &[(Row, i8)], load_id: &str) -> Result<RecordBatch> {
    let given = batch_with_operation(rows)?;
    let mut fields: Vec<_> = given.schema().fields().iter().cloned().collect();
    let mut columns = given.columns().to_vec();
    let at = columns.len() - 1;
    fields.insert(at, Arc::new(Field::new(LOAD_ID, DataType::Utf8, true)));
    columns.insert(at, Arc::new(StringArray::from(vec![load_id; rows.len()])));
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

/// The columns that a table has for staged rows.
pub(crate) fn stored(staged: &SchemaRef) -> SchemaRef {
    let fields = staged.fields().iter().filter(|f| f.name() != OPERATION_COLUMN);
    Arc::new(Schema::new(fields.cloned().collect::<Vec<_>>()))
}

/// All rows of a table as the sink's own reader gives them: `id|name|amount`, sorted; NULL is `∅`.
pub async fn read_rows(sink: &dyn Sink, table: &Relation) -> Result<Option<Vec<String>>> {
    read_columns(sink, table, &["id", "name", "amount"]).await
}

pub(crate) async fn read_columns(sink: &dyn Sink, table: &Relation, names: &[&str]) -> Result<Option<Vec<String>>> {
    let Some(target) = sink.describe(table).await? else { return Ok(None) };
    let context = SessionContext::new();
    let batches = context.read_table(target.provider)?.select_columns(names)?.collect().await?;
    let mut rows = Vec::new();
    for batch in &batches {
        for row in 0..batch.num_rows() {
            let cells = batch.columns().iter().map(|column| match column.is_null(row) {
                true => Ok("∅".to_owned()),
                false => array_value_to_string(column, row),
            });
            rows.push(cells.collect::<Result<Vec<_>, _>>()?.join("|"));
        }
    }
    rows.sort();
    Ok(Some(rows))
}
