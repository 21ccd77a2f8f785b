//! What the comparing strategies share: the two sides of a comparison, with their hashes, and how they meet.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::{Column, JoinType, ScalarValue};
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, when};

use super::align::aligned_exprs;
use super::{Observed, ObservedTarget, Sizes, column};
use crate::diff::{DIGEST, Diff, DiffSpec, GONE, KEY_HASH, Method};
use crate::error::{Error, Result};
use crate::exact_cast::convert;
use crate::order::ValueOrder;
use crate::row_hash::{DigestKind, HashText, WIDTH, digest};
use crate::types::{NATIVE, is_binary, is_raw, is_string, logical_name, native_of};

/// The name under which a plan scans the target.
pub(super) const TARGET: &str = "__dpone__target";

pub(super) fn target_scan(target: &ObservedTarget) -> Result<LogicalPlanBuilder> {
    Ok(LogicalPlanBuilder::scan(TARGET, provider_as_source(Arc::clone(&target.provider)), None)?)
}

pub(super) fn target_column(name: &str) -> Expr {
    Expr::Column(Column::new(Some(TARGET), name))
}

/// What is compared, and how.
pub(super) struct Comparison<'a> {
    pub(super) key: &'a [String],
    /// The columns whose values decide whether a row changed.
    pub(super) compared: Vec<String>,
    pub(super) kind: DigestKind,
    /// The source's column that holds the digest already: see [`with_hash`].
    pub(super) hashed: Option<String>,
    /// The target's column that holds the digest already, as text.
    pub(super) stored: Option<String>,
    /// Rows of the target that take part.
    pub(super) among: Option<Expr>,
    /// Of the target: true for a row that counts as deleted.
    pub(super) gone: Option<Expr>,
    /// Rows that count as deleted are missing like others, and not left as they are.
    pub(super) gone_for_good: bool,
    /// Columns of the target that travel with missing and replaced rows.
    pub(super) carried: Vec<Field>,
    pub(super) missing: bool,
    pub(super) replaced: bool,
    pub(super) quarantine_null_keys: bool,
}

/// The source's rows in staged types, with the hash of each in the column `hash`: as it is compared, so that it is made
/// once. [`hash_text`] makes of it what is stored, for the rows that are.
pub(super) fn with_hash(
    plan: LogicalPlan,
    observed: &Observed<'_>,
    compared: &[String],
    hash: &str,
) -> Result<(LogicalPlan, Vec<Field>)> {
    let (plan, mut fields) = staged(plan, observed)?;
    let expr = digest_of(&plan, &fields, compared, DigestKind::Values)?.alias(hash);
    fields.push(Field::new(hash, DataType::FixedSizeBinary(WIDTH as i32), false));
    let columns = plan.schema().columns().into_iter().map(Expr::Column).chain([expr]);
    Ok((LogicalPlanBuilder::from(plan).project(columns)?.build()?, fields))
}

/// The hash of [`with_hash`] as it is stored; NULL where a row has none.
pub(super) fn hash_text(plan: &LogicalPlan, hash: &str) -> Result<Expr> {
    Ok(HashText::call(column(plan, hash)?).alias(hash))
}

/// The source's rows in the types in which they are staged.
pub(super) fn staged(plan: LogicalPlan, observed: &Observed<'_>) -> Result<(LogicalPlan, Vec<Field>)> {
    let (fields, exprs): (Vec<_>, Vec<_>) = aligned_exprs(&plan, observed)?
        .into_iter()
        .map(|(f, e)| {
            let e = e.alias(f.name());
            (f, e)
        })
        .unzip();
    Ok((LogicalPlanBuilder::from(plan).project(exprs)?.alias("__dpone__source")?.build()?, fields))
}

