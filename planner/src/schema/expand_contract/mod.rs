//! The way around a change that cannot be made while the table is in use: expand, backfill, validate, contract.
//!
//! A new column stands beside the old one and is kept in step by the target; rows of before are copied in batches; both
//! are compared; then the names are swapped in one short step, and the old column is kept in step until somebody drops
//! it. A dialect says the statements; what it cannot say is marked manual.

mod generic;

use arrow::datatypes::{FieldRef, Schema};
use serde::{Deserialize, Serialize};

use super::compare::{Change, ChangeKind};
use super::decide::{Action, Decision};
use super::lattice::{Fit, fit};
use super::plan::SchemaPlan;
use super::{SchemaChange, variant};
use crate::dialect::Dialect;
use crate::error::{Error, Result};
use crate::plan::RESERVED_PREFIX;
use crate::relation::Relation;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Expand,
    Backfill,
    Validate,
    Contract,
    /// The way back, of whatever was done.
    Rollback,
}

impl Phase {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expand => "expand",
            Self::Backfill => "backfill",
            Self::Validate => "validate",
            Self::Contract => "contract",
            Self::Rollback => "rollback",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MigrationKind {
    /// Another type: a column of that type takes the old one's place.
    Retype,
    /// Another name: both names are there, and are kept in step, until the old one is dropped.
    Rename,
    /// NULL is forbidden once no row has one.
    NotNull,
    /// The column is renamed away first, and dropped later.
    Drop,
}

/// Who does a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepDecision {
    /// `dpone schema expand-contract --apply` does it.
    Apply,
    /// Somebody does it, or asks for it: it is not done by the phase alone.
    Manual,
}

/// One change, as whoever executes it needs it. The names are plain; they are quoted where they stand in a statement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Migration {
    pub schema_change_id: String,
    pub kind: MigrationKind,
    pub change_type: String,
    /// The column's name before the migration.
    pub column: String,
    /// The column that stands beside it until the cut-over: for a rename the new name. Empty where there is none.
    pub shadow: String,
    /// The old column's name after the cut-over. Empty where it keeps its name.
    pub retired: String,
    /// The type of before, as the system writes it.
    pub from_type: String,
    pub to_type: String,
    /// Whether the new type holds every value of the old one as what it is.
    pub exact: bool,
    /// What rows without a value get before NULL is forbidden, in standard SQL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// The column as it shall be, for dialects that render it.
    #[serde(skip)]
    pub target: Option<FieldRef>,
}

/// What is done in one phase of one migration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MigrationStep {
    pub phase: Phase,
    pub decision: StepDecision,
    pub ddl: Vec<String>,
    pub guidance: String,
}

impl MigrationStep {
    pub fn new(phase: Phase, decision: StepDecision, ddl: Vec<String>, guidance: impl Into<String>) -> Self {
        Self { phase, decision, ddl, guidance: guidance.into() }
    }
}

/// A step in the document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExpandContractAction {
    pub phase: Phase,
    pub schema_change_id: String,
    pub column: String,
    pub change_type: String,
    pub decision: StepDecision,
    pub ddl: Vec<String>,
    pub guidance: String,
}

/// The document: what people read, and what `--apply` executes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExpandContract {
    pub table: String,
    pub dialect: String,
    pub phases: Vec<Phase>,
    pub actions: Vec<ExpandContractAction>,
    /// What is executed: the statements are made from these again, never read back from `actions`.
    pub migrations: Vec<Migration>,
    pub relation: Relation,
    pub plan_hash: String,
    pub catalog_fingerprint: String,
    /// Whether the fingerprint is of a catalog, or of a file alone.
    pub catalog_observed: bool,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub artifact_path: String,
}

