//! Expressions that definitions carry as text, and columns that a plan carries without reading.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, DFSchemaRef, TableReference};
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::prelude::{SessionConfig, SessionContext};

use crate::error::{Error, Result};
use crate::literal::LiteralPlanner;

/// Operators of one query or predicate. Long chains (a AND b AND c …) are walked by recursion, one level an operator, by
/// the parser and every step of planning.
pub const MAX_OPERATORS: usize = 4000;
/// UNION, INTERSECT and EXCEPT of one query: each is a plan of its own.
pub const MAX_SET_OPERATIONS: usize = 500;

/// Fails where a query or predicate has more operators than are planned. `what` names it.
pub fn check_length(what: &str, sql: &str) -> Result<()> {
    match too_long(sql) {
        None => Ok(()),
        Some(excess) => Err(Error::configuration(format!("{what} {}", excess.message)).with_hint(excess.hint)),
    }
}

/// What is too long in a query, and the line and column (from one) where it goes beyond the bound.
#[derive(Debug)]
pub struct Excess {
    pub message: String,
    pub hint: &'static str,
    pub line: u64,
    pub column: u64,
}

/// Counts the operators of a query or predicate.
pub fn too_long(sql: &str) -> Option<Excess> {
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::keywords::Keyword;
    use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
    let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location().ok()?;
    let (mut operators, mut sets) = (0, 0);
    for token in &tokens {
        match &token.token {
            Token::Word(word) => match word.keyword {
                Keyword::AND | Keyword::OR => operators += 1,
                Keyword::UNION | Keyword::INTERSECT | Keyword::EXCEPT => sets += 1,
                _ => continue,
            },
            Token::Plus | Token::Minus | Token::Div | Token::Mod | Token::StringConcat | Token::DoubleColon => {
                operators += 1;
            }
            _ => continue,
        }
        let excess = |message: String, hint| {
            let at = token.span.start;
            Some(Excess { message, hint, line: at.line, column: at.column })
        };
        if operators > MAX_OPERATORS {
            return excess(
                format!("has more than {MAX_OPERATORS} operators (AND, OR, +, ||, …), the most that are planned"),
                "write a long list of values as column IN (…), or join with a table that holds them",
            );
        }
        if sets > MAX_SET_OPERATIONS {
            return excess(
                format!(
                    "has more than {MAX_SET_OPERATIONS} set operations (UNION, INTERSECT, EXCEPT), the most that are planned"
                ),
                "read several files by one pattern, or load the parts by pipelines of their own",
            );
        }
    }
    None
}

/// Parses a predicate over the columns of `schema`, coerces its types and folds its constants.
///
/// `what` names the predicate in errors, such as `replace scope`.
pub fn predicate(what: &str, sql: &str, schema: &DFSchema) -> Result<Expr> {
    let failed = |error: datafusion::error::DataFusionError| {
        let ours = matches!(&error, datafusion::error::DataFusionError::External(inner) if inner.is::<Error>());
        let error = Error::from(error);
        let problem = if ours { "" } else { " is not a predicate over the table" };
        let problem = Error::configuration(format!("{what}: {sql:?}{problem}: {}", error.message()));
        match (error.hint(), ours) {
            (Some(hint), _) => problem.with_hint(hint),
            (None, true) => problem,
            (None, false) => problem.with_hint(
                "write a DataFusion SQL condition over the table's columns, such as order_date >= '2026-06-01'",
            ),
        }
    };
    check_length(what, sql)?;
    let parsed = parse(sql, schema).map_err(failed)?;
    let schema: DFSchemaRef = Arc::new(schema.clone());
    let context = SimplifyContext::builder()
        .with_schema(Arc::clone(&schema))
        .with_query_execution_start_time(Some(chrono_now()))
        .build();
    let simplifier = ExprSimplifier::new(context);
    let coerced = simplifier.coerce(parsed, &schema).map_err(failed)?;
    let simplified = simplifier.simplify(coerced).map_err(failed)?;
    use datafusion::logical_expr::ExprSchemable;
    if simplified.get_type(&schema).map_err(failed)? != arrow::datatypes::DataType::Boolean {
        return Err(Error::configuration(format!("{what}: {sql:?} is not a condition that is true or false")));
    }
    Ok(simplified)
}

