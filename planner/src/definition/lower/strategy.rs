//! The load strategy and its guards: which options a mode needs, and which exclude each other.

mod compare;
mod partition;

use super::source::checked;
use super::text::scope_predicate;
use super::{Origin, backfill};
use crate::definition::manifest::{
    DiffDeletePolicy, DuplicateSpec, EmptySourceSpec, GuardSpec, Incremental, MergePolicy, Mode, Names, NullKeysSpec,
    Reconciliation, ReconciliationSettings, Scd2DeletePolicy, SoftDeletePolicy, SourceOptions, StrategySpec,
};
use crate::definition::{
    CursorOptions, DeletePolicy, DuplicatePolicy, EmptySource, Guards, NullKeys, OverwriteType, Scope, SoftDelete,
    Strategy, UnsupportedMode,
};
use crate::error::Result;

const MODE: &str = "sink.strategy.mode";
pub(super) const KEY: &str = "sink.strategy.unique_key";
const CURSOR: &str = "source.options.incremental_column";

pub(super) fn lower(
    spec: &StrategySpec,
    read: &SourceOptions,
    cursor: Option<CursorOptions>,
    reconciliation: Option<&Reconciliation>,
    (source_kind, sink_kind): (&str, &str),
    origin: &Origin<'_>,
) -> Result<Strategy> {
    let key = spec.unique_key.as_ref().map(Names::list).unwrap_or_default();
    check_key(&key, origin)?;
    if let Some(policy) = spec.merge_policy {
        check_merge_policy(policy, sink_kind, origin)?;
    }
    if spec.mutations_sync == Some(0) {
        let at = "sink.strategy.mutations_sync";
        return Err(origin
            .error(at, format!("{} 0 would end a load before its rows are deleted", origin.term(at)))
            .with_hint("remove it: a load waits for its mutations, as with 2"));
    }
    match reader(spec.mode, read, source_kind, origin)? {
        Some(Reader::Xmin) => return super::xmin::lower(spec, read, key, reconciliation, origin),
        Some(Reader::Cdc) => {
            if spec.mode == Mode::IncrementalMerge {
                check_key_given(spec.mode, &key, origin)?;
            }
            return Ok(unsupported("cdc"));
        }
        None => {}
    }
    let mode = spec.mode;
    let strategy = match mode {
        Mode::FullRefresh => {
            no_cursor(&cursor, "full_refresh reads everything", origin)?;
            Strategy::FullRefresh { overwrite: spec.overwrite_type.map(OverwriteType::from).unwrap_or_default() }
        }
        Mode::Replace => {
            no_cursor(&cursor, "replace reads its scope", origin)?;
            Strategy::Replace { scope: scope(spec, origin)? }
        }
        Mode::IncrementalAppend => {
            let only_new_rows = spec.only_new_rows.unwrap_or(false);
            if only_new_rows && key.is_empty() {
                return Err(
                    origin.missing(KEY, &format!("{} compares rows by it", origin.term("sink.strategy.only_new_rows")))
                );
            }
            match cursor {
                Some(cursor) => Strategy::IncrementalAppend { cursor, only_new_rows, key },
                // A topic has its offsets.
                None if source_kind == "kafka" => unsupported("incremental_append"),
                None => {
                    return Err(origin
                        .missing(CURSOR, "incremental_append reads the rows past a cursor")
                        .with_hint("name a column that only grows, or use full_refresh"));
                }
            }
        }
        Mode::IncrementalMerge => {
            if key.is_empty() {
                return Err(key_missing(mode, origin));
            }
            Strategy::IncrementalMerge {
                key,
                cursor,
                duplicates: duplicates(spec, origin)?,
                null_keys: null_keys(spec),
                soft_delete: soft_delete(spec),
            }
        }
        Mode::SnapshotDiff => {
            no_cursor(&cursor, "snapshot_diff compares everything", origin)?;
            if key.is_empty() {
                return Err(key_missing(mode, origin));
            }
            compare::snapshot_diff(spec, key, origin)?
        }
        Mode::Scd2 => {
            if key.is_empty() {
                return Err(key_missing(mode, origin));
            }
            compare::scd2(spec, key, cursor, origin)?
        }
        Mode::CdcApply => {
            if key.is_empty() {
                return Err(key_missing(mode, origin));
            }
            unsupported(mode.as_str())
        }
        Mode::PartitionReplace => {
            no_cursor(&cursor, "partition_replace reads whole partitions", origin)?;
            partition::lower(spec, origin)?
        }
        Mode::Backfill => {
            backfill::lower(spec, cursor.as_ref(), source_kind, soft_delete(spec), null_keys(spec), origin)?
        }
        // Has returned with its reader.
        Mode::Xmin => return Err(crate::Error::internal("the strategy xmin was lowered without its reader")),
    };
    Ok(strategy)
}

