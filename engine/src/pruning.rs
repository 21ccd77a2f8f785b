//! What the bounds that files keep of their rows say of a filter.

use arrow::datatypes::{DataType, Schema};
use datafusion::common::config::TableParquetOptions;
use datafusion::logical_expr::Expr;
use dpone_planner::expr::columns_of;

/// How Parquet files are read under these filters. To a comparison a NaN is greater than every number, and it lies outside of
/// the bounds of row groups and pages: where a filter reads floating numbers, none of them is passed over.
pub fn parquet_options(filters: &[Expr], schema: &Schema) -> TableParquetOptions {
    let mut read = filters.iter().flat_map(columns_of);
    let floats = read.any(|name| schema.field_with_name(&name).is_ok_and(|field| holds_floats(field.data_type())));
    let mut options = TableParquetOptions::default();
    options.global.pruning = !floats;
    options.global.enable_page_index = !floats;
    options
}

fn holds_floats(data_type: &DataType) -> bool {
    match data_type {
        DataType::Struct(fields) => fields.iter().any(|field| holds_floats(field.data_type())),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            holds_floats(item.data_type())
        }
        other => other.is_floating(),
    }
}
