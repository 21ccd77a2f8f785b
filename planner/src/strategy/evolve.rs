//! What a load does about a source that does not fit its target: the schema plan under the definition's policy, and the
//! source as the strategy then sees it, with columns left out, renamed, converted or routed to columns of their own.
//!
//! A strategy never knows: it works on a source that fits, and on a target as it is after the changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::datasource::{ViewTable, provider_as_source};
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, lit};

use super::{Observed, ObservedTarget, column};
use crate::definition::{Pipeline, Strategy};
use crate::error::{Error, ErrorKind, Result};
use crate::exact_cast::{convert, convert_checked, counts};
use crate::expr::is_table_column;
use crate::schema::{
    Action, Approval, Change, ChangeKind, Decision, EvolutionMode, Fit, SchemaChange, SchemaPlan, TablesMode,
    TargetNullability, check_names, fit, plan_schema, variants_of, with_aliases,
};
use crate::types::{GENERATED, NATIVE, SYSTEM, is_raw, native_of};

/// How much of the schema plan is taken for done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Assume {
    /// What the plan decides to apply. Anything that stops the run is an error.
    #[default]
    Decided,
    /// As well what waits for an approval: somebody has approved it.
    Approved,
    /// Every change that can be made, whoever has to decide about it: to explain what would be.
    Everything,
}

/// What a load finds at its target.
#[derive(Debug, Clone)]
pub enum TargetPlan {
    /// There is no target yet: it is created with the load.
    Create,
    /// There is no target, and the definition says to leave it at that.
    Skip(String),
    /// The target, compared with the source.
    Compared(Box<SchemaPlan>),
}

/// A load's source and target with the schema plan applied.
#[derive(Debug, Default)]
pub(super) struct Evolved {
    pub(super) schema: Option<SchemaPlan>,
    pub(super) ddl: Vec<SchemaChange>,
    /// What the changes themselves leave to say.
    pub(super) ddl_notes: Vec<String>,
    pub(super) notes: Vec<String>,
}

/// Compares the source with the target, as the definition's policy says.
pub fn plan_evolution(pipeline: &Pipeline, observed: &Observed<'_>) -> Result<TargetPlan> {
    let policy = &pipeline.evolution;
    if !policy.allow_reserved_dpone_columns {
        check_names(observed.source.schema().as_arrow())?;
    }
    let relation = &pipeline.sink.relation;
    let Some(target) = &observed.target else {
        return match policy.tables {
            TablesMode::Evolve => Ok(TargetPlan::Create),
            TablesMode::Freeze => Err(Error::configuration(format!(
                "the target {relation} does not exist, and schema_evolution.tables is freeze"
            ))
            .with("table", relation.to_string())
            .with_hint("create the table, or let the first load create it: tables: evolve")),
            TablesMode::Ignore => Ok(TargetPlan::Skip(format!(
                "the target {relation} does not exist, and schema_evolution.tables is ignore: nothing was loaded"
            ))),
        };
    };
    let own = own_columns(&pipeline.strategy);
    let there: Vec<FieldRef> =
        target.schema.fields().iter().filter(|field| !own.contains(&field.name().as_str())).cloned().collect();
    let there = Schema::new(there);
    let source = comparable(pipeline, observed, &there)?;
    let plan = plan_schema(relation, &source, &there, &target.facts, observed.dialect, policy)?;
    Ok(TargetPlan::Compared(Box::new(plan)))
}

/// Columns of the target that the strategy keeps under names of the definition.
pub fn own_columns(strategy: &Strategy) -> Vec<&str> {
    match strategy {
        Strategy::Scd2 { history, .. } => {
            vec![&history.row_hash, &history.valid_from, &history.valid_to, &history.is_current]
        }
        _ => Vec::new(),
    }
}

/// Where a column's type comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Declared {
    /// By the same kind of system as the sink's: native types are compared.
    Alike,
    /// By another system, or by the definition.
    Elsewhere,
    /// Inferred from rows, or computed: it says what the values are like, not what they may be.
    No,
}

fn declared(pipeline: &Pipeline, observed: &Observed<'_>, index: usize, field: &Field) -> Declared {
    let metadata = field.metadata();
    if is_table_column(&observed.source, index) {
        if native_of(field, observed.dialect.system()).is_some() {
            return Declared::Alike;
        }
        if metadata.contains_key(SYSTEM) && metadata.contains_key(NATIVE) {
            return Declared::Elsewhere;
        }
    }
    match pipeline.source.read.types.contains_key(field.name()) {
        true => Declared::Elsewhere,
        false => Declared::No,
    }
}