pub(super) fn digest_of(plan: &LogicalPlan, fields: &[Field], columns: &[String], kind: DigestKind) -> Result<Expr> {
    let columns = columns
        .iter()
        .map(|name| {
            let field = fields.iter().find(|f| f.name() == name);
            let field = field.ok_or_else(|| Error::internal(format!("column {name:?} is not compared")))?;
            Ok((field.clone(), column(plan, name)?))
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(digest(kind, columns))
}

/// The change set between `plan`, with `fields` as its columns in staged types, and the target.
pub(super) fn diff(
    plan: LogicalPlan,
    fields: Vec<Field>,
    observed: &Observed<'_>,
    target: &ObservedTarget,
    comparison: Comparison<'_>,
) -> Result<(LogicalPlan, String)> {
    check_key(&fields, comparison.key)?;
    let values = match &comparison.hashed {
        Some(hashed) => column(&plan, hashed)?,
        None => digest_of(&plan, &fields, &comparison.compared, comparison.kind)?,
    };
    let hashes = [digest_of(&plan, &fields, comparison.key, DigestKind::Key)?.alias(KEY_HASH), values.alias(DIGEST)];
    let columns = plan.schema().columns().into_iter().map(Expr::Column).chain(hashes);
    let source = LogicalPlanBuilder::from(plan).project(columns)?.build()?;
    let target = target_side(target, &fields, &comparison, observed)?;
    let (method, why) = method(observed.sizes, &fields, &comparison);
    let spec = DiffSpec {
        method,
        key: comparison.key.to_vec(),
        carried: comparison.carried.iter().map(|f| f.name().clone()).collect(),
        missing: comparison.missing,
        replaced: comparison.replaced,
        quarantine_null_keys: comparison.quarantine_null_keys,
    };
    let fields = fields.into_iter().chain(comparison.carried.into_iter().map(|f| f.with_nullable(true)));
    Ok((Diff::plan(source, target, spec, fields.collect())?, why))
}

fn target_side(
    target: &ObservedTarget,
    fields: &[Field],
    comparison: &Comparison<'_>,
    observed: &Observed<'_>,
) -> Result<LogicalPlan> {
    let mut scan = target_scan(target)?;
    if let Some(aside) = &observed.aside {
        scan = without_aside(scan, aside, comparison.key, observed)?;
    }
    if let Some(among) = &comparison.among {
        scan = scan.filter(among.clone())?;
    }
    let given = target.provider.schema();
    let as_staged = |name: &String| target_value(&given, fields, name);
    let mut exprs = Vec::new();
    for name in comparison.key {
        field_of(&given, name)?;
        exprs.push(as_staged(name)?.1.alias(name));
    }
    for field in &comparison.carried {
        exprs.push(convert(target_column(field.name()), field_of(&given, field.name())?, field)?.alias(field.name()));
    }
    let of = |names: &[String]| names.iter().map(as_staged).collect::<Result<Vec<_>>>();
    exprs.push(digest(DigestKind::Key, of(comparison.key)?).alias(KEY_HASH));
    let values = match &comparison.stored {
        Some(stored) => target_column(stored),
        None => digest(comparison.kind, of(&comparison.compared)?),
    };
    match &comparison.gone {
        None => exprs.push(values.alias(DIGEST)),
        // Without a digest a row equals none: it is changed when its key comes back, and missing when it does not.
        Some(gone) if comparison.gone_for_good => {
            exprs.push(when(gone.clone().is_not_true(), values).end()?.alias(DIGEST))
        }
        Some(gone) => exprs.extend([values.alias(DIGEST), gone.clone().alias(GONE)]),
    }
    Ok(scan.project(exprs)?.build()?)
}

/// The target's rows less those whose row in the source is put aside: it is there, and says nothing.
fn without_aside(
    scan: LogicalPlanBuilder,
    aside: &LogicalPlan,
    key: &[String],
    observed: &Observed<'_>,
) -> Result<LogicalPlanBuilder> {
    let named = |name: &str| format!("__dpone__put_aside_{name}");
    let keys: Vec<Expr> =
        aligned_exprs(aside, observed)?.into_iter().map(|(field, expr)| expr.alias(named(field.name()))).collect();
    let keys = LogicalPlanBuilder::from(aside.clone()).project(keys)?.build()?;
    let on = key.iter().map(|name| target_column(name).eq(Expr::Column(Column::from_name(named(name)))));
    Ok(scan.join_on(keys, JoinType::LeftAnti, on.collect::<Vec<_>>())?)
}

/// A column of the target in its staged type. The rows of a column that comes with this load hold NULL.
pub(super) fn target_value(given: &Schema, fields: &[Field], name: &str) -> Result<(Field, Expr)> {
    let staged = fields.iter().find(|f| f.name() == name);
    let staged = staged.ok_or_else(|| Error::internal(format!("column {name:?} is not compared")))?;
    let value = match given.field_with_name(name) {
        Ok(there) => convert(target_column(name), there, staged)?,
        Err(_) => Expr::Literal(ScalarValue::try_new_null(staged.data_type())?, None),
    };
    Ok((staged.clone(), value))
}

fn field_of<'a>(schema: &'a Schema, name: &str) -> Result<&'a Field> {
    schema.field_with_name(name).map_err(|_| {
        Error::configuration(format!("the target has no column {name:?}"))
            .with_hint("load into a table that this strategy made, or add the column to the target")
    })
}

