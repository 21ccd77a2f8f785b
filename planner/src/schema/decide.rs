//! What is done about each difference: the policy, and what the change costs on the server.

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::compare::{Change, ChangeKind};
use super::cost::{Cost, Risk};
use super::facts::TableFacts;
use super::policy::{ColumnsMode, DataTypeMode, DdlMode, EvolutionPolicy, OnBreaking, OnSchemaChange};
use super::{LockBudget, SchemaChange};
use crate::dialect::Dialect;
use crate::error::Result;
use crate::relation::Relation;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// The run makes the change.
    Apply,
    /// The run does not make the change, and stops because of it.
    Defer,
    /// The run waits for somebody to approve the change.
    ManualApproval,
    /// The difference is left as it is: the column is not loaded, or the target keeps what it has.
    Ignore,
    /// Rows that the target cannot take are put aside and counted.
    Quarantine,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Approval {
    NotRequired,
    Pending,
    Approved,
}

/// One difference, with what it costs and what is done about it.
#[derive(Debug, Clone, Serialize)]
pub struct Action {
    pub schema_change_id: String,
    pub change_type: ChangeKind,
    pub column: String,
    pub risk_level: Risk,
    /// Whether readers and writers go on while it is made.
    pub online_supported: bool,
    pub decision: Decision,
    pub approval_status: Approval,
    /// As it is sent to the server, with the budget for locks and time.
    pub ddl: Vec<String>,
    pub lock: Option<String>,
    pub rewrites: bool,
    pub work: Option<super::Work>,
    pub reason: String,
    pub online_path: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub assumptions: Vec<String>,
    /// What stops a run, as `<prefix>` of `schema_evolution.<prefix>:<change_type>:<column>`.
    #[serde(skip)]
    pub blocker: Option<&'static str>,
    /// The change itself, for the one who applies it.
    #[serde(skip)]
    pub change: Option<SchemaChange>,
    /// The statements without the budget.
    #[serde(skip)]
    pub plain_ddl: Vec<String>,
}

impl Action {
    pub fn blocker(&self) -> Option<String> {
        let prefix = self.blocker?;
        Some(format!("schema_evolution.{prefix}:{}:{}", self.change_type.as_str(), self.column))
    }
}

/// Judges one difference.
pub fn decide(
    change: &Change,
    table: &Relation,
    facts: &TableFacts,
    dialect: &dyn Dialect,
    policy: &EvolutionPolicy,
) -> Result<Action> {
    let cost = change.ddl.as_ref().map(|ddl| dialect.cost(table, facts, ddl));
    let plain_ddl = match (&change.ddl, &cost) {
        (Some(ddl), Some(cost)) if cost.risk != Risk::Unsupported => dialect.render(table, ddl)?,
        _ => Vec::new(),
    };
    let risk = match &cost {
        Some(cost) if cost.risk == Risk::Unsupported => Risk::Unsupported,
        _ if change.breaking => Risk::Breaking,
        Some(cost) => cost.risk,
        None => Risk::MetadataOnly,
    };
    let verdict = verdict(change, risk, cost.as_ref(), facts, policy);
    let needs_ddl = !plain_ddl.is_empty();
    let approval = match verdict.decision {
        Decision::ManualApproval => Approval::Pending,
        Decision::Defer if verdict.approvable => Approval::Pending,
        _ => Approval::NotRequired,
    };
    let budget = LockBudget {
        lock_timeout_ms: policy.lock_timeout_seconds.map(|s| s.saturating_mul(1000)),
        statement_timeout_ms: policy.statement_timeout_seconds.map(|s| s.saturating_mul(1000)),
    };
    let ddl = if needs_ddl { dialect.within_budget(plain_ddl.clone(), &budget) } else { Vec::new() };
    let reason = match &cost {
        Some(cost) => format!("{}; {}", change.reason, cost.reason),
        None => change.reason.clone(),
    };
    let mut online_path = cost.as_ref().map(|c| c.online_path.clone()).unwrap_or_default();
    if change.kind == ChangeKind::TypeChange {
        online_path.insert(
            0,
            "on_type_change: new_column takes the values into a column of their own; the target's stays as it is"
                .into(),
        );
    }
    Ok(Action {
        schema_change_id: change_id(table, dialect, change, &plain_ddl),
        change_type: change.kind,
        column: change.column.clone(),
        risk_level: risk,
        online_supported: risk.is_online(),
        decision: verdict.decision,
        approval_status: approval,
        ddl,
        lock: cost.as_ref().and_then(|c| c.lock.clone()),
        rewrites: cost.as_ref().is_some_and(Cost::rewrites),
        work: cost.as_ref().map(|c| c.work),
        reason,
        online_path,
        assumptions: cost.map(|c| c.assumptions).unwrap_or_default(),
        blocker: verdict.blocker,
        change: change.ddl.clone(),
        plain_ddl,
    })
}