/// The source's columns as they are compared with the target's. What the rows decide is taken for equal.
fn comparable(pipeline: &Pipeline, observed: &Observed<'_>, target: &Schema) -> Result<Schema> {
    let policy = &pipeline.evolution;
    let mut fields = Vec::new();
    for (index, field) in observed.source.schema().fields().iter().enumerate() {
        let earlier: Vec<String> =
            policy.renames.iter().filter(|(_, new)| *new == field.name()).map(|(old, _)| old.clone()).collect();
        let field = if earlier.is_empty() { Arc::clone(field) } else { with_aliases(field, &earlier) };
        let by_name = |name: &String| target.field_with_name(name).ok();
        let Some(there) = by_name(field.name()).or_else(|| earlier.iter().find_map(by_name)) else {
            // Rows that are there have no value in it, whatever the source says of its own.
            fields.push(Arc::new(as_stored(&field, declared(pipeline, observed, index, &field), observed)?));
            continue;
        };
        let declared = declared(pipeline, observed, index, &field);
        let typed = compared_type(&field, there, declared, observed, policy.mode == EvolutionMode::Strict)?;
        let tightens = policy.target_nullability == TargetNullability::Strict
            && declared != Declared::No
            && !field.is_nullable()
            && there.is_nullable();
        // Whether a column may hold NULL is decided by the rows: a view, or an expression, may hold none though its
        // type allows it, and NOT NULL is a promise of the target to those who read it.
        fields.push(Arc::new(typed.with_nullable(!tightens && there.is_nullable())));
    }
    Ok(Schema::new(fields))
}

/// A column as it would be added: nullable, and with a native type only where that is the sink's own.
fn as_stored(field: &Field, declared: Declared, observed: &Observed<'_>) -> Result<Field> {
    let field = match declared {
        Declared::Alike => field.clone(),
        _ if is_raw(field) => field.clone(),
        _ => portable(&observed.dialect.stored_field(field)?),
    };
    Ok(field.with_nullable(true))
}

fn portable(field: &Field) -> Field {
    let mut metadata = field.metadata().clone();
    metadata.remove(SYSTEM);
    metadata.remove(NATIVE);
    field.clone().with_metadata(metadata)
}

fn compared_type(
    field: &Field,
    there: &Field,
    declared: Declared,
    observed: &Observed<'_>,
    strict: bool,
) -> Result<Field> {
    // Keeps what was declared of the source's column beside its type.
    let equal = || {
        let mut metadata = there.metadata().clone();
        metadata.extend(
            field
                .metadata()
                .iter()
                .filter(|(key, _)| key.starts_with("dpone:aliases"))
                .map(|(k, v)| (k.clone(), v.clone())),
        );
        Field::new(field.name(), there.data_type().clone(), true).with_metadata(metadata)
    };
    if is_raw(field) || there.metadata().contains_key(GENERATED) {
        return Ok(equal());
    }
    let dialect = observed.dialect;
    let staged = dialect.staged_field(field, there)?.is_some();
    match declared {
        Declared::Alike => {
            let rows_decide = staged && fit(&dialect.shape(field), &dialect.shape(there)) == Fit::Incompatible;
            Ok(if rows_decide && !strict { equal() } else { field.clone() })
        }
        _ if staged => Ok(equal()),
        Declared::No if counts(field.data_type(), there.data_type()) => Ok(equal()),
        _ => Ok(portable(&dialect.stored_field(field)?)),
    }
}

/// Gives the strategy a source that fits the target, and the target as it will be.
pub(super) fn evolve(pipeline: &Pipeline, observed: &mut Observed<'_>, assume: Assume) -> Result<Evolved> {
    let plan = match plan_evolution(pipeline, observed)? {
        TargetPlan::Create | TargetPlan::Skip(_) => return Ok(Evolved::default()),
        TargetPlan::Compared(plan) => *plan,
    };
    if assume != Assume::Everything {
        refuse(pipeline, &plan, assume)?;
    }
    let ddl = ddl(&plan, assume);
    let Some(target) = &observed.target else { return Ok(Evolved::default()) };
    let after = after(&target.schema, &ddl);
    let ddl_notes = ddl_notes(observed.source.schema().as_arrow(), &ddl);
    let mut notes = notes(&plan);
    let columns = Conform { pipeline, observed, plan: &plan, after: &after, assume }.columns(&mut notes)?;
    if let Some(columns) = columns {
        observed.source = LogicalPlanBuilder::from(observed.source.clone()).project(columns)?.build()?;
    }
    if !ddl.is_empty()
        && let Some(target) = &mut observed.target
    {
        *target = changed(target, after, &ddl)?;
    }
    Ok(Evolved { schema: Some(plan), ddl, ddl_notes, notes })
}