/// Whether the target's keys and digests fit in memory: half of it is theirs, the rest is for reading and staging.
fn method(sizes: Sizes, fields: &[Field], comparison: &Comparison<'_>) -> (Method, String) {
    let width = |name: &String| {
        let field = fields.iter().chain(&comparison.carried).find(|f| f.name() == name);
        field.and_then(|f| f.data_type().primitive_width()).unwrap_or(32)
    };
    let digest = if comparison.kind == DigestKind::Exact { comparison.compared.iter().map(width).sum() } else { WIDTH };
    let held = comparison.key.iter().chain(comparison.carried.iter().map(Field::name)).map(width).sum::<usize>();
    let entry = (WIDTH + digest + held + ENTRY_OVERHEAD) as u64;
    let limit = sizes.memory / 2;
    let needed = sizes.target_rows.map(|rows| (rows, rows.saturating_mul(entry)));
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    match needed {
        None if !sizes.outgrown => {
            let why = "the target's keys and digests are held in memory; how many there are is not known, and if they do \
                       not fit, the run begins again and compares in parts on disk";
            (Method::Hash, why.to_owned())
        }
        Some((rows, needed)) if needed <= limit && !sizes.outgrown => {
            let why =
                format!("the keys and digests of about {rows} target rows ({} MiB) are held in memory", mib(needed));
            (Method::Hash, why)
        }
        Some((rows, needed)) if needed > limit => {
            let parts = parts(needed, sizes.memory);
            let why = format!(
                "both sides are split into {parts} parts on disk, which are compared one by one: the keys and digests of \
                 about {rows} target rows ({} MiB) are more than half of the memory limit ({} MiB)",
                mib(needed),
                mib(sizes.memory)
            );
            (Method::Partitioned { parts }, why)
        }
        _ => {
            let why = format!(
                "both sides are split into {MOST_PARTS} parts on disk, which are compared one by one: the target's keys and \
                 digests did not fit in memory"
            );
            (Method::Partitioned { parts: MOST_PARTS }, why)
        }
    }
}

/// So many that a part takes a sixteenth of the memory: several workers hold one each, and parts are not all alike. More
/// than are written in pieces of a decent size would only make more of them: a part that does not fit is split again.
fn parts(needed: u64, memory: u64) -> u16 {
    let parts = needed.div_ceil((memory / 16).max(1)).next_power_of_two();
    u16::try_from(parts).unwrap_or(MOST_PARTS).clamp(8, MOST_PARTS)
}

const MOST_PARTS: u16 = 64;

/// Bytes of an entry of the table of keys besides its hashes and values.
const ENTRY_OVERHEAD: usize = 12;

/// Checks the key of the first load too, when there is nothing to compare with yet: the next load must not be refused.
pub(super) fn check_source_key(observed: &Observed<'_>, key: &[String]) -> Result<()> {
    let fields: Vec<Field> = observed.source.schema().as_arrow().fields().iter().map(|f| f.as_ref().clone()).collect();
    check_key(&fields, key)
}

/// Refuses columns whose values the target gives back as something that they cannot be compared with: by the first plan,
/// and not by the second load.
pub(super) fn check_comparable(observed: &Observed<'_>, names: &[String]) -> Result<()> {
    let dialect = observed.dialect;
    for name in names {
        let field = observed.source.schema().field_with_unqualified_name(name)?;
        let there = match &observed.target {
            Some(target) => target.schema.field_with_name(name).ok().cloned(),
            None => dialect.native_type(field).and_then(|native| dialect.parse_type(name, &native)).ok(),
        };
        let Some(there) = there.filter(|_| !is_raw(field)) else { continue };
        let Some(staged) = dialect.staged_field(field, &there)? else { continue };
        // The target's rows are read as bytes then.
        if is_binary(staged.data_type()) && is_string(there.data_type()) {
            continue;
        }
        if convert(target_column(name), &there, &staged).is_err() {
            return Err(Error::configuration(format!(
                "column {name:?} is {} in the source and is read as {} from the target: they cannot be compared",
                logical_name(field),
                logical_name(&there)
            ))
            .with("column", name)
            .with_hint(
                "turn it into text in a query, such as encode(…, 'hex'), or compare by hashes that are kept beside the \
                 rows: store_row_hash: true under diff",
            ));
        }
    }
    Ok(())
}