/// Parses an expression over the columns of `schema`, as it is written. `what` names it in errors.
pub fn value(what: &str, sql: &str, schema: &DFSchema) -> Result<Expr> {
    check_length(what, sql)?;
    parse(sql, schema).map_err(|error| {
        Error::configuration(format!(
            "{what}: {sql:?} is not an expression over the table: {}",
            error.strip_backtrace()
        ))
    })
}

/// Fails when a predicate can mean different rows at different moments: what is read and what is replaced would differ.
pub fn require_immutable(what: &str, sql: &str, schema: &DFSchema) -> Result<()> {
    let Ok(parsed) = parse(sql, schema) else { return Ok(()) };
    let changing = parsed.exists(|node| {
        Ok(match node {
            Expr::ScalarFunction(call) => call.func.signature().volatility != Volatility::Immutable,
            _ => false,
        })
    })?;
    if changing {
        return Err(Error::configuration(format!("{what}: {sql:?} means other rows at every moment"))
            .with_hint("write the moment as a value, or give it to the run: at >= '${from}' with --var from=…"));
    }
    Ok(())
}

/// Decimal literals are decimals, so that 0.1 is 0.1.
fn parse(sql: &str, schema: &DFSchema) -> datafusion::common::Result<Expr> {
    let mut config = SessionConfig::new();
    config.options_mut().sql_parser.parse_float_as_decimal = true;
    let mut session = SessionContext::new_with_config(config);
    session.register_expr_planner(LiteralPlanner::shared())?;
    Ok(crate::literal::compare(session.parse_sql_expr(sql, schema)?, schema)?)
}

/// Gives the bare columns of a parsed predicate the qualifiers that they have in `plan`.
pub fn qualify(expr: Expr, plan: &LogicalPlan) -> Result<Expr> {
    let qualified = expr.transform(|node| match &node {
        Expr::Column(bare) => {
            let found = plan.schema().iter().find(|(_, field)| field.name() == &bare.name);
            Ok(match found {
                Some((qualifier, _)) => Transformed::yes(Expr::Column(Column::new(qualifier.cloned(), &bare.name))),
                None => Transformed::no(node),
            })
        }
        _ => Ok(Transformed::no(node)),
    })?;
    Ok(qualified.data)
}

/// The names of the columns that an expression reads.
pub fn columns_of(expr: &Expr) -> BTreeSet<String> {
    expr.column_refs().into_iter().map(|c| c.name.clone()).collect()
}

/// `now()` in a predicate means the moment at which it is planned.
fn chrono_now() -> chrono::DateTime<chrono::Utc> {
    chrono::Utc::now()
}

/// A source column that reaches the plan's output unread.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PassedThrough {
    /// The scanned table, as the plan refers to it.
    pub table: TableReference,
    pub column: String,
    /// Its names in the output.
    pub outputs: Vec<String>,
}

/// The scanned columns that no expression reads: they appear in the output, if at all, as bare columns.
///
/// The answer is conservative: a plan with a node that looks at whole rows (DISTINCT, set operations, windows,
/// aggregates, subqueries) passes nothing through.
pub fn passed_through(plan: &LogicalPlan) -> Vec<PassedThrough> {
    let mut read = BTreeSet::new();
    if !collect_read(plan, &mut read) {
        return Vec::new();
    }
    let mut outputs: BTreeMap<(TableReference, String), Vec<String>> = BTreeMap::new();
    for (index, field) in plan.schema().fields().iter().enumerate() {
        match origin_of_output(plan, index) {
            Origin::Scan(table, column) => outputs.entry((table, column)).or_default().push(field.name().clone()),
            Origin::Computed => {}
            Origin::Unknown => return Vec::new(),
        }
    }
    outputs
        .into_iter()
        .filter(|(origin, _)| !read.contains(origin))
        .map(|((table, column), outputs)| PassedThrough { table, column, outputs })
        .collect()
}

