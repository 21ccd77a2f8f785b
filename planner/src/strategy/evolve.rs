//! What a load does about a source that does not fit its target: the schema plan under the definition's policy, and the
//! source as the strategy then sees it, with columns left out, renamed, converted or routed to columns of their own.
//!
//! A strategy never knows: it works on a source that fits, and on a target as it is after the changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::datasource::{ViewTable, provider_as_source};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, lit};

use super::{Observed, ObservedTarget, column, lineage};
use crate::definition::{History, Pipeline, Strategy};
use crate::error::{Error, ErrorKind, Result};
use crate::exact_cast::{convert, convert_checked, counts};
use crate::expr::is_table_column;
use crate::schema::{
    Action, Approval, COLLATION, COMMENT, Change, ChangeKind, DEFAULT, Decision, EvolutionMode, Fit, SchemaChange,
    SchemaPlan, TablesMode, TargetNullability, TypeShape, check_names, fit, plan_schema, variants_of, with_aliases,
};
use crate::sift::{MARK, Reason, Sift, SiftSpec};
use crate::try_cast::{Constraint, TryCast};
use crate::types::{NATIVE, OWN, SYSTEM, is_filled_by_table, is_raw, native_of};

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
    /// Columns whose values go to others.
    pub(super) routed: Vec<String>,
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
    let own = own_columns(pipeline);
    let there: Vec<FieldRef> =
        target.schema.fields().iter().filter(|field| !own.contains(field.name())).cloned().collect();
    let there = Schema::new(there);
    let source = with_lineage(comparable(pipeline, observed, &there)?, pipeline, target, observed)?;
    let plan = plan_schema(relation, &source, &there, &target.facts, observed.dialect, policy)?;
    Ok(TargetPlan::Compared(Box::new(plan)))
}

/// Columns of the target that no source has: those that the strategy keeps under names of the definition, and lineage.
pub fn own_columns(pipeline: &Pipeline) -> Vec<String> {
    let mut own: Vec<String> = lineage::fields(pipeline).iter().map(|field| field.name().clone()).collect();
    if let Strategy::Scd2 { history, .. } = &pipeline.strategy {
        let History { row_hash, valid_from, valid_to, is_current, .. } = history;
        own.extend([row_hash, valid_from, valid_to, is_current].map(Clone::clone));
    }
    own
}

/// A target that was made without lineage gets its columns as it gets any new column.
fn with_lineage(
    source: Schema,
    pipeline: &Pipeline,
    target: &ObservedTarget,
    observed: &Observed<'_>,
) -> Result<Schema> {
    let mut fields: Vec<FieldRef> = source.fields().iter().cloned().collect();
    for field in lineage::fields(pipeline) {
        if target.schema.field_with_name(field.name()).is_err() {
            let mut metadata = field.metadata().clone();
            metadata.insert(OWN.to_owned(), "lineage".to_owned());
            fields.push(Arc::new(as_stored(&field.with_metadata(metadata), Declared::No, observed)?));
        }
    }
    Ok(Schema::new(fields))
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
        let field = &values_alone(field);
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

/// The column without what a table says beside its values: a load brings values, and a default or a collation of the
/// source's database may not even exist in the target's.
fn values_alone(field: &FieldRef) -> FieldRef {
    let beside = [COLLATION, COMMENT, DEFAULT];
    if !beside.iter().any(|key| field.metadata().contains_key(*key)) {
        return Arc::clone(field);
    }
    let mut metadata = field.metadata().clone();
    metadata.retain(|key, _| !beside.contains(&key.as_str()));
    Arc::new(field.as_ref().clone().with_metadata(metadata))
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
    if is_raw(field) || is_filled_by_table(there) {
        return Ok(equal());
    }
    let dialect = observed.dialect;
    let staged = dialect.staged_field(field, there)?.is_some();
    match declared {
        Declared::Alike => {
            let (given, held) = (dialect.shape(field), dialect.shape(there));
            let rows_decide = staged
                && match fit(&given, &held) {
                    Fit::Incompatible => true,
                    Fit::Wider(_) => !outgrows(&given, &held),
                    Fit::Same | Fit::Narrower => false,
                };
            Ok(if rows_decide && !strict { equal() } else { field.clone() })
        }
        _ if staged => Ok(equal()),
        Declared::No if counts(field.data_type(), there.data_type()) => Ok(equal()),
        _ => Ok(portable(&dialect.stored_field(field)?)),
    }
}

/// Whether values may be larger than the column takes. Where they are only kept in another form (`json` as `jsonb`,
/// `varchar(5)` as `char(9)`), the form is the target's choice.
fn outgrows(given: &TypeShape, held: &TypeShape) -> bool {
    use TypeShape::{Bits, Bytes, Json, Text};
    let longer = |a: &Option<u32>, b: &Option<u32>| match (a, b) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(a), Some(b)) => a > b,
    };
    match (given, held) {
        (Json { .. }, Json { .. }) => false,
        (Text { length: a, .. }, Text { length: b, .. })
        | (Bytes { length: a, .. }, Bytes { length: b, .. })
        | (Bits { length: a, .. }, Bits { length: b, .. }) => longer(a, b),
        _ => true,
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
        check_left_out(&plan)?;
    }
    let ddl = ddl(&plan, assume);
    let Some(target) = &observed.target else { return Ok(Evolved::default()) };
    let after = after(&target.schema, &ddl);
    let ddl_notes = ddl_notes(observed.source.schema().as_arrow(), &ddl);
    let mut notes = notes(&plan);
    let mut conform = Conform {
        pipeline,
        observed,
        plan: &plan,
        after: &after,
        assume,
        exprs: Vec::new(),
        reasons: Vec::new(),
        notes: &mut notes,
    };
    let changed = conform.columns()?;
    let (exprs, reasons) = (conform.exprs, conform.reasons);
    if changed {
        let source = LogicalPlanBuilder::from(observed.source.clone()).project(exprs)?.build()?;
        sift(pipeline, observed, source, reasons)?;
    }
    if !ddl.is_empty()
        && let Some(target) = &mut observed.target
    {
        *target = will_be(target, after, &ddl)?;
    }
    let routed = plan.mapping.keys().cloned().collect();
    Ok(Evolved { schema: Some(plan), ddl, ddl_notes, notes, routed })
}