/// Values that travel as text are one key when their texts are: refused for types in which several texts are one value.
fn check_key(fields: &[Field], key: &[String]) -> Result<()> {
    for field in fields.iter().filter(|f| key.contains(f.name())) {
        if many_spellings(field) || field.data_type().is_nested() || is_raw(field) {
            return Err(spelt_in_many_ways("the key column", field, "the comparison"));
        }
    }
    Ok(())
}

/// Checks the columns by which a sink finds rows of the target: one that keeps as text what the source does not takes two
/// spellings of a value for two values. Systems that know the type compare its values themselves.
pub(super) fn check_matched(
    what: &str,
    columns: &[String],
    source: &Schema,
    target: &Schema,
    system: &'static str,
) -> Result<()> {
    for name in columns {
        let (Ok(given), Ok(there)) = (source.field_with_name(name), target.field_with_name(name)) else { continue };
        let native = native_of(there, system).is_some() && many_spellings(there);
        if many_spellings(given) && is_string(there.data_type()) && !native {
            return Err(spelt_in_many_ways(what, given, &format!("the {system} sink")));
        }
    }
    Ok(())
}

/// Whether the column's values travel as text, and several texts are one value.
pub(super) fn many_spellings(field: &Field) -> bool {
    is_string(field.data_type())
        && (matches!(ValueOrder::of(field), Some(ValueOrder::Numeric | ValueOrder::Interval))
            || native_base(field)
                .is_some_and(|base| SPELT_IN_MANY_WAYS.contains(&base.as_str()) || base.ends_with("[]")))
}

const SPELT_IN_MANY_WAYS: [&str; 10] = [
    "numeric",
    "interval",
    "json",
    "jsonb",
    "timetz",
    "time with time zone",
    "citext",
    "xml",
    "numrange",
    "nummultirange",
];

/// `numeric` of `pg_catalog.numeric(…)`.
fn native_base(field: &Field) -> Option<String> {
    let native = field.metadata().get(NATIVE)?;
    let name = native.split('(').next().unwrap_or_default().trim().to_lowercase();
    let base = name.rsplit('.').next().unwrap_or(&name).to_owned();
    // What a length or a scale stands before: `numeric(10,2)[]`.
    Some(if native.ends_with("[]") && !base.ends_with("[]") { format!("{base}[]") } else { base })
}

fn spelt_in_many_ways(what: &str, field: &Field, who: &str) -> Error {
    let shown = field.metadata().get(NATIVE).cloned().unwrap_or_else(|| logical_name(field));
    let why = match many_spellings(field) {
        true => format!("in which one value has several spellings, and {who} sees only the text"),
        false => "whose values rows cannot be told apart by".to_owned(),
    };
    let base = native_base(field).unwrap_or_default();
    let hint = match base.as_str() {
        _ if base.ends_with("[]") || field.data_type().is_nested() => {
            "use another key, or one text or number that a query makes of the elements"
        }
        "json" | "jsonb" | "xml" => {
            "use another key, or take the parts that identify a row out of it in a query or a view of the source"
        }
        "interval" => "use another key, or make a number of it in a view of the source: EXTRACT(epoch FROM …)",
        "citext" => "make one spelling of it in a query, lower(CAST(… AS VARCHAR)), or use another key",
        "timetz" | "time with time zone" => "use another key, or a time without a zone: CAST(… AS TIME) in a view",
        "numrange" | "nummultirange" => "use another key, or the range's bounds, as columns of a view of the source",
        _ => "convert it in a query, for example CAST(… AS DECIMAL(38, 10)), or use another key",
    };
    Error::configuration(format!("{what} {:?} is of type {shown}, {why}", field.name()))
        .with("column", field.name())
        .with_hint(hint)
}