/// Whether the plan reads one table, gives each of its rows at most once, and gives these of its columns unchanged under
/// their own names.
pub fn keeps_rows_and_columns(plan: &LogicalPlan, columns: &[String]) -> bool {
    let mut node = plan;
    loop {
        node = match node {
            LogicalPlan::TableScan(_) => break,
            LogicalPlan::Projection(projection) => &projection.input,
            LogicalPlan::Filter(filter) => &filter.input,
            LogicalPlan::SubqueryAlias(alias) => &alias.input,
            LogicalPlan::Sort(sort) => &sort.input,
            LogicalPlan::Limit(limit) => &limit.input,
            _ => return false,
        };
    }
    columns.iter().all(|column| {
        plan.schema().fields().iter().enumerate().any(|(index, field)| {
            field.name() == column
                && matches!(origin_of_output(plan, index), Origin::Scan(_, origin) if origin == *column)
        })
    })
}

/// Why a plan does more than read one table row by row, each row giving at most one by its own values alone; `None` when
/// it does not.
pub fn more_than_rows_of_one_table(plan: &LogicalPlan) -> Option<String> {
    let mut node = plan;
    loop {
        if let Some(why) = node.expressions().iter().find_map(beyond_the_row) {
            return Some(why);
        }
        node = match node {
            LogicalPlan::TableScan(scan) if scan.fetch.is_none() => return None,
            LogicalPlan::Projection(projection) => &projection.input,
            LogicalPlan::Filter(filter) => &filter.input,
            LogicalPlan::SubqueryAlias(alias) => &alias.input,
            // It looks at each row by itself.
            LogicalPlan::Extension(ours) if ours.node.name() == "Sift" => match ours.node.inputs().as_slice() {
                [input] => input,
                _ => return Some("has a step that is not known".into()),
            },
            LogicalPlan::Sort(sort) if sort.fetch.is_none() => &sort.input,
            LogicalPlan::TableScan(_) | LogicalPlan::Sort(_) | LogicalPlan::Limit(_) => {
                return Some("has a limit".into());
            }
            LogicalPlan::Join(_) => return Some("joins tables".into()),
            LogicalPlan::Aggregate(_) => return Some("aggregates".into()),
            LogicalPlan::Distinct(_) => return Some("removes duplicates".into()),
            LogicalPlan::Union(_) => return Some("puts several reads together".into()),
            LogicalPlan::Window(_) => return Some("has a window function".into()),
            LogicalPlan::Unnest(_) => return Some("makes several rows of one".into()),
            LogicalPlan::EmptyRelation(_) | LogicalPlan::Values(_) => return Some("reads no table".into()),
            other => return Some(format!("has a step of the kind {}", step_name(other))),
        };
    }
}

fn step_name(plan: &LogicalPlan) -> String {
    let text = plan.display().to_string();
    text.split([':', ' ']).next().unwrap_or_default().to_owned()
}