pub(super) fn null_keys(spec: &StrategySpec) -> NullKeys {
    match spec.null_keys {
        None | Some(NullKeysSpec::Fail) => NullKeys::Fail,
        Some(NullKeysSpec::Quarantine) => NullKeys::Quarantine,
    }
}

pub(super) fn soft_delete(spec: &StrategySpec) -> Option<SoftDelete> {
    spec.soft_delete.as_ref().map(|soft| SoftDelete {
        column: soft.column.clone(),
        policy: match soft.policy {
            None | Some(SoftDeletePolicy::Delete) => DeletePolicy::Hard,
            Some(SoftDeletePolicy::Keep) => DeletePolicy::Keep,
        },
    })
}

fn unsupported(name: &str) -> Strategy {
    Strategy::Unsupported(UnsupportedMode { name: name.to_owned() })
}

/// A reader other than a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    Xmin,
    Cdc,
}

fn reader(mode: Mode, read: &SourceOptions, source_kind: &str, origin: &Origin<'_>) -> Result<Option<Reader>> {
    let xmin =
        mode == Mode::Xmin || matches!(read.incremental_strategy, Some(Incremental::Xmin | Incremental::PostgresXmin));
    let cdc = read.cdc.as_ref().is_some_and(|cdc| cdc.enabled.unwrap_or(true));
    let (reader, name, at) = match (xmin, cdc) {
        (false, false) => {
            if read.xmin_execution.is_some() {
                let at = "source.options.xmin_execution";
                return Err(origin.error(at, format!("{at} has no meaning without incremental_strategy: xmin")));
            }
            return Ok(None);
        }
        (true, true) => {
            return Err(origin
                .error("source.options.cdc", "incremental_strategy: xmin and cdc are two readers of one source")
                .with_hint("keep one of them"));
        }
        (true, false) => (Reader::Xmin, "xmin", "source.options.incremental_strategy"),
        (false, true) => (Reader::Cdc, "cdc", "source.options.cdc"),
    };
    // Which system a query of ours reads is known when it is planned.
    if reader == Reader::Xmin && !["postgres", "sql"].contains(&source_kind) {
        return Err(origin.error(at, format!("the xmin reader belongs to postgres; the source is {source_kind}")));
    }
    if !matches!(mode, Mode::IncrementalAppend | Mode::IncrementalMerge | Mode::CdcApply | Mode::Xmin) {
        return Err(origin
            .error(at, format!("the {name} reader gives changes, and {} replaces whole sets of rows", mode.as_str()))
            .with_hint("use it with incremental_merge"));
    }
    if read.incremental_column.is_some() {
        return Err(origin
            .error(CURSOR, format!("the {name} reader keeps its own position; a cursor column has no meaning"))
            .with_hint("remove incremental_column"));
    }
    Ok(Some(reader))
}

/// Column names of an option that, where it is given, names some.
pub(super) fn named(given: Option<&Names>, at: &str, origin: &Origin<'_>) -> Result<Vec<String>> {
    let names = given.map(Names::list).unwrap_or_default();
    if given.is_some() && names.is_empty() {
        return Err(origin
            .error(at, format!("{} names no column", origin.term(at)))
            .with_hint("name columns, or leave the option out"));
    }
    if names.iter().any(|name| name.is_empty()) {
        return Err(origin
            .error(at, format!("{} holds an empty name", origin.term(at)))
            .with_hint("look for a comma too many"));
    }
    Ok(names)
}