/// Whether a change is made before the load.
fn applies(action: &Action, assume: Assume) -> bool {
    match action.decision {
        Decision::Apply => true,
        Decision::Ignore | Decision::Quarantine => false,
        Decision::ManualApproval | Decision::Defer => match assume {
            Assume::Decided => false,
            Assume::Approved => action.approval_status == Approval::Pending,
            Assume::Everything => action.change.is_some(),
        },
    }
}

fn ddl(plan: &SchemaPlan, assume: Assume) -> Vec<SchemaChange> {
    let applied = plan.actions.iter().filter(|action| applies(action, assume));
    applied.filter_map(|action| action.change.clone()).collect()
}

/// The target's columns after the changes.
fn after(schema: &Schema, ddl: &[SchemaChange]) -> SchemaRef {
    let mut fields: Vec<FieldRef> = schema.fields().iter().cloned().collect();
    for change in ddl {
        let mut replace = |name: &str, with: &dyn Fn(&Field) -> Field| {
            if let Some(field) = fields.iter_mut().find(|f| f.name() == name) {
                *field = Arc::new(with(field));
            }
        };
        match change {
            SchemaChange::AlterType { from, to } => {
                replace(from.name(), &|there| to.as_ref().clone().with_nullable(there.is_nullable()));
            }
            SchemaChange::DropNotNull { column } => replace(column.name(), &|f| f.clone().with_nullable(true)),
            SchemaChange::SetNotNull { column } => replace(column.name(), &|f| f.clone().with_nullable(false)),
            SchemaChange::RenameColumn { from, to } => replace(from.name(), &|f| f.clone().with_name(to)),
            SchemaChange::AddColumn { column } => fields.push(Arc::clone(column)),
            SchemaChange::DropColumn { column } => fields.retain(|f| f.name() != column.name()),
            SchemaChange::CreateTable { .. }
            | SchemaChange::SetDefault { .. }
            | SchemaChange::DropDefault { .. }
            | SchemaChange::SetComment { .. }
            | SchemaChange::SetCollation { .. } => {}
        }
    }
    Arc::new(Schema::new(fields))
}

/// The target as it will be. A run makes the changes first, and plans with what it then finds; this is for plans that
/// only explain.
fn changed(target: &ObservedTarget, after: SchemaRef, ddl: &[SchemaChange]) -> Result<ObservedTarget> {
    let given = target.provider.schema();
    let earlier: BTreeMap<&str, &str> = ddl
        .iter()
        .filter_map(|change| match change {
            SchemaChange::RenameColumn { from, to } => Some((to.as_str(), from.name().as_str())),
            _ => None,
        })
        .collect();
    let scan = LogicalPlanBuilder::scan("__dpone__before", provider_as_source(Arc::clone(&target.provider)), None)?;
    let before = scan.build()?;
    let mut exprs = Vec::new();
    for field in after.fields() {
        let name = earlier.get(field.name().as_str()).copied().unwrap_or(field.name());
        exprs.push(match given.field_with_name(name) {
            Ok(there) if is_raw(there) => column(&before, name)?.alias(field.name()),
            Ok(there) => match convert(column(&before, name)?, there, field) {
                Ok(expr) => expr.alias(field.name()),
                // Narrowed, or of another kind: what becomes of its values is the server's to say.
                Err(_) => null(field.data_type())?.alias(field.name()),
            },
            Err(_) => null(field.data_type())?.alias(field.name()),
        });
    }
    let view = LogicalPlanBuilder::from(before).project(exprs)?.build()?;
    Ok(ObservedTarget { schema: after, provider: Arc::new(ViewTable::new(view, None)), ..target.clone() })
}

fn null(data_type: &DataType) -> Result<Expr> {
    Ok(lit(ScalarValue::try_new_null(data_type)?))
}

/// What a reader of the plan should know of the changes.
fn ddl_notes(source: &Schema, ddl: &[SchemaChange]) -> Vec<String> {
    let mut notes = Vec::new();
    for change in ddl {
        let SchemaChange::AddColumn { column } = change else { continue };
        if source.field_with_name(column.name()).is_ok_and(|given| !given.is_nullable()) {
            notes.push(format!(
                "column {:?} is added without NOT NULL, which the source has: rows that are there have no value in it",
                column.name()
            ));
        }
    }
    notes
}

