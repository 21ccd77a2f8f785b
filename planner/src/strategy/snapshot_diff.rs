//! `snapshot_diff`: a full snapshot of the source is compared with the target by key, and only the differences travel.

use arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, lit, when};

use super::compare::{
    Comparison, check_comparable, check_source_key, diff, hash_text, staged, target_column, with_hash,
};
use super::incremental_merge::without_duplicates;
use super::{Draft, Observed, column, output_names, require_columns};
use crate::definition::{CompareBy, DuplicatePolicy, MissingRows, NullKeys};
use crate::diff::{CHANGE, MISSING};
use crate::error::{Error, Result};
use crate::plan::{Checks, DELETE, INSERT_OR_UPDATE, OPERATION_COLUMN, Operation, PATCH, WriteMode};
use crate::row_hash::DigestKind;
use crate::types::utc;

/// True for rows that the source has no more, under `delete_policy: soft_delete`.
pub(super) const IS_DELETED: &str = "__dpone__is_deleted";
/// When that was seen: the time of the load, NULL for rows that are there.
pub(super) const DELETED_AT: &str = "__dpone__deleted_at";
/// The canonical hash of the row, where it is stored.
pub(super) const ROW_HASH: &str = "__dpone__row_hash";
/// The part of the target's rows that one run may delete unless the definition says otherwise.
pub(super) const MAX_DELETE_RATIO: f64 = 0.5;

pub(super) struct Options<'a> {
    pub(super) key: &'a [String],
    pub(super) compare: CompareBy,
    pub(super) missing: MissingRows,
    pub(super) duplicates: &'a DuplicatePolicy,
    pub(super) null_keys: NullKeys,
    pub(super) row_hash: bool,
    pub(super) allow_empty: bool,
}

pub(super) fn draft(observed: &Observed<'_>, options: &Options<'_>) -> Result<Draft> {
    let key = options.key;
    require_columns("the key column", key, &observed.source)?;
    check_source_key(observed, key)?;
    let names = output_names(&observed.source)?;
    if options.row_hash && observed.target.as_ref().is_some_and(|t| t.schema.field_with_name(ROW_HASH).is_err()) {
        return Err(Error::configuration(format!("diff.store_row_hash needs a column {ROW_HASH:?} in the target"))
            .with("column", ROW_HASH)
            .with_hint(
                "add it as text that may be NULL; lineage adds it by itself, and so does a target that is created",
            ));
    }
    if !options.row_hash {
        check_comparable(observed, &names)?;
    }
    let plan = without_duplicates(observed.source.clone(), key, options.duplicates)?;
    let marks = options.missing == MissingRows::Mark || marks_are_there(observed);
    let mut own = Vec::new();
    let (plan, fields) = match options.row_hash {
        true => {
            own.push(Field::new(ROW_HASH, DataType::Utf8, false));
            with_hash(plan, observed, &names, ROW_HASH)?
        }
        false if observed.target.is_some() => staged(plan, observed)?,
        // The first load stages what comes.
        false => (plan, Vec::new()),
    };
    if marks {
        own.extend(mark_fields());
    }
    let mut notes = Vec::new();
    let (plan, operation) = match &observed.target {
        None if marks || options.row_hash => (marked(plan, &names, options, marks, observed, None)?, Operation::Upsert),
        None => (plan, Operation::Upsert),
        Some(target) => {
            let kind = match options.compare {
                CompareBy::RowHash => DigestKind::Values,
                CompareBy::AllColumns => DigestKind::Exact,
            };
            let comparison = Comparison {
                key,
                compared: names.clone(),
                kind,
                hashed: options.row_hash.then(|| ROW_HASH.to_owned()),
                stored: options.row_hash.then(|| ROW_HASH.to_owned()),
                among: None,
                gone: marks.then(|| target_column(IS_DELETED).is_true()),
                gone_for_good: options.missing == MissingRows::Delete,
                carried: Vec::new(),
                missing: options.missing != MissingRows::Ignore,
                replaced: false,
                quarantine_null_keys: options.null_keys == NullKeys::Quarantine,
            };
            let (changes, why) = diff(plan, fields, observed, target, comparison)?;
            notes.push(why);
            let patch = match options.missing {
                MissingRows::Mark => vec![IS_DELETED.to_owned(), DELETED_AT.to_owned()],
                MissingRows::Delete | MissingRows::Ignore => Vec::new(),
            };
            (marked(changes, &names, options, marks, observed, Some(CHANGE))?, Operation::Column { patch })
        }
    };
    notes.push(match options.missing {
        MissingRows::Delete if marks => {
            "rows that the source has no more are deleted in the target, those that earlier loads marked among them"
                .to_owned()
        }
        MissingRows::Delete => "rows that the source has no more are deleted in the target".to_owned(),
        MissingRows::Mark => {
            format!("rows that the source has no more are kept, with {IS_DELETED} and {DELETED_AT} set")
        }
        MissingRows::Ignore => "rows that the source has no more are left as they are".to_owned(),
    });
    Ok(Draft {
        plan,
        write_mode: WriteMode::Changes { key: key.to_vec(), operation },
        cursor: None,
        checks: checks(key, options.null_keys, options.allow_empty),
        primary_key: key.to_vec(),
        own,
        notes,
    })
}

