//! The schema plan: every difference, its cost, the decision, and the document that says it. The same input gives the
//! same bytes.

use std::collections::BTreeMap;

use arrow::datatypes::Schema;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::compare::{Change, ChangeKind, ColumnShape, as_variant, compare_columns};
use super::decide::{Action, Decision, decide};
use super::facts::TableFacts;
use super::policy::EvolutionPolicy;
use super::sequence::Sequence;
use crate::dialect::Dialect;
use crate::error::Result;
use crate::relation::Relation;

/// The whole plan of one table.
#[derive(Debug, Clone)]
pub struct SchemaPlan {
    pub table: Relation,
    pub dialect: &'static str,
    pub policy: EvolutionPolicy,
    pub changes: Vec<Change>,
    /// One for each change, in the same order.
    pub actions: Vec<Action>,
    /// The target's column for each column of the source that goes to one of another name.
    pub mapping: BTreeMap<String, String>,
    /// Of what the plan was made from: the target's columns, the version, the settings and the dependents.
    pub catalog_fingerprint: String,
    /// Of what the plan would do. An approval names both.
    pub plan_hash: String,
    shapes: Vec<(Option<ColumnShape>, Option<ColumnShape>)>,
}

/// The part of the document that governs the DDL.
#[derive(Debug, Clone, Serialize)]
pub struct OnlinePlan<'a> {
    pub dialect: &'a str,
    pub table: String,
    pub policy: PolicyDocument<'a>,
    /// Whether a run may go on: nothing is in its way.
    pub passed: bool,
    /// Whether all DDL of the plan leaves readers and writers going.
    pub online_eligible: bool,
    pub blockers: Vec<String>,
    pub actions: &'a [Action],
    pub expand_contract_plan: Vec<Guidance<'a>>,
    pub catalog_fingerprint: &'a str,
    pub plan_hash: &'a str,
}

#[derive(Debug, Clone, Serialize)]
pub struct PolicyDocument<'a> {
    tables: super::TablesMode,
    columns: super::ColumnsMode,
    data_type: super::DataTypeMode,
    ddl_mode: super::DdlMode,
    lock_timeout_seconds: Option<u64>,
    statement_timeout_seconds: Option<u64>,
    max_table_size_for_inline_ddl: Option<u64>,
    on_schema_change: super::OnSchemaChange,
    ledger_path: Option<&'a str>,
    allow_blocking_online: bool,
}

/// One step of the way around a change that is not made.
#[derive(Debug, Clone, Serialize)]
pub struct Guidance<'a> {
    pub schema_change_id: &'a str,
    pub column: &'a str,
    pub change_type: ChangeKind,
    pub step: usize,
    pub guidance: &'a str,
}

/// Works out what would make `target` agree with `source`, what it costs, and what is done about it.
pub fn plan_schema(
    table: &Relation,
    source: &Schema,
    target: &Schema,
    facts: &TableFacts,
    dialect: &dyn Dialect,
    policy: &EvolutionPolicy,
) -> Result<SchemaPlan> {
    let comparison = compare_columns(source, target, dialect, policy)?;
    let mut mapping = comparison.mapping;
    let (mut changes, mut actions) = (Vec::new(), Vec::new());
    let mut sequence = Sequence::default();
    for change in comparison.changes {
        let change = sequence.next(change);
        let action = decide(&change, table, facts, dialect, policy)?;
        // A widening that is not made would stop the run: its values can have a column of their own instead.
        if change.kind == ChangeKind::TypeWiden && policy.routes_variants() && action.decision == Decision::Defer {
            if let Some(change) = as_variant(&change, target, dialect, policy, &mut mapping)? {
                actions.push(decide(&change, table, facts, dialect, policy)?);
                changes.push(change);
            }
            continue;
        }
        sequence.made(&change, &action);
        actions.push(action);
        changes.push(change);
    }
    let shape = |field: &Option<arrow::datatypes::FieldRef>| field.as_ref().map(|f| ColumnShape::of(f, dialect));
    Ok(SchemaPlan {
        table: table.clone(),
        dialect: dialect.system(),
        policy: policy.clone(),
        shapes: changes.iter().map(|change| (shape(&change.source), shape(&change.target))).collect(),
        catalog_fingerprint: fingerprint(target, facts, dialect),
        plan_hash: plan_hash(table, dialect, &actions),
        changes,
        actions,
        mapping,
    })
}

impl SchemaPlan {
    /// Source and target of each change, as documents show them.
    pub fn shapes(&self) -> impl Iterator<Item = (Option<&ColumnShape>, Option<&ColumnShape>)> {
        self.shapes.iter().map(|(source, target)| (source.as_ref(), target.as_ref()))
    }

    pub fn has_breaking_changes(&self) -> bool {
        self.changes.iter().any(|change| change.breaking)
    }

    pub fn blockers(&self) -> Vec<String> {
        self.actions.iter().filter_map(Action::blocker).collect()
    }

    /// Whether a run may go on.
    pub fn passed(&self) -> bool {
        self.actions.iter().all(|action| action.blocker.is_none())
    }