/// What is left as it is.
fn notes(plan: &SchemaPlan) -> Vec<String> {
    let mut notes = Vec::new();
    for (change, action) in plan.changes.iter().zip(&plan.actions) {
        let column = &change.column;
        match (action.decision, change.kind) {
            (Decision::Ignore, ChangeKind::AddColumn) => {
                notes.push(format!("column {column:?} of the source is not loaded: columns: ignore"));
            }
            (Decision::Ignore, ChangeKind::DropColumn) => notes.push(format!(
                "the source lacks the target's column {column:?}: new rows have no value in it (on_breaking: ignore)"
            )),
            (Decision::Ignore, _) => {
                notes.push(format!("column {column:?}: {} is left as it is: {}", change.kind.as_str(), change.reason));
            }
            _ => {}
        }
    }
    notes
}

/// Fails where something stops the run.
fn refuse(pipeline: &Pipeline, plan: &SchemaPlan, assume: Assume) -> Result<()> {
    let stopped: Vec<(&Change, &Action)> = plan
        .changes
        .iter()
        .zip(&plan.actions)
        .filter(|(_, action)| action.blocker.is_some() && !applies(action, assume))
        .collect();
    if stopped.is_empty() { Ok(()) } else { Err(blocked(pipeline, plan, &stopped)) }
}

/// The error for a schema plan that stops a run.
pub fn stopped(pipeline: &Pipeline, plan: &SchemaPlan) -> Option<Error> {
    refuse(pipeline, plan, Assume::Decided).err()
}

fn blocked(pipeline: &Pipeline, plan: &SchemaPlan, stopped: &[(&Change, &Action)]) -> Error {
    let list: Vec<String> = stopped
        .iter()
        .map(|(change, action)| {
            let code = action.blocker().unwrap_or_default();
            format!("{}: {} ({code})", change.column, plan.described(change))
        })
        .collect();
    let first = stopped.iter().find_map(|(_, action)| action.blocker);
    Error::new(
        ErrorKind::DataQuality,
        format!("the source no longer fits the target {} ({}): {}", plan.table, plan.dialect, list.join("; ")),
    )
    .with("table", plan.table.to_string())
    .with_hint(hint(pipeline, first.unwrap_or_default(), stopped))
}

fn hint(pipeline: &Pipeline, blocker: &str, stopped: &[(&Change, &Action)]) -> String {
    let way = stopped.iter().find_map(|(_, action)| action.online_path.first());
    match blocker {
        "blocking" => format!(
            "{}apply it in a quiet hour (ddl_mode: safe_window), or accept that others wait: allow_blocking_online: true",
            way.map(|way| format!("{way}; or ")).unwrap_or_default()
        ),
        "table_too_large" | "table_size_unknown" => {
            "raise max_table_size_for_inline_ddl, or make the change beside the loads: dpone schema expand-contract"
                .into()
        }
        "plan_only" => "ddl_mode: plan_only applies nothing: `dpone plan` shows the statements to run".into(),
        "fail" => match pipeline.evolution.enabled {
            true => "on_schema_change: fail refuses every change: change the target, or the definition".into(),
            false => "schema_evolution.enabled is false: change the target, or the definition".into(),
        },
        "disable_pipeline" => "look at `dpone plan`; approve the change with `dpone schema approve`".into(),
        "frozen" => {
            "the contract freezes this: change the target, choose and convert the columns in the definition, or \
                     set columns or data_type to evolve, widen, ignore or quarantine"
                .into()
        }
        "manual_approval" | "safe_window" => {
            "the change waits for an approval: `dpone schema approve --ledger FILE --approver NAME`".into()
        }
        _ => {
            let kinds: Vec<ChangeKind> = stopped.iter().map(|(change, _)| change.kind).collect();
            if kinds.contains(&ChangeKind::TypeChange) {
                "change the target, convert the column in the definition (SELECT CAST(… AS …)), or give such values a \
                 column of their own: on_type_change: new_column"
                    .into()
            } else if kinds.contains(&ChangeKind::DropColumn) {
                "bring the column back, choose the columns in the definition, drop it in the target, or keep it without \
                 values: on_breaking: ignore"
                    .into()
            } else {
                "change the target, or choose and convert the columns in the definition (columns, or SELECT … AS …)"
                    .into()
            }
        }
    }
}

/// Makes the source's columns what the target takes.
struct Conform<'a, 'b> {
    pipeline: &'a Pipeline,
    observed: &'a Observed<'b>,
    plan: &'a SchemaPlan,
    /// The target's columns after the changes.
    after: &'a Schema,
    assume: Assume,
}

