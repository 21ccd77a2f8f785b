//! The reader xmin: what it needs, how its rows are written, and how deletions are found.

use super::strategy::{KEY, check_key_given, duplicates, null_keys, soft_delete};
use super::{Origin, parse_lag};
use crate::definition::located::quoted;
use crate::definition::manifest::{
    Incremental, Mode, Reconciliation as Spec, ReconciliationDeletePolicy, ReconciliationSettings, SourceOptions,
    StrategySpec, XminMode,
};
use crate::definition::{Cadence, GoneRows, Lag, Reconciliation, Strategy, VersionWrite, Xmin};
use crate::error::Result;

const AT: &str = "reconciliation";

pub(super) fn lower(
    spec: &StrategySpec,
    read: &SourceOptions,
    key: Vec<String>,
    reconciliation: Option<&Spec>,
    origin: &Origin<'_>,
) -> Result<Strategy> {
    check_source(spec, read, origin)?;
    let only_new_rows = spec.only_new_rows.unwrap_or(false);
    let write = match spec.mode {
        Mode::IncrementalAppend => {
            if only_new_rows && key.is_empty() {
                let option = origin.term("sink.strategy.only_new_rows");
                return Err(origin.missing(KEY, &format!("{option} compares rows by it")));
            }
            VersionWrite::Append { only_new_rows }
        }
        Mode::CdcApply => {
            let at = "sink.strategy.mode";
            return Err(origin
                .error(at, "cdc_apply applies events, and the reader xmin gives rows")
                .with_hint("use it with incremental_merge"));
        }
        _ => {
            check_key_given(spec.mode, &key, origin)?;
            VersionWrite::Merge {
                duplicates: duplicates(spec, origin)?,
                null_keys: null_keys(spec),
                soft_delete: soft_delete(spec),
            }
        }
    };
    let reconciliation = reconciliation.map(|spec| lower_reconciliation(spec, origin)).transpose()?;
    if matches!(write, VersionWrite::Append { .. }) && matches!(reconciliation, Some(Reconciliation::On { .. })) {
        return Err(origin
            .error(AT, "reconciliation deletes rows by their key, and incremental_append keeps every version of a row")
            .with_hint("use incremental_merge, or remove reconciliation"));
    }
    Ok(Strategy::Xmin(Xmin { key, write, reconciliation }))
}

fn check_source(spec: &StrategySpec, read: &SourceOptions, origin: &Origin<'_>) -> Result<()> {
    if spec.mode == Mode::Xmin
        && matches!(read.incremental_strategy, Some(Incremental::Column | Incremental::ColumnCursor))
    {
        let at = "source.options.incremental_strategy";
        return Err(origin.error(at, format!("{} contradicts the strategy xmin", origin.term(at))));
    }
    if read.query.is_some() {
        return Err(origin
            .error("source.options.query", "rows of a query have no xmin: the reader xmin reads a table")
            .with_hint("name the table, and narrow it by columns and custom_predicate"));
    }
    if let Some(execution) = &read.xmin_execution
        && (execution.mode == Some(XminMode::Initial) || execution.handoff_id.is_some())
    {
        let at = "source.options.xmin_execution";
        return Err(origin
            .error(at, format!("{at}: a first read cannot be handed over to another process"))
            .with_hint("remove it: a run without state reads everything by itself; `dpone state reset` starts over"));
    }
    Ok(())
}

/// For strategies that have no use for it: asking for it is an error, its other keys are without effect.
pub(in crate::definition) fn refuse_reconciliation(
    spec: &Spec,
    origin: &Origin<'_>,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let asked = match spec {
        Spec::Enabled(enabled) => *enabled,
        Spec::Settings(settings) => settings.enabled == Some(true),
    };
    if asked {
        return Err(origin
            .error(AT, "reconciliation belongs to the reader xmin, which this strategy does not use")
            .with_hint(
                "deletions are found by snapshot_diff, or by sink.strategy.soft_delete where the source marks them",
            ));
    }
    let Spec::Settings(settings) = spec else { return Ok(()) };
    let given = given(settings);
    if settings.enabled.is_none() && !given.is_empty() {
        let verb = if given.len() == 1 { "has" } else { "have" };
        warnings.push(format!(
            "{} {verb} no effect: reconciliation belongs to the reader xmin, which this strategy does not use",
            given.join(", ")
        ));
    }
    Ok(())
}

/// The keys beside the guards.
fn given(settings: &ReconciliationSettings) -> Vec<String> {
    [
        ("mode", settings.mode.is_some()),
        ("cadence", settings.cadence.is_some()),
        ("consistency", settings.consistency.is_some()),
        ("delete_policy", settings.delete_policy.is_some()),
    ]
    .into_iter()
    .filter(|(_, given)| *given)
    .map(|(key, _)| format!("{AT}.{key}"))
    .collect()
}

/// A mapping asks for it, unless it says `enabled: false`.
fn lower_reconciliation(spec: &Spec, origin: &Origin<'_>) -> Result<Reconciliation> {
    let settings = match spec {
        Spec::Enabled(false) => return Ok(Reconciliation::Off),
        Spec::Enabled(true) => {
            return Ok(Reconciliation::On { cadence: Cadence::Runs(1), delete_policy: GoneRows::default() });
        }
        Spec::Settings(settings) => settings,
    };
    if settings.enabled == Some(false) {
        return Ok(Reconciliation::Off);
    }
    let delete_policy = match settings.delete_policy {
        None | Some(ReconciliationDeletePolicy::HardDelete) => GoneRows::HardDelete,
        Some(ReconciliationDeletePolicy::SoftDelete) => GoneRows::SoftDelete,
    };
    Ok(Reconciliation::On { cadence: cadence(settings, origin)?, delete_policy })
}

fn cadence(settings: &ReconciliationSettings, origin: &Origin<'_>) -> Result<Cadence> {
    let Some(text) = settings.cadence.as_ref().map(|cadence| cadence.text()) else { return Ok(Cadence::Runs(1)) };
    if text == "every_run" {
        return Ok(Cadence::Runs(1));
    }
    match parse_lag(&text) {
        Some(Lag::Number(runs)) if runs > 0 => Ok(Cadence::Runs(runs as u64)),
        Some(Lag::Interval { microseconds }) if microseconds > 0 => Ok(Cadence::Interval { microseconds }),
        _ => {
            let at = "reconciliation.cadence";
            Err(origin
                .error(at, format!("{} is {}; expected how often keys are compared", origin.term(at), quoted(&text)))
                .with_hint("every_run, a number of runs such as 10, or a time such as 6h or 1d"))
        }
    }
}