/// Puts the marked rows aside. Where rows that the source lacks are deleted, those of theirs in the target are left alone.
fn sift(pipeline: &Pipeline, observed: &mut Observed<'_>, source: LogicalPlan, reasons: Vec<Reason>) -> Result<()> {
    if reasons.is_empty() {
        observed.source = source;
        return Ok(());
    }
    let key = pipeline.strategy.key().to_vec();
    let marks = reasons.iter().map(|reason| column(&source, &reason.mark)).collect::<Result<Vec<_>>>()?;
    let any = marks.into_iter().map(Expr::is_true).reduce(Expr::or);
    let named = key.iter().all(|name| source.schema().has_column_with_unqualified_name(name));
    if let (Some(any), true, true) = (any, pipeline.strategy.compares(), named) {
        let aside = LogicalPlanBuilder::from(source.clone()).filter(any)?.build()?;
        let keys = key.iter().map(|name| column(&aside, name)).collect::<Result<Vec<_>>>()?;
        observed.aside = Some(LogicalPlanBuilder::from(aside).project(keys)?.build()?);
    }
    observed.source = Sift::plan(source, SiftSpec { reasons, key })?;
    Ok(())
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
fn will_be(target: &ObservedTarget, after: SchemaRef, ddl: &[SchemaChange]) -> Result<ObservedTarget> {
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

/// A column that the target keeps without values takes NULL, or has a default.
fn check_left_out(plan: &SchemaPlan) -> Result<()> {
    for (change, action) in plan.changes.iter().zip(&plan.actions) {
        let Some(there) = change.target.as_ref().filter(|_| change.kind == ChangeKind::DropColumn) else { continue };
        let has_default = there.metadata().get(DEFAULT).is_some_and(|default| !default.is_empty());
        if action.decision == Decision::Ignore && !there.is_nullable() && !has_default {
            return Err(Error::data_quality(format!(
                "the source lacks the column {:?}, and the target {} takes no NULL in it and has no default for it",
                there.name(),
                plan.table
            ))
            .with("column", there.name())
            .with_hint(
                "let the column take NULL, give it a default, or give it a value in a query: SELECT …, 0 AS …",
            ));
        }
    }
    Ok(())
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
            // What the server never does is no matter of policy: it says why.
            let why = match action.blocker {
                Some("unsupported") if !action.reason.is_empty() => format!("; {}", action.reason),
                _ => String::new(),
            };
            format!("{}: {}{why} ({code})", change.column, plan.described(change))
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
    match blocker {
        "blocking" => "make it in steps beside the loads (`dpone schema expand-contract`), apply it in a quiet hour \
                       (ddl_mode: safe_window), or accept that others wait: allow_blocking_online: true"
            .into(),
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
        "unsupported" if stopped.iter().any(|(_, action)| !action.online_path.is_empty()) => {
            let steps: Vec<_> =
                stopped.iter().flat_map(|(_, action)| &action.online_path).map(String::as_str).collect();
            format!("choose and convert the columns in the definition, or: {}", steps.join("; "))
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
    /// The columns of the projection.
    exprs: Vec<Expr>,
    /// Why rows are put aside: each has a mark among the columns.
    reasons: Vec<Reason>,
    notes: &'a mut Vec<String>,
}

impl Conform<'_, '_> {
    /// Whether the source has to be projected: it is right as it is where all of its columns are.
    fn columns(&mut self) -> Result<bool> {
        let source = &self.observed.source;
        let mut changed = false;
        for field in source.schema().fields() {
            let before = self.exprs.len();
            self.column(field)?;
            changed |= self.exprs.len() != before + 1 || self.exprs.last() != Some(&column(source, field.name())?);
        }
        Ok(changed)
    }

    /// The change of a column for which this holds.
    fn change(&self, name: &str, test: impl Fn(&Change, &Action) -> bool) -> Option<&Action> {
        let mut all = self.plan.changes.iter().zip(&self.plan.actions);
        all.find(|(change, action)| change.column == name && test(change, action)).map(|(_, action)| action)
    }

    fn column(&mut self, field: &Field) -> Result<()> {
        let name = field.name();
        let bare = column(&self.observed.source, name)?;
        let assume = self.assume;
        if let Some(left) = self.change(name, |c, a| c.kind == ChangeKind::AddColumn && !applies(a, assume)) {
            if left.decision == Decision::Quarantine {
                self.put_aside(name, "new_column", bare.is_not_null());
            }
            return self.unless_needed(name, "is not loaded");
        }
        let to = self.plan.mapping.get(name).cloned();
        let variants = variants_of(name, self.after, self.observed.dialect, &self.pipeline.evolution);
        let routed = to.clone().filter(|to| variants.iter().any(|variant| variant.name() == to));
        let renamed = self.change(name, |c, a| c.kind == ChangeKind::RenameColumn && applies(a, assume)).is_some();
        let at = match &to {
            Some(to) if routed.is_none() && !renamed => to.clone(),
            _ => name.clone(),
        };
        if at != *name {
            self.unless_needed(name, &format!("goes to {at:?}"))?;
        }
        let there = self.after.field_with_name(&at).ok().cloned();
        for variant in &variants {
            self.exprs.push(match routed.as_ref() == Some(variant.name()) {
                true => bare.clone().alias(variant.name()),
                // A row whose value fits again has none there any more.
                false => null(variant.data_type())?.alias(variant.name()),
            });
        }
        match (routed, there) {
            (Some(to), Some(there)) => self.routed(name, &to, &there),
            (_, None) => {
                self.exprs.push(bare);
                Ok(())
            }
            (None, Some(there)) => {
                let bare = self.fitting(field, &there, bare)?;
                self.exprs.extend(bare.map(|expr| match matches!(&expr, Expr::Column(_)) && at == *name {
                    true => expr,
                    false => expr.alias(&at),
                }));
                Ok(())
            }
        }
    }

    /// The column's values go to another one, and the column itself has none.
    fn routed(&mut self, name: &str, to: &str, there: &Field) -> Result<()> {
        self.unless_needed(name, &format!("goes to {to:?}"))?;
        if !there.is_nullable() {
            return Err(Error::data_quality(format!(
                "values of {name:?} go to {to:?}, and {name:?} takes no NULL in the target {}",
                self.plan.table
            ))
            .with("column", name)
            .with_hint("let the column take NULL (ALTER COLUMN … DROP NOT NULL), or convert it in a query"));
        }
        self.notes.push(format!("values of {name:?} do not fit the target's type: they go to {to:?}"));
        self.exprs.push(null(there.data_type())?.alias(there.name()));
        Ok(())
    }

    /// The column's values in a type that the target's column takes; `None` where it is left out.
    fn fitting(&mut self, field: &Field, there: &Field, bare: Expr) -> Result<Option<Expr>> {
        let name = field.name();
        let assume = self.assume;
        let of_type = |decision: Decision| {
            move |change: &Change, action: &Action| {
                change.kind.is_of_type() && action.decision == decision && !applies(action, assume)
            }
        };
        if is_raw(field) || is_filled_by_table(there) {
            return Ok(Some(bare));
        }
        if self.change(name, of_type(Decision::Quarantine)).is_some() {
            let constraint = Constraint::of(&self.observed.dialect.shape(there), there.data_type());
            let cast = TryCast::call(bare.clone(), field, there, constraint);
            self.put_aside(name, "type_mismatch", bare.is_not_null().and(cast.clone().is_null()));
            return Ok(Some(cast));
        }
        if self.observed.dialect.staged_field(field, there)?.is_some() {
            return Ok(Some(bare));
        }
        if self.change(name, of_type(Decision::Ignore)).is_some() {
            self.unless_needed(name, "is not loaded")?;
            self.notes.push(format!("column {name:?} of the source is not loaded: its type does not fit the target's"));
            return Ok(None);
        }
        if counts(field.data_type(), there.data_type()) {
            return convert_checked(bare, field, there).map(Some);
        }
        Err(Error::data_quality(format!(
            "the source no longer fits the target {}: column {name:?} cannot be stored exactly",
            self.plan.table
        ))
        .with("column", name)
        .with_hint("convert it in a query: SELECT CAST(… AS …)"))
    }

    fn put_aside(&mut self, name: &str, code: &str, marks: Expr) {
        let mark = format!("{MARK}{}", self.reasons.len());
        self.exprs.push(marks.alias(&mark));
        self.reasons.push(Reason { mark, column: name.to_owned(), code: code.to_owned() });
        self.notes.push(format!(
            "rows with {} {name:?} are put aside and counted",
            if code == "new_column" { "a value in the new column" } else { "a value that does not fit the target's" }
        ));
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