/// What an expression depends on besides the row.
fn beyond_the_row(expr: &Expr) -> Option<String> {
    let mut found = None;
    let walked = expr.apply(|node| {
        match node {
            Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_) | Expr::SetComparison(_) => {
                found = Some("has a subquery".to_owned());
            }
            Expr::ScalarFunction(call) if call.func.signature().volatility != Volatility::Immutable => {
                found = Some(format!("calls {}, which gives another value at another moment", call.func.name()));
            }
            _ => {}
        }
        Ok(if found.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    if walked.is_err() { Some("has an expression that is not understood".to_owned()) } else { found }
}

#[derive(Debug, PartialEq)]
enum Origin {
    Scan(TableReference, String),
    Computed,
    Unknown,
}

/// Where an output column comes from.
/// Whether an output is a column of a scanned table, unchanged.
pub fn is_table_column(plan: &LogicalPlan, index: usize) -> bool {
    matches!(origin_of_output(plan, index), Origin::Scan(..))
}

fn origin_of_output(plan: &LogicalPlan, index: usize) -> Origin {
    match plan {
        LogicalPlan::TableScan(scan) => match scan.projected_schema.fields().get(index) {
            Some(field) => Origin::Scan(scan.table_name.clone(), field.name().clone()),
            None => Origin::Unknown,
        },
        LogicalPlan::Projection(projection) => match projection.expr.get(index) {
            Some(expr) => match bare_column(expr) {
                Some(column) => origin_of_column(&projection.input, column),
                None => Origin::Computed,
            },
            None => Origin::Unknown,
        },
        LogicalPlan::SubqueryAlias(alias) => origin_of_output(&alias.input, index),
        LogicalPlan::Filter(filter) => origin_of_output(&filter.input, index),
        LogicalPlan::Limit(limit) => origin_of_output(&limit.input, index),
        LogicalPlan::Sort(sort) => origin_of_output(&sort.input, index),
        LogicalPlan::Join(join) => {
            let (qualifier, field) = join.schema.qualified_field(index);
            let column = Column::new(qualifier.cloned(), field.name());
            if join.left.schema().has_column(&column) {
                origin_of_column(&join.left, &column)
            } else {
                origin_of_column(&join.right, &column)
            }
        }
        _ => Origin::Unknown,
    }
}

fn origin_of_column(plan: &LogicalPlan, column: &Column) -> Origin {
    match plan.schema().index_of_column(column) {
        Ok(index) => origin_of_output(plan, index),
        Err(_) => Origin::Unknown,
    }
}

fn bare_column(expr: &Expr) -> Option<&Column> {
    match expr {
        Expr::Column(column) => Some(column),
        Expr::Alias(alias) => bare_column(&alias.expr),
        _ => None,
    }
}

/// Adds every scanned column that some expression reads. False when the plan has a node that is not understood.
fn collect_read(plan: &LogicalPlan, read: &mut BTreeSet<(TableReference, String)>) -> bool {
    let known = matches!(
        plan,
        LogicalPlan::TableScan(_)
            | LogicalPlan::Projection(_)
            | LogicalPlan::SubqueryAlias(_)
            | LogicalPlan::Filter(_)
            | LogicalPlan::Limit(_)
            | LogicalPlan::Sort(_)
            | LogicalPlan::Join(_)
    );
    if !known {
        return false;
    }
    let inputs = plan.inputs();
    for expr in plan.expressions() {
        if matches!(plan, LogicalPlan::Projection(_)) && bare_column(&expr).is_some() {
            continue;
        }
        let mut understood = true;
        let walked = expr.apply(|node| {
            match node {
                Expr::Column(column) => {
                    // The filters of a scan are over its own columns.
                    if let LogicalPlan::TableScan(scan) = plan {
                        read.insert((scan.table_name.clone(), column.name.clone()));
                        return Ok(TreeNodeRecursion::Continue);
                    }
                    let input = inputs.iter().find(|input| input.schema().has_column(column));
                    match input.map(|input| origin_of_column(input, column)) {
                        Some(Origin::Scan(table, name)) => {
                            read.insert((table, name));
                        }
                        Some(Origin::Computed) => {}
                        _ => understood = false,
                    }
                }
                Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_) | Expr::OuterReferenceColumn(_, _) => {
                    understood = false;
                }
                _ => {}
            }
            Ok(TreeNodeRecursion::Continue)
        });
        if walked.is_err() || !understood {
            return false;
        }
    }
    inputs.into_iter().all(|input| collect_read(input, read))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::datasource::empty::EmptyTable;

    async fn plan(sql: &str) -> LogicalPlan {
        let context = SessionContext::new();
        for table in ["o", "c"] {
            let schema = Schema::new(vec![
                Field::new("id", DataType::Int64, false),
                Field::new(format!("{table}_a"), DataType::Utf8, true),
                Field::new(format!("{table}_b"), DataType::Utf8, true),
            ]);
            context.register_table(table, Arc::new(EmptyTable::new(Arc::new(schema)))).unwrap();
        }
        context.state().create_logical_plan(sql).await.unwrap()
    }

    async fn names(sql: &str) -> Vec<String> {
        let plan = plan(sql).await;
        passed_through(&plan).into_iter().map(|p| format!("{}.{}>{}", p.table, p.column, p.outputs.join("+"))).collect()
    }

    #[tokio::test]
    async fn only_unread_columns_pass_through() {
        assert_eq!(names("select * from o").await, ["o.id>id", "o.o_a>o_a", "o.o_b>o_b"]);
        assert_eq!(names("select id, o_a as x, upper(o_b) as o_b from o where id > 1").await, ["o.o_a>x"]);
        assert_eq!(
            names("select o.*, c.c_a from o join c using (id) where c_b = 'x'").await,
            ["c.c_a>c_a", "o.o_a>o_a", "o.o_b>o_b"]
        );
        assert_eq!(names("select s.o_a from (select * from o where o_b = 'x') s order by s.id").await, ["o.o_a>o_a"]);
        for whole_rows in [
            "select distinct * from o",
            "select id, o_a from o union all select id, c_a from c",
            "select max(o_a) from o",
            "select o_a, row_number() over (order by id) from o",
            "select o_a from o where id in (select id from c)",
        ] {
            assert_eq!(names(whole_rows).await, Vec::<String>::new(), "{whole_rows}");
        }
    }

    #[tokio::test]
    async fn a_key_is_kept_only_by_plans_that_keep_rows_and_names() {
        for (sql, kept) in [
            ("select * from o where o_a = 'x'", true),
            ("select o_a, id from (select * from o) s order by o_b limit 3", true),
            ("select id + 1 as id from o", false),
            ("select o_a as id from o", false),
            ("select o_a from o", false),
            ("select o.* from o join c using (id)", false),
            ("select id from o union all select id from o", false),
            ("select * from o cross join unnest([1, 2])", false),
        ] {
            assert_eq!(keeps_rows_and_columns(&plan(sql).await, &["id".to_owned()]), kept, "{sql}");
        }
    }

    #[tokio::test]
    async fn plans_that_are_more_than_rows_of_one_table_say_why() {
        for (sql, why) in [
            ("select id + 1 as id, upper(o_a) from (select * from o where id > 1) s order by o_b", None),
            ("select o.* from o join c using (id)", Some("joins")),
            ("select max(id) from o", Some("aggregates")),
            ("select distinct id from o", Some("duplicates")),
            ("select * from o limit 3", Some("limit")),
            ("select * from o order by id limit 3", Some("limit")),
            ("select id from o union all select id from c", Some("together")),
            ("select id, row_number() over (order by id) from o", Some("window")),
            ("select * from o where id in (select id from c)", Some("subquery")),
            ("select * from o where o_a > cast(now() as varchar)", Some("now")),
            ("select id, random() from o", Some("random")),
            ("select id, unnest([1, 2]) from o", Some("several rows")),
            ("select 1 as id", Some("no table")),
        ] {
            let found = more_than_rows_of_one_table(&plan(sql).await);
            match why {
                None => assert_eq!(found, None, "{sql}"),
                Some(why) => assert!(found.as_ref().is_some_and(|f| f.contains(why)), "{sql}: {found:?}"),
            }
        }
    }

    #[test]
    fn a_predicate_is_typed_and_folded_or_refused_with_its_text() {
        let schema = DFSchema::try_from(Schema::new(vec![Field::new("day", DataType::Date32, true)])).unwrap();
        let expr = predicate("scope", "day >= '2026-06-01' and day < '2026-06-08'", &schema).unwrap();
        assert_eq!(expr.to_string(), "day >= Date32(\"2026-06-01\") AND day < Date32(\"2026-06-08\")");
        assert!(require_immutable("scope", "day >= '2026-06-01'", &schema).is_ok());
        for changing in ["day < now()", "day = current_date", "random() < 0.5"] {
            let error = require_immutable("scope", changing, &schema).unwrap_err();
            assert!(error.message().contains("every moment"), "{error}");
        }
        for bad in ["dya = '2026-01-01'", "day", "day >=", "1"] {
            let error = predicate("scope", bad, &schema).unwrap_err();
            assert!(error.message().starts_with("scope: "), "{error}");
            assert_eq!(error.kind(), crate::ErrorKind::Configuration);
        }
    }
}
