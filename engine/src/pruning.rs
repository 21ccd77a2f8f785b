//! What the bounds that files keep of their rows say of a filter.

use arrow::datatypes::{DataType, Schema};
use datafusion::common::config::TableParquetOptions;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DFSchema, ExprSchema, Result as DataFusionResult};
use datafusion::execution::SessionState;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, LogicalPlan};
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

/// Whether a plan joins, sorts or aggregates by floating numbers. What such a step has found so far becomes a filter of the
/// scans below it while they run (the values of a join's other side, the greatest value, the last one that counts), and
/// [`parquet_options`] have not seen it.
pub(crate) fn compares_floats(plan: &LogicalPlan) -> DataFusionResult<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        if matches!(node, LogicalPlan::Join(_) | LogicalPlan::Sort(_) | LogicalPlan::Aggregate(_)) {
            let schema = merge_schema(&node.inputs());
            found |= node.expressions().iter().any(|expr| reads_floats(expr, &schema));
        }
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

fn reads_floats(expr: &Expr, schema: &DFSchema) -> bool {
    let mut columns = expr.column_refs().into_iter();
    columns.any(|column| schema.field_from_column(column).is_ok_and(|field| holds_floats(field.data_type())))
}

pub(crate) fn without_dynamic_filters(session: &SessionState) -> SessionState {
    let mut session = session.clone();
    let optimizer = &mut session.config_mut().options_mut().optimizer;
    optimizer.enable_join_dynamic_filter_pushdown = false;
    optimizer.enable_topk_dynamic_filter_pushdown = false;
    optimizer.enable_aggregate_dynamic_filter_pushdown = false;
    session
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