struct Verdict {
    decision: Decision,
    blocker: Option<&'static str>,
    /// Somebody's approval would let it be applied.
    approvable: bool,
}

fn stop(blocker: &'static str) -> Verdict {
    Verdict { decision: Decision::Defer, blocker: Some(blocker), approvable: false }
}

fn go(decision: Decision) -> Verdict {
    Verdict { decision, blocker: None, approvable: false }
}

fn verdict(change: &Change, risk: Risk, cost: Option<&Cost>, facts: &TableFacts, policy: &EvolutionPolicy) -> Verdict {
    if let Some(verdict) = contract(change, policy) {
        return verdict;
    }
    if change.breaking && policy.on_breaking == OnBreaking::Ignore && change.kind != ChangeKind::ReservedColumn {
        return go(Decision::Ignore);
    }
    if !policy.enabled || policy.on_schema_change == OnSchemaChange::Fail {
        return stop("fail");
    }
    if policy.on_schema_change == OnSchemaChange::DisablePipeline {
        // The pipeline stays off until somebody approves the change.
        let approvable = change.ddl.is_some() && risk != Risk::Unsupported;
        return Verdict { approvable, ..stop("disable_pipeline") };
    }
    if change.ddl.is_none() {
        return stop(risk.as_str());
    }
    match (policy.ddl_mode, risk) {
        (_, Risk::Unsupported) => stop(risk.as_str()),
        (DdlMode::PlanOnly, _) => stop("plan_only"),
        (DdlMode::ManualApproval, _) => {
            Verdict { decision: Decision::ManualApproval, blocker: Some("manual_approval"), approvable: true }
        }
        (_, Risk::Breaking) => stop(risk.as_str()),
        (DdlMode::SafeWindow, _) => Verdict { approvable: true, ..stop("safe_window") },
        (DdlMode::Online, Risk::Blocking) if !policy.allow_blocking_online => stop(risk.as_str()),
        (DdlMode::Online, _) => match too_large(cost, facts, policy) {
            Some(blocker) => stop(blocker),
            None => go(Decision::Apply),
        },
    }
}

/// What the contract modes say of columns and types, before any cost is looked at.
fn contract(change: &Change, policy: &EvolutionPolicy) -> Option<Verdict> {
    match change.kind {
        ChangeKind::AddColumn => match policy.columns {
            ColumnsMode::Evolve => None,
            ColumnsMode::Freeze => Some(stop("frozen")),
            ColumnsMode::Ignore => Some(go(Decision::Ignore)),
            ColumnsMode::Quarantine => Some(go(Decision::Quarantine)),
        },
        kind if kind.is_of_type() => match policy.data_type {
            DataTypeMode::Freeze => Some(stop("frozen")),
            DataTypeMode::Quarantine => Some(go(Decision::Quarantine)),
            DataTypeMode::Widen | DataTypeMode::VariantColumn => None,
        },
        _ => None,
    }
}

/// A change whose work grows with the table is not made inline on a table that is large, or whose size nobody knows.
fn too_large(cost: Option<&Cost>, facts: &TableFacts, policy: &EvolutionPolicy) -> Option<&'static str> {
    let most = policy.max_table_size_for_inline_ddl?;
    if cost.is_none_or(|cost| cost.risk == Risk::MetadataOnly) {
        return None;
    }
    match facts.bytes {
        None => Some("table_size_unknown"),
        Some(bytes) if bytes > most => Some("table_too_large"),
        Some(_) => None,
    }
}

/// The same change of the same table has the same id.
fn change_id(table: &Relation, dialect: &dyn Dialect, change: &Change, ddl: &[String]) -> String {
    let mut hasher = Sha256::new();
    let mut part = |text: &str| {
        hasher.update((text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    part("schema-change-1");
    part(dialect.system());
    part(&table.to_string());
    part(change.kind.as_str());
    part(&change.column);
    for column in [&change.source, &change.target] {
        match column {
            Some(field) => part(&format!("{:?}", super::ColumnShape::of(field, dialect))),
            None => part(""),
        }
    }
    ddl.iter().for_each(|statement| part(statement));
    format!("sch_{}", crate::state::hex(&hasher.finalize()[..12]))
}
