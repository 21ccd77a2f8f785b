//! `schema_evolution`: from what a definition says to the policy, with contradictions refused where they are written.

use std::collections::BTreeMap;

use super::Origin;
use crate::definition::manifest::{Names, Renames, Scalar, SchemaEvolution};
use crate::error::{Error, Result};
use crate::plan::RESERVED_PREFIX;
use crate::schema::{DataTypeMode, DdlMode, EvolutionMode, EvolutionPolicy, OnTypeChange};

const AT: &str = "sink.options.schema_evolution";

pub(in crate::definition) fn lower(spec: Option<&SchemaEvolution>, origin: &Origin<'_>) -> Result<EvolutionPolicy> {
    let Some(spec) = spec else { return Ok(EvolutionPolicy::default()) };
    contradictions(spec, origin)?;
    let default = EvolutionPolicy::default();
    let ddl_mode = match (spec.ddl_mode, spec.apply_safe) {
        (None, Some(false)) => DdlMode::PlanOnly,
        (mode, _) => mode.unwrap_or_default(),
    };
    Ok(EvolutionPolicy {
        enabled: spec.enabled.unwrap_or(true),
        mode: spec.mode.unwrap_or_default(),
        tables: spec.tables.unwrap_or_default(),
        columns: spec.columns.unwrap_or_default(),
        data_type: spec.data_type.unwrap_or_default(),
        ddl_mode,
        on_schema_change: spec.on_schema_change.unwrap_or_default(),
        on_type_change: spec.on_type_change.unwrap_or_default(),
        on_breaking: spec.on_breaking.unwrap_or_default(),
        target_nullability: spec.target_nullability.unwrap_or_default(),
        new_column_prefix: prefix(spec, origin)?.unwrap_or(default.new_column_prefix),
        allow_blocking_online: spec.allow_blocking_online.unwrap_or(false),
        allow_drop: false,
        allow_reserved_dpone_columns: spec.allow_reserved_dpone_columns.unwrap_or(false),
        lock_timeout_seconds: spec.lock_timeout_seconds,
        statement_timeout_seconds: spec.statement_timeout_seconds,
        max_table_size_for_inline_ddl: size(spec.max_table_size_for_inline_ddl.as_ref(), origin)?,
        ledger_path: folder(spec.ledger_path.as_deref(), "ledger_path", origin)?,
        approvals_path: folder(spec.approvals_path.as_deref(), "approvals_path", origin)?
            .unwrap_or(default.approvals_path),
        require_signed: spec.require_signed.unwrap_or(false),
        trusted_keys: spec.trusted_keys.as_ref().map(Names::list).unwrap_or_default(),
        renames: renames(spec.renames.as_ref(), origin)?,
    })
}

fn wrong(key: &str, what: impl std::fmt::Display, origin: &Origin<'_>) -> Error {
    let at = format!("{AT}.{key}");
    origin.error(&at, format!("{} {what}", origin.term(&at)))
}

fn contradictions(spec: &SchemaEvolution, origin: &Origin<'_>) -> Result<()> {
    let variant = spec.data_type == Some(DataTypeMode::VariantColumn);
    let routes = variant || spec.on_type_change == Some(OnTypeChange::NewColumn);
    let at_type_change = |what: &str| Err(wrong("on_type_change", what, origin).with_hint("keep one of them"));
    match (spec.data_type, spec.on_type_change) {
        (Some(DataTypeMode::VariantColumn), Some(OnTypeChange::Fail)) => {
            return at_type_change("is fail, and data_type: variant_column gives such values a column of their own");
        }
        (Some(DataTypeMode::Freeze), Some(OnTypeChange::NewColumn)) => {
            return at_type_change("is new_column, and data_type: freeze fails before it is asked");
        }
        (Some(DataTypeMode::Quarantine), Some(OnTypeChange::NewColumn)) => {
            return at_type_change("is new_column, and data_type: quarantine puts such rows aside");
        }
        _ => {}
    }
    if routes && spec.mode == Some(EvolutionMode::Strict) {
        let key = if variant { "data_type" } else { "on_type_change" };
        return Err(wrong(key, "adds columns, and the mode strict allows no difference", origin)
            .with_hint("use the mode widening, or leave the key out"));
    }
    if spec.apply_safe == Some(false) && spec.ddl_mode.is_some_and(|mode| mode != DdlMode::PlanOnly) {
        return Err(wrong("apply_safe", "is false, and ddl_mode says when changes are applied", origin)
            .with_hint("keep one of them: apply_safe: false is ddl_mode: plan_only"));
    }
    if spec.ddl_mode == Some(DdlMode::PlanOnly) && spec.allow_blocking_online == Some(true) {
        return Err(wrong("allow_blocking_online", "is true, and ddl_mode: plan_only applies nothing", origin));
    }
    if let (Some(lock), Some(statement)) = (spec.lock_timeout_seconds, spec.statement_timeout_seconds)
        && lock > statement
    {
        return Err(wrong(
            "lock_timeout_seconds",
            format!("is {lock}, more than the statement may take ({statement})"),
            origin,
        )
        .with_hint("waiting for the lock is part of the statement's time: give the statement more, or the lock less"));
    }
    Ok(())
}

