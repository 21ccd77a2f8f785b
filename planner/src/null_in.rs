//! `IN (SELECT …)` with a NULL on either side is unknown, wherever it stands.
//!
//! DataFusion knows that of a `NOT IN` that is a condition of its own (a null-aware anti join). Inside of another
//! expression, as in `x NOT IN (SELECT …) OR y = 1`, it asks a mark join whether the value is there, and takes "not
//! found" for false: rows whose answer is unknown are kept. Here such an expression is given the two questions that are
//! missing: is the value NULL, and is there a NULL among the others.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, Result as DataFusionResult, ScalarValue};
use datafusion::logical_expr::expr::{Exists, InSubquery};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprSchemable, Filter, LogicalPlan, LogicalPlanBuilder, Operator, Subquery, lit, when,
};

use crate::Result;

/// Rewrites the filters of a plan, those of its subqueries too.
pub fn exact_in_plan(plan: LogicalPlan) -> Result<LogicalPlan> {
    let rewritten = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Filter(filter) if filter.predicate.exists(|e| Ok(matches!(e, Expr::InSubquery(_))))? => {
            let schema = Arc::clone(filter.input.schema());
            let conditions = split_conjunction_owned(filter.predicate).into_iter();
            let exact = conditions.map(|c| condition(c, &schema)).collect::<DataFusionResult<Vec<_>>>()?;
            let predicate = conjunction(exact).unwrap_or_else(|| lit(true));
            Ok(Transformed::yes(LogicalPlan::Filter(Filter::try_new(predicate, filter.input)?)))
        }
        other => Ok(Transformed::no(other)),
    })?;
    Ok(rewritten.data)
}

/// One of the conditions that all have to be true.
fn condition(expr: Expr, schema: &DFSchema) -> DataFusionResult<Expr> {
    let test = match &expr {
        Expr::Not(inner) => inner.as_ref(),
        whole => whole,
    };
    match test {
        // A null-aware anti join has one key: what the subquery takes from the row would be another.
        Expr::InSubquery(test) if test.subquery.outer_ref_columns.is_empty() => Ok(expr),
        _ => part(expr, schema),
    }
}

/// A part of a condition, in which unknown is as good as false.
fn part(expr: Expr, schema: &DFSchema) -> DataFusionResult<Expr> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
            let (left, right) = (part(*left, schema)?, part(*right, schema)?);
            Ok(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right))))
        }
        Expr::InSubquery(test @ InSubquery { negated: false, .. }) => Ok(Expr::InSubquery(named(test)?)),
        other => Ok(other
            .transform_down(|inner| match inner {
                Expr::InSubquery(inner) => {
                    let exact = exact(inner, schema)?;
                    // What it holds is not to be rewritten again.
                    Ok(Transformed::new(exact, true, TreeNodeRecursion::Jump))
                }
                other => Ok(Transformed::no(other)),
            })?
            .data),
    }
}

/// True, false or NULL, as SQL has it.
fn exact(test: InSubquery, schema: &DFSchema) -> DataFusionResult<Expr> {
    let InSubquery { expr, subquery, negated } = named(test)?;
    let others = subquery.subquery.schema();
    let (qualifier, field) = others.qualified_field(0);
    let mut unknown = Vec::new();
    if field.is_nullable() {
        let is_null = Expr::Column(Column::from((qualifier, field))).is_null();
        let nulls = LogicalPlanBuilder::from(subquery.subquery.as_ref().clone()).filter(is_null)?.build()?;
        unknown.push(exists(nulls, &subquery));
    }
    if expr.nullable(schema)? {
        unknown.push((*expr).clone().is_null().and(exists(subquery.subquery.as_ref().clone(), &subquery)));
    }
    let found = Expr::InSubquery(InSubquery { expr, subquery, negated: false });
    match unknown.into_iter().reduce(Expr::or) {
        None if negated => Ok(Expr::Not(Box::new(found))),
        None => Ok(found),
        Some(unknown) => {
            when(found, lit(!negated)).when(unknown, lit(ScalarValue::Boolean(None))).otherwise(lit(negated))
        }
    }
}

/// With a name of its own for what is compared: a mark join cannot tell an aggregate from its column.
fn named(mut test: InSubquery) -> DataFusionResult<InSubquery> {
    let plan = test.subquery.subquery.as_ref().clone();
    let value = Expr::Column(Column::from(plan.schema().qualified_field(0))).alias("value");
    test.subquery.subquery = Arc::new(LogicalPlanBuilder::from(plan).project([value])?.build()?);
    Ok(test)
}

fn exists(plan: LogicalPlan, like: &Subquery) -> Expr {
    let outer_ref_columns = plan.all_out_ref_exprs();
    let subquery = Subquery { subquery: Arc::new(plan), outer_ref_columns, spans: like.spans.clone() };
    Expr::Exists(Exists { subquery, negated: false })
}