/// The migration of every change of the plan that a run does not make by itself.
pub fn expand_contract(
    plan: &SchemaPlan,
    target: &Schema,
    observed: bool,
    dialect: &dyn Dialect,
) -> Result<ExpandContract> {
    let mut document = ExpandContract {
        table: plan.table.to_string(),
        dialect: plan.dialect.to_owned(),
        phases: vec![Phase::Expand, Phase::Backfill, Phase::Validate, Phase::Contract],
        actions: Vec::new(),
        migrations: Vec::new(),
        relation: plan.table.clone(),
        plan_hash: plan.plan_hash.clone(),
        catalog_fingerprint: plan.catalog_fingerprint.clone(),
        catalog_observed: observed,
        artifact_path: String::new(),
    };
    let mut taken: Vec<String> = target.fields().iter().map(|field| field.name().clone()).collect();
    for (change, action) in plan.changes.iter().zip(&plan.actions) {
        if !matches!(action.decision, Decision::Defer | Decision::ManualApproval) {
            continue;
        }
        let steps = match migration(plan, change, action, target, &mut taken, dialect)? {
            Some(migration) => {
                let steps = steps(&plan.table, &migration, dialect)?;
                document.migrations.push(migration);
                steps
            }
            None => by_hand(change, action, &plan.table, dialect),
        };
        document.actions.extend(steps.into_iter().map(|step| ExpandContractAction {
            phase: step.phase,
            schema_change_id: action.schema_change_id.clone(),
            column: action.column.clone(),
            change_type: action.change_type.as_str().to_owned(),
            decision: step.decision,
            ddl: step.ddl,
            guidance: step.guidance,
        }));
    }
    document.actions.sort_by_key(|action| action.phase);
    Ok(document)
}

/// The steps of a migration as the dialect says them.
pub fn steps(table: &Relation, migration: &Migration, dialect: &dyn Dialect) -> Result<Vec<MigrationStep>> {
    match dialect.migration(table, migration)? {
        Some(steps) => Ok(steps),
        None => generic::steps(table, migration, dialect),
    }
}

impl ExpandContract {
    /// Fails where the statements are not those that its migrations give: the document was changed by hand, or comes
    /// from another version of dpone.
    pub fn check(&self, dialect: &dyn Dialect) -> Result<()> {
        if self.dialect != dialect.system() || self.table != self.relation.to_string() {
            return Err(Error::configuration(format!(
                "the plan is of {} on {}, and it is applied on {}",
                self.relation,
                self.dialect,
                dialect.system()
            )));
        }
        for migration in &self.migrations {
            let expected = steps(&self.relation, migration, dialect)?;
            let found = self.actions.iter().filter(|a| a.schema_change_id == migration.schema_change_id);
            let found: Vec<(Phase, StepDecision, &[String])> =
                found.map(|a| (a.phase, a.decision, a.ddl.as_slice())).collect();
            let mut expected: Vec<(Phase, StepDecision, &[String])> =
                expected.iter().map(|step| (step.phase, step.decision, step.ddl.as_slice())).collect();
            expected.sort_by_key(|(phase, ..)| *phase);
            if found != expected {
                return Err(Error::conflict(format!(
                    "the statements of {} {:?} are not those that its migration gives: the plan was changed, or another \
                     version of dpone wrote it",
                    migration.change_type, migration.column
                ))
                .with_hint("write the plan again, and look at it again")
                .with("column", &migration.column));
            }
        }
        Ok(())
    }
}