    /// One difference in a few words: `text in the target, missing in the source`.
    pub fn described(&self, change: &Change) -> String {
        let shapes =
            self.changes.iter().zip(&self.shapes).find(|(c, _)| c.kind == change.kind && c.column == change.column);
        let name = |shape: &Option<ColumnShape>| shape.as_ref().map(|s| s.dtype.clone()).unwrap_or_default();
        let (source, target) = shapes.map(|(_, (s, t))| (name(s), name(t))).unwrap_or_default();
        match change.kind {
            ChangeKind::AddColumn => format!("{source} in the source, missing in the target"),
            ChangeKind::DropColumn => format!("{target} in the target, missing in the source"),
            kind if kind.is_of_type() => format!("{source} in the source does not fit {target} in the target"),
            _ => change.reason.clone(),
        }
    }

    pub fn generated_columns(&self) -> BTreeMap<&str, &str> {
        let named = |change: &'_ Change| change.generated_column.is_some();
        self.changes
            .iter()
            .filter(|change| named(change))
            .filter_map(|change| Some((change.column.as_str(), change.generated_column.as_deref()?)))
            .collect()
    }

    pub fn online(&self) -> OnlinePlan<'_> {
        let policy = &self.policy;
        let stopped = |action: &&Action| matches!(action.decision, Decision::Defer | Decision::ManualApproval);
        let guidance = self.actions.iter().filter(stopped).flat_map(|action| {
            action.online_path.iter().enumerate().map(|(i, guidance)| Guidance {
                schema_change_id: &action.schema_change_id,
                column: &action.column,
                change_type: action.change_type,
                step: i + 1,
                guidance,
            })
        });
        OnlinePlan {
            dialect: self.dialect,
            table: self.table.to_string(),
            policy: PolicyDocument {
                tables: policy.tables,
                columns: policy.columns,
                data_type: policy.data_type,
                ddl_mode: policy.ddl_mode,
                lock_timeout_seconds: policy.lock_timeout_seconds,
                statement_timeout_seconds: policy.statement_timeout_seconds,
                max_table_size_for_inline_ddl: policy.max_table_size_for_inline_ddl,
                on_schema_change: policy.on_schema_change,
                ledger_path: policy.ledger_path.as_deref(),
                allow_blocking_online: policy.allow_blocking_online,
            },
            passed: self.passed(),
            online_eligible: self.actions.iter().all(|action| action.online_supported),
            blockers: self.blockers(),
            expand_contract_plan: guidance.collect(),
            actions: &self.actions,
            catalog_fingerprint: &self.catalog_fingerprint,
            plan_hash: &self.plan_hash,
        }
    }

    /// The document that `dpone schema plan` prints.
    pub fn document(&self) -> Result<serde_json::Value> {
        let policy = &self.policy;
        let changes: Vec<_> = self
            .changes
            .iter()
            .zip(&self.shapes)
            .map(|(change, (source, target))| {
                serde_json::json!({
                    "change_type": change.kind,
                    "column": change.column,
                    "source": source,
                    "target": target,
                    "breaking": change.breaking,
                    "reason": change.reason,
                    "generated_column": change.generated_column,
                })
            })
            .collect();
        let online = serde_json::to_value(self.online())
            .map_err(|error| crate::error::Error::internal(format!("the schema plan cannot be written: {error}")))?;
        Ok(serde_json::json!({
            "policy": {
                "mode": policy.mode,
                "allow_drop": policy.allow_drop,
                "on_type_change": policy.on_type_change,
                "accept_existing_nullable_target":
                    policy.target_nullability == super::TargetNullability::AcceptExistingNullable,
                "new_column_prefix": policy.new_column_prefix,
                "allow_reserved_dpone_columns": policy.allow_reserved_dpone_columns,
            },
            "has_breaking_changes": self.has_breaking_changes(),
            "column_mapping": self.mapping,
            "generated_columns": self.generated_columns(),
            "changes": changes,
            "ddl": self.ddl(),
            "online_schema_evolution": online,
        }))
    }

    /// The statements of the changes that break nobody, without the budget for locks.
    pub fn ddl(&self) -> Vec<&str> {
        let safe = self.changes.iter().zip(&self.actions).filter(|(change, action)| {
            !change.breaking && !matches!(action.decision, Decision::Ignore | Decision::Quarantine)
        });
        safe.flat_map(|(_, action)| action.plain_ddl.iter().map(String::as_str)).collect()
    }
}

/// Of the target's columns and everything that decided about costs; not of its size, which changes with every row.
pub fn fingerprint(target: &Schema, facts: &TableFacts, dialect: &dyn Dialect) -> String {
    let columns: Vec<_> = target.fields().iter().map(|field| ColumnShape::of(field, dialect)).collect();
    let mut dependents = facts.dependents.clone();
    dependents.sort();
    let text = serde_json::json!({
        "columns": columns, "observed": facts.observed, "version": facts.version, "settings": facts.settings,
        "kind": facts.kind, "dependents": dependents,
    });
    crate::state::hex(&Sha256::digest(text.to_string().as_bytes()))
}

fn plan_hash(table: &Relation, dialect: &dyn Dialect, actions: &[Action]) -> String {
    let actions: Vec<_> = actions
        .iter()
        .map(|action| serde_json::json!([action.schema_change_id, action.risk_level, action.plain_ddl]))
        .collect();
    let text = serde_json::json!(["schema-plan-1", dialect.system(), table.to_string(), actions]);
    crate::state::hex(&Sha256::digest(text.to_string().as_bytes()))
}