/// What is true of every comparison with a full snapshot.
pub(super) fn checks(key: &[String], null_keys: NullKeys, allow_empty: bool) -> Checks {
    let (mut not_null, mut quarantine_null) = (Vec::new(), Vec::new());
    match null_keys {
        NullKeys::Fail => not_null.extend_from_slice(key),
        NullKeys::Quarantine => quarantine_null.extend_from_slice(key),
    }
    Checks {
        not_null,
        quarantine_null,
        unique: key.to_vec(),
        fail_on_empty: !allow_empty,
        // Who allows an empty source means the deletions that follow from it.
        max_delete_ratio: (!allow_empty).then_some(MAX_DELETE_RATIO),
        ..Checks::default()
    }
}

/// The columns as they are staged: the source's, the marks where rows are marked, and the operation where there are
/// changes.
fn marked(
    plan: LogicalPlan,
    names: &[String],
    options: &Options<'_>,
    marks: bool,
    observed: &Observed<'_>,
    change: Option<&str>,
) -> Result<LogicalPlan> {
    let mut exprs = names.iter().map(|n| column(&plan, n)).collect::<Result<Vec<_>>>()?;
    if options.row_hash {
        exprs.push(hash_text(&plan, ROW_HASH)?);
    }
    let missing = match change {
        Some(change) => column(&plan, change)?.eq(lit(MISSING)),
        None => lit(false),
    };
    if marks {
        let none = ScalarValue::TimestampMicrosecond(None, Some(utc()));
        let now = ScalarValue::TimestampMicrosecond(Some(observed.now), Some(utc()));
        let deleted_at: Expr = match change {
            Some(_) => when(missing.clone(), lit(now)).otherwise(lit(none))?,
            None => lit(none),
        };
        exprs.push(missing.clone().alias(IS_DELETED));
        exprs.push(deleted_at.alias(DELETED_AT));
    }
    if change.is_some() {
        let gone = if options.missing == MissingRows::Mark { PATCH } else { DELETE };
        exprs.push(when(missing, lit(gone)).otherwise(lit(INSERT_OR_UPDATE))?.alias(OPERATION_COLUMN));
    }
    Ok(LogicalPlanBuilder::from(plan).project(exprs)?.build()?)
}

/// The columns of the marks.
pub(super) fn mark_fields() -> [Field; 2] {
    [Field::new(IS_DELETED, DataType::Boolean, false), timestamp_field(DELETED_AT)]
}

/// Whether the target has the columns of the marks, from loads that marked rows: whatever is done about missing rows now,
/// a row that is loaded is there.
pub(super) fn marks_are_there(observed: &Observed<'_>) -> bool {
    observed.target.as_ref().is_some_and(|target| {
        let kind = |name: &str| target.schema.field_with_name(name).map(Field::data_type).ok();
        let ours = matches!(kind(IS_DELETED), Some(DataType::Boolean))
            && matches!(kind(DELETED_AT), Some(DataType::Timestamp(_, Some(_))));
        let source = observed.source.schema();
        ours && [IS_DELETED, DELETED_AT].iter().all(|name| !source.has_column_with_unqualified_name(name))
    })
}

/// The rows of a load are there: they lose the mark that an earlier one may have set.
pub(super) fn with_marks(plan: LogicalPlan) -> Result<LogicalPlan> {
    let never = ScalarValue::TimestampMicrosecond(None, Some(utc()));
    let operation = plan.schema().fields().iter().any(|f| f.name() == OPERATION_COLUMN);
    let mut columns: Vec<Expr> = plan.schema().columns().into_iter().map(Expr::Column).collect();
    let at = columns.len() - usize::from(operation);
    columns.insert(at, lit(false).alias(IS_DELETED));
    columns.insert(at + 1, lit(never).alias(DELETED_AT));
    Ok(LogicalPlanBuilder::from(plan).project(columns)?.build()?)
}

/// A timestamp of ours: microseconds, UTC.
pub(super) fn timestamp_field(name: &str) -> Field {
    Field::new(name, DataType::Timestamp(TimeUnit::Microsecond, Some(utc())), true)
}