fn migration(
    plan: &SchemaPlan,
    change: &Change,
    action: &Action,
    target: &Schema,
    taken: &mut Vec<String>,
    dialect: &dyn Dialect,
) -> Result<Option<Migration>> {
    // What differs beside a rename is judged under the new name, which the target does not have yet.
    let there = |field: &FieldRef| target.field_with_name(field.name()).is_ok();
    let mut found = Migration {
        schema_change_id: action.schema_change_id.clone(),
        kind: MigrationKind::Drop,
        change_type: action.change_type.as_str().to_owned(),
        column: String::new(),
        shadow: String::new(),
        retired: String::new(),
        from_type: String::new(),
        to_type: String::new(),
        exact: true,
        default: None,
        target: None,
    };
    let mut free = |column: &str, prefix: &str| {
        let name = variant::free_name(prefix, column, dialect.longest_name(), taken);
        taken.push(name.clone());
        name
    };
    let old_prefix = format!("{RESERVED_PREFIX}old__");
    // A narrower type of the source is a difference for `strict` alone, and no DDL follows from it.
    let narrower = match (change.kind, &change.source, &change.target) {
        (ChangeKind::TypeNarrow, Some(source), Some(target)) => Some(SchemaChange::AlterType {
            from: target.clone(),
            to: std::sync::Arc::new(source.as_ref().clone().with_name(target.name())),
        }),
        _ => None,
    };
    match (narrower.as_ref().or(change.ddl.as_ref()), change.kind, &change.target) {
        (Some(SchemaChange::AlterType { from, to }), _, _) if there(from) => {
            found.kind = MigrationKind::Retype;
            found.column.clone_from(from.name());
            found.shadow = free(from.name(), &plan.policy.new_column_prefix);
            found.retired = free(from.name(), &old_prefix);
            (found.from_type, found.to_type) = (native(from, dialect)?, native(to, dialect)?);
            found.exact = matches!(fit(&dialect.shape(from), &dialect.shape(to)), Fit::Same | Fit::Narrower);
            found.target = Some(to.clone());
        }
        (Some(SchemaChange::RenameColumn { from, to }), _, _) => {
            found.kind = MigrationKind::Rename;
            (found.column, found.shadow) = (from.name().clone(), to.clone());
            found.retired = free(from.name(), &old_prefix);
            (found.from_type, found.to_type) = (native(from, dialect)?, native(from, dialect)?);
            found.target = Some(from.clone());
        }
        (Some(SchemaChange::SetNotNull { column }), _, _) if there(column) => {
            found.kind = MigrationKind::NotNull;
            found.column.clone_from(column.name());
            (found.from_type, found.to_type) = (native(column, dialect)?, native(column, dialect)?);
            let declared = change.source.as_ref().and_then(|field| field.metadata().get(super::DEFAULT));
            found.default = declared.filter(|text| !text.is_empty()).cloned();
            found.target = Some(column.clone());
        }
        (_, ChangeKind::DropColumn, Some(column)) => {
            found.column.clone_from(column.name());
            found.retired = free(column.name(), &old_prefix);
            (found.from_type, found.to_type) = (native(column, dialect)?, native(column, dialect)?);
            found.target = Some(column.clone());
        }
        _ => return Ok(None),
    }
    Ok(Some(found))
}

fn native(field: &FieldRef, dialect: &dyn Dialect) -> Result<String> {
    dialect.native_type(field)
}

/// A change that no migration makes: what is known about its way, for people.
fn by_hand(change: &Change, action: &Action, table: &Relation, dialect: &dyn Dialect) -> Vec<MigrationStep> {
    let path = if action.online_path.is_empty() { action.reason.clone() } else { action.online_path.join("; then ") };
    // A column that takes no NULL is added as one that does.
    if let Some(SchemaChange::AddColumn { column }) = &change.ddl {
        let column = std::sync::Arc::new(column.as_ref().clone().with_nullable(true));
        let metadata = column.metadata().iter().filter(|(key, _)| *key != super::DEFAULT);
        let metadata = metadata.map(|(key, value)| (key.clone(), value.clone())).collect();
        let plain = std::sync::Arc::new(column.as_ref().clone().with_metadata(metadata));
        if let Ok(ddl) = dialect.render(table, &SchemaChange::AddColumn { column: plain }) {
            let add = "add the column without NOT NULL and without a default that is worked out for every row";
            return vec![
                MigrationStep::new(Phase::Expand, StepDecision::Manual, ddl, add),
                MigrationStep::new(Phase::Backfill, StepDecision::Manual, Vec::new(), path),
                MigrationStep::new(
                    Phase::Contract,
                    StepDecision::Manual,
                    Vec::new(),
                    "plan again: NOT NULL then is a change of its own",
                ),
            ];
        }
    }
    vec![MigrationStep::new(Phase::Expand, StepDecision::Manual, Vec::new(), path)]
}