/// Columns with the reserved prefix are ours: under another one the next run would take them for the user's.
fn prefix(spec: &SchemaEvolution, origin: &Origin<'_>) -> Result<Option<String>> {
    match spec.new_column_prefix.as_deref() {
        None => Ok(None),
        Some(prefix) if prefix.len() > RESERVED_PREFIX.len() && prefix.starts_with(RESERVED_PREFIX) => {
            Ok(Some(prefix.to_owned()))
        }
        Some(prefix) => Err(wrong(
            "new_column_prefix",
            format!("is {prefix:?}; expected a prefix that begins with {RESERVED_PREFIX}"),
            origin,
        )
        .with_hint("the default is __dpone__nc__")),
    }
}

fn folder(path: Option<&str>, key: &str, origin: &Origin<'_>) -> Result<Option<String>> {
    match path {
        Some("") => Err(wrong(key, "is empty; expected a folder", origin)),
        path => Ok(path.map(str::to_owned)),
    }
}

fn size(size: Option<&Scalar>, origin: &Origin<'_>) -> Result<Option<u64>> {
    let Some(size) = size else { return Ok(None) };
    let text = size.text();
    match bytes(&text) {
        Some(bytes) => Ok(Some(bytes)),
        None => Err(wrong(
            "max_table_size_for_inline_ddl",
            format!("is {text:?}; expected a number of bytes, or a size such as 10GB"),
            origin,
        )
        .with_hint("units are kB, MB, GB, TB (powers of 1000) and KiB, MiB, GiB, TiB (powers of 1024)")),
    }
}

/// `10GB`, `1.5 GiB`, `4096`.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "t" | "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().ok()?;
    let mut bytes = whole.checked_mul(factor)?;
    if !fraction.is_empty() {
        let tenths = 10_u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        let part: u64 = fraction.parse().ok()?;
        bytes = bytes.checked_add(u64::try_from(u128::from(part) * u128::from(factor) / u128::from(tenths)).ok()?)?;
    }
    Some(bytes)
}

fn renames(renames: Option<&Renames>, origin: &Origin<'_>) -> Result<BTreeMap<String, String>> {
    let given = match renames {
        None => return Ok(BTreeMap::new()),
        Some(Renames::Names(names)) => names.clone(),
        Some(Renames::Text(text)) => {
            let mut names = BTreeMap::new();
            for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
                let Some((old, new)) = pair.split_once('=') else {
                    return Err(wrong("renames", format!("holds {pair:?}; expected old=new"), origin));
                };
                if names.insert(old.trim().to_owned(), new.trim().to_owned()).is_some() {
                    return Err(wrong("renames", format!("names {:?} twice", old.trim()), origin));
                }
            }
            names
        }
    };
    for (old, new) in &given {
        if old.is_empty() || new.is_empty() {
            return Err(wrong("renames", "holds an empty name", origin));
        }
        if old == new {
            return Err(wrong("renames", format!("gives {old:?} the name that it has"), origin));
        }
        if let Some((other, _)) = given.iter().find(|(other, name)| *name == new && *other != old) {
            let other = other.clone();
            return Err(wrong("renames", format!("gives {other:?} and {old:?} one name, {new:?}"), origin)
                .with_hint("a column of the target has one column of the source"));
        }
    }
    Ok(given)
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_are_read_exactly() {
        for (text, expected) in [
            ("0", Some(0)),
            ("4096", Some(4096)),
            ("10GB", Some(10_000_000_000)),
            (" 1.5 GiB ", Some(1_610_612_736)),
            ("512mb", Some(512_000_000)),
            ("GB", None),
            ("-1", None),
            ("1.2.3", None),
            ("10 parsecs", None),
            ("99999999999TB", None),
        ] {
            assert_eq!(bytes(text), expected, "{text:?}");
        }
    }
}