pub(super) fn check_key_given(mode: Mode, key: &[String], origin: &Origin<'_>) -> Result<()> {
    if key.is_empty() { Err(key_missing(mode, origin)) } else { Ok(()) }
}

fn key_missing(mode: Mode, origin: &Origin<'_>) -> crate::Error {
    origin
        .missing(KEY, &format!("{} matches rows by their key", mode.as_str()))
        .with_hint("name the columns that tell rows apart, for example [id]")
}

fn check_key(key: &[String], origin: &Origin<'_>) -> Result<()> {
    for (i, column) in key.iter().enumerate() {
        if key.iter().take(i).any(|earlier| earlier == column) {
            return Err(origin.error(KEY, format!("{} names {column:?} twice", origin.term(KEY))));
        }
        if column.is_empty() {
            return Err(origin
                .error(KEY, format!("{} holds an empty name", origin.term(KEY)))
                .with_hint("look for a comma too many"));
        }
    }
    Ok(())
}

fn no_cursor(cursor: &Option<CursorOptions>, why: &str, origin: &Origin<'_>) -> Result<()> {
    match cursor {
        None => Ok(()),
        Some(_) => Err(origin
            .error(CURSOR, format!("{why}; {} has no meaning", origin.term(CURSOR)))
            .with_hint("remove it, or use incremental_append or incremental_merge")),
    }
}

fn check_merge_policy(policy: MergePolicy, sink_kind: &str, origin: &Origin<'_>) -> Result<()> {
    use MergePolicy::*;
    let allowed: &[MergePolicy] = match sink_kind {
        "postgres" | "delta" | "mssql" | "bigquery" | "memory" | "null" => &[Auto, DeleteInsert, UpdateInsert],
        "clickhouse" => &[Auto, LightweightDeleteInsert, MutationDeleteInsert, ShadowSwap, Replacing],
        "kafka" => &[Auto, EventUpsert],
        _ => &[Auto],
    };
    if allowed.contains(&policy) {
        return Ok(());
    }
    let at = "sink.strategy.merge_policy";
    let allowed: Vec<_> = allowed.iter().map(|policy| policy.as_str()).collect();
    Err(origin
        .error(at, format!("{} {} is not a way in which a {sink_kind} sink merges", origin.term(at), policy.as_str()))
        .with_hint(format!("{sink_kind} takes {}; auto is always right", allowed.join(", "))))
}

pub(super) fn duplicates(spec: &StrategySpec, origin: &Origin<'_>) -> Result<DuplicatePolicy> {
    let at = "sink.strategy.order_by";
    let order_by = named(spec.order_by.as_ref(), at, origin)?;
    match (spec.duplicate_policy, order_by.is_empty()) {
        (Some(DuplicateSpec::Latest), false) => Ok(DuplicatePolicy::Latest { order_by }),
        (Some(DuplicateSpec::Latest), true) => Err(origin
            .missing(at, "duplicate_policy latest keeps the row that is greatest by it")
            .with_hint("name the columns that order the versions of a row, for example [updated_at]")),
        (None | Some(DuplicateSpec::Fail), true) => Ok(DuplicatePolicy::Fail),
        (None | Some(DuplicateSpec::Fail), false) => Err(origin
            .error(at, format!("{} has no meaning where duplicates fail the run", origin.term(at)))
            .with_hint("write duplicate_policy: latest, or remove it")),
    }
}