impl Conform<'_, '_> {
    /// The columns of the projection; `None` where the source is right as it is.
    fn columns(&self, notes: &mut Vec<String>) -> Result<Option<Vec<Expr>>> {
        let source = &self.observed.source;
        let mut exprs = Vec::new();
        let mut changed = false;
        for field in source.schema().fields() {
            let before = exprs.len();
            self.column(field, &mut exprs, notes)?;
            changed |= exprs.len() != before + 1 || exprs.last() != Some(&column(source, field.name())?);
        }
        Ok(changed.then_some(exprs))
    }

    fn column(&self, field: &Field, exprs: &mut Vec<Expr>, notes: &mut Vec<String>) -> Result<()> {
        let name = field.name();
        let bare = column(&self.observed.source, name)?;
        let change = |test: &dyn Fn(&Change, &Action) -> bool| {
            let all = self.plan.changes.iter().zip(&self.plan.actions);
            all.into_iter().find(|(c, a)| c.column == *name && test(c, a))
        };
        if change(&|c, a| c.kind == ChangeKind::AddColumn && !applies(a, self.assume)).is_some() {
            // Rows with a value in it are put aside before this, where the contract says so.
            return self.unless_needed(name, "is not loaded");
        }
        let to = self.plan.mapping.get(name);
        let variants = variants_of(name, self.after, self.observed.dialect, &self.pipeline.evolution);
        let routed = to.filter(|to| variants.iter().any(|variant| variant.name() == *to));
        let renamed_there = change(&|c, a| c.kind == ChangeKind::RenameColumn && applies(a, self.assume)).is_some();
        let at = match to {
            Some(to) if routed.is_none() && !renamed_there => to,
            _ => name,
        };
        if at != name {
            self.unless_needed(name, &format!("goes to {at:?}"))?;
        }
        let there = self.after.field_with_name(at).ok();
        for variant in &variants {
            exprs.push(match routed == Some(variant.name()) {
                true => bare.clone().alias(variant.name()),
                // A row whose value fits again has none there any more.
                false => null(variant.data_type())?.alias(variant.name()),
            });
        }
        if let (Some(to), Some(there)) = (routed, there) {
            self.unless_needed(name, &format!("goes to {to:?}"))?;
            if !there.is_nullable() {
                return Err(Error::configuration(format!(
                    "values of {name:?} go to {to:?}, and {name:?} takes no NULL in the target {}",
                    self.plan.table
                ))
                .with("column", name)
                .with_hint("let the column take NULL (ALTER COLUMN … DROP NOT NULL), or convert it in a query"));
            }
            notes.push(format!("values of {name:?} do not fit the target's type: they go to {to:?}"));
            exprs.push(null(there.data_type())?.alias(at));
            return Ok(());
        }
        let Some(there) = there else {
            exprs.push(bare);
            return Ok(());
        };
        let ignored = change(&|c, a| c.kind.is_of_type() && a.decision == Decision::Ignore).is_some();
        let stageable = is_raw(field)
            || there.metadata().contains_key(GENERATED)
            || self.observed.dialect.staged_field(field, there)?.is_some();
        if stageable {
            exprs.push(if at == name { bare } else { bare.alias(at) });
        } else if ignored {
            self.unless_needed(name, "is not loaded")?;
            notes.push(format!("column {name:?} of the source is not loaded: its type does not fit the target's"));
        } else if counts(field.data_type(), there.data_type()) {
            exprs.push(convert_checked(bare, field, there)?.alias(at));
        } else {
            return Err(Error::data_quality(format!(
                "the source no longer fits the target {}: column {name:?} cannot be stored exactly",
                self.plan.table
            ))
            .with("column", name)
            .with_hint("convert it in a query: SELECT CAST(… AS …)"));
        }
        Ok(())
    }

    /// Keys, cursors and the like are read under their own name, and in every row.
    fn unless_needed(&self, name: &str, what: &str) -> Result<()> {
        let strategy = &self.pipeline.strategy;
        let needed = strategy.key().iter().any(|key| key == name)
            || strategy.cursor().is_some_and(|cursor| cursor.column == name);
        match needed {
            false => Ok(()),
            true => Err(Error::data_quality(format!(
                "column {name:?} {what}, and the strategy {} needs it",
                strategy.name()
            ))
            .with("column", name)
            .with_hint("change the target so that it takes the column, or convert it in a query: SELECT … AS …")),
        }
    }
}