/// Exactly one way to say the scope.
fn scope(spec: &StrategySpec, origin: &Origin<'_>) -> Result<Scope> {
    let (predicate, portable, window) =
        ("sink.strategy.custom_predicate", "sink.strategy.portable_scope", "sink.strategy.window");
    match (&spec.custom_predicate, &spec.portable_scope, &spec.window) {
        (Some(sql), None, None) => Ok(Scope::Predicate(checked(sql, predicate, origin)?)),
        (None, Some(scope), None) => match (&scope.equals, &scope.any_of, &scope.from, &scope.to) {
            (None, None, Some(from), Some(to)) => {
                Ok(Scope::Window { column: scope.column.clone(), from: from.text(), to: to.text() })
            }
            _ => scope_predicate(scope)
                .map(Scope::Predicate)
                .map_err(|why| origin.error(portable, format!("{}: {why}", origin.term(portable)))),
        },
        (None, None, Some(w)) => Ok(Scope::Window { column: w.column.clone(), from: w.from.text(), to: w.to.text() }),
        (None, None, None) => Err(origin.error(MODE, "replace rewrites a scope, and none is given").with_hint(
            format!("give one of {}, {} and {}", origin.term(predicate), origin.term(portable), origin.term(window)),
        )),
        _ => {
            let second = if spec.window.is_some() { window } else { portable };
            Err(origin.error(second, "replace takes exactly one of custom_predicate, portable_scope and window"))
        }
    }
}

/// Limits may stand in the strategy or, as older manifests have it, under `reconciliation`.
pub(super) fn guards(
    spec: &StrategySpec,
    reconciliation: Option<&ReconciliationSettings>,
    origin: &Origin<'_>,
) -> Result<Guards> {
    let old = reconciliation.and_then(|settings| settings.guards.as_ref());
    check_guarded(spec, old, origin)?;
    let old_empty = reconciliation.and_then(|settings| settings.empty_snapshot.as_ref()).map(|empty| empty.policy);
    let empty_source = once(spec.empty_source, old_empty, "empty_source", "empty_snapshot.policy", origin)?;
    Ok(Guards {
        empty_source: match empty_source {
            None | Some(EmptySourceSpec::Fail) => EmptySource::Fail,
            Some(EmptySourceSpec::Allow) => EmptySource::Allow,
        },
        max_delete_ratio: once(
            spec.max_delete_ratio,
            old.and_then(|guards| guards.max_delete_ratio),
            "max_delete_ratio",
            "guards.max_delete_ratio",
            origin,
        )?,
        max_delete_rows: once(
            spec.max_delete_rows,
            old.and_then(|guards| guards.max_delete_rows),
            "max_delete_rows",
            "guards.max_delete_rows",
            origin,
        )?,
    })
}

/// Where missing rows are left as they are, there is nothing that a limit could stop.
fn check_guarded(spec: &StrategySpec, old: Option<&GuardSpec>, origin: &Origin<'_>) -> Result<()> {
    let diff = spec.diff.as_ref().and_then(|diff| diff.delete_policy) == Some(DiffDeletePolicy::Ignore);
    let scd2 = spec.scd2.as_ref().and_then(|scd2| scd2.delete_policy) == Some(Scd2DeletePolicy::Ignore);
    let policy = match spec.mode {
        Mode::SnapshotDiff if diff => "sink.strategy.diff.delete_policy",
        Mode::Scd2 if scd2 => "sink.strategy.scd2.delete_policy",
        _ => return Ok(()),
    };
    let given = [
        ("sink.strategy.max_delete_ratio", spec.max_delete_ratio.is_some()),
        ("sink.strategy.max_delete_rows", spec.max_delete_rows.is_some()),
        ("reconciliation.guards.max_delete_ratio", old.is_some_and(|old| old.max_delete_ratio.is_some())),
        ("reconciliation.guards.max_delete_rows", old.is_some_and(|old| old.max_delete_rows.is_some())),
    ];
    match given.into_iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((at, _)) => Err(origin
            .error(at, format!("{} has no meaning where {} is ignore", origin.term(at), origin.term(policy)))
            .with_hint("nothing is deleted, marked or closed for being absent: remove the limit")),
    }
}

fn once<T: PartialEq>(
    new: Option<T>,
    old: Option<T>,
    key: &str,
    old_key: &str,
    origin: &Origin<'_>,
) -> Result<Option<T>> {
    if new.is_some() && old.is_some() && new != old {
        let at = format!("sink.strategy.{key}");
        return Err(origin
            .error(&at, format!("{at} and reconciliation.{old_key} differ"))
            .with_hint("keep one of them"));
    }
    Ok(new.or(old))
}
