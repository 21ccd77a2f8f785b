//! What happens to the stored values when a column changes its type: nothing, or each is computed anew.
//!
//! The server decides by the expression that turns the old value into the new one. Where that comes down to the same
//! bytes under another name, nothing is written: no function is left in it after the planner has dropped those lengths
//! and precisions that cannot cut anything.

use super::native::NativeType;

/// How a column's values get to another type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conversion {
    /// The bytes stay; `index_kept`: so do indexes whose keys are the bare column.
    Relabel { index_kept: bool },
    /// Every row is written again. `using`: only where DDL says how.
    Rewrite { using: Using },
    /// The server has no way from one to the other.
    None,
}

/// What a statement has to say so that the server converts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Using {
    /// An assignment does it.
    Nothing,
    /// An explicit cast.
    Cast,
    /// Through the text of the value.
    Text,
}

/// What decides about conversions beside the types.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    /// The server's major version.
    pub(crate) major: u32,
    /// The session's time zone is that of UTC, at all times.
    pub(crate) utc: bool,
}

const REWRITE: Conversion = Conversion::Rewrite { using: Using::Nothing };
const KEPT: Conversion = Conversion::Relabel { index_kept: true };

/// How `from` becomes `to`.
pub(crate) fn conversion(from: &NativeType, to: &NativeType, setting: Setting) -> Conversion {
    if from.base == to.base && from.array == to.array {
        return if keeps_length(from, to) { KEPT } else { REWRITE };
    }
    if from.array && to.array {
        return match conversion(&from.element(), &to.element(), setting) {
            Conversion::Relabel { .. } => REWRITE,
            other => other,
        };
    }
    if !from.array
        && !to.array
        && let Some(cast) = cast(&from.base, &to.base, setting.major)
    {
        return by_cast(from, to, cast, setting);
    }
    // "char" was a kind of text up to 14.
    let to_text = is_text(to) || setting.major < 15 && to.base == "\"char\"" && !to.array;
    match (is_text(from), to_text) {
        (_, true) => REWRITE,
        (true, false) => Conversion::Rewrite { using: Using::Cast },
        // A type that somebody made may have casts that nobody here knows of.
        _ if from.is_own() && to.is_own() => Conversion::Rewrite { using: Using::Text },
        _ if from.is_own() || to.is_own() => Conversion::Rewrite { using: Using::Cast },
        _ => Conversion::None,
    }
}

/// Types that every type has a text for, and a way back.
fn is_text(native: &NativeType) -> bool {
    !native.array && matches!(native.base.as_str(), "text" | "character varying" | "character" | "name")
}

/// Whether the new modifiers cut nothing that the old ones let in, and the server sees it.
fn keeps_length(from: &NativeType, to: &NativeType) -> bool {
    if from == to || (to.modifiers.is_empty() && to.fields.is_empty()) {
        return true;
    }
    if from.array {
        return false;
    }
    match (to.base.as_str(), from.modifiers.as_slice(), to.modifiers.as_slice()) {
        ("character varying" | "bit varying", [old], [new]) => new >= old,
        ("numeric", [p, s], [q, t]) => s == t && q >= p,
        ("interval", old, new) => interval_keeps(from, to, old.first(), new.first()),
        (base, _, [6]) if is_moment(base) => true,
        (base, [old], [new]) if is_moment(base) => new >= old,
        _ => false,
    }
}

fn is_moment(base: &str) -> bool {
    base.starts_with("time")
}

/// The smallest field must not get larger, and seconds must keep their digits.
fn interval_keeps(from: &NativeType, to: &NativeType, old: Option<&i32>, new: Option<&i32>) -> bool {
    let (least_old, least_new) = (least_field(&from.fields), least_field(&to.fields));
    let digits = |given: Option<&i32>| given.copied().unwrap_or(6);
    least_new <= least_old && (least_old > 0 || digits(new) >= 6 || digits(new) >= digits(old))
}

/// From 0, seconds, to 5, years.
fn least_field(fields: &str) -> u8 {
    match fields.rsplit(' ').next() {
        Some("year") => 5,
        Some("month") => 4,
        Some("day") => 3,
        Some("hour") => 2,
        Some("minute") => 1,
        _ => 0,
    }
}

fn by_cast(from: &NativeType, to: &NativeType, cast: Cast, setting: Setting) -> Conversion {
    // A length behind a cast is checked for each value: the cast does not hand the old one on.
    let unlimited = to.modifiers.is_empty() || (is_moment(&to.base) && to.modifiers == [6]);
    match cast {
        Cast::Same if unlimited => Conversion::Relabel { index_kept: sorts_as(&from.base) == sorts_as(&to.base) },
        Cast::Zone if unlimited && setting.utc && setting.major >= 12 => Conversion::Relabel { index_kept: false },
        Cast::Explicit => Conversion::Rewrite { using: Using::Cast },
        _ => REWRITE,
    }
}

/// Types with one operator class share indexes.
fn sorts_as(base: &str) -> &str {
    match base {
        "character varying" => "text",
        "cidr" => "inet",
        "regclass" | "regtype" | "regproc" => "oid",
        other => other,
    }
}

/// A cast between two types, as `pg_cast` has it.
#[derive(Clone, Copy)]
enum Cast {
    /// The bytes are the same.
    Same,
    /// Between timestamps with and without time zone: the same in UTC.
    Zone,
    /// A function, in an assignment.
    Assignment,
    /// A function, only where it is asked for.
    Explicit,
}

/// `pg_cast`, the same in 11 to 18 but for what is said.
fn cast(from: &str, to: &str, major: u32) -> Option<Cast> {
    use Cast::{Assignment, Explicit, Same, Zone};
    let integer = |base: &str| matches!(base, "smallint" | "integer" | "bigint");
    let number = |base: &str| integer(base) || matches!(base, "real" | "double precision" | "numeric");
    let text = |base: &str| matches!(base, "text" | "character varying" | "character");
    Some(match (from, to) {
        ("integer" | "oid", "regclass" | "regtype" | "regproc") => Same,
        ("smallint" | "bigint", "regclass" | "regtype" | "regproc") => Assignment,
        ("regclass" | "regtype" | "regproc", "oid" | "integer") => Same,
        ("regclass" | "regtype" | "regproc", "bigint") => Assignment,
        ("text" | "character varying", "regclass") => Assignment,
        ("integer", "oid") | ("oid", "integer") => Same,
        ("smallint" | "bigint", "oid") | ("oid", "bigint") => Assignment,
        (a, b) if number(a) && number(b) => Assignment,
        ("integer" | "bigint" | "numeric", "money") | ("money", "numeric") => Assignment,
        ("boolean", "integer") | ("integer", "boolean") => Explicit,
        ("integer" | "bigint", "bit") | ("bit", "integer" | "bigint") => Explicit,
        (a, "bytea") | ("bytea", a) if major >= 18 && integer(a) => Explicit,
        ("integer", "\"char\"") | ("\"char\"", "integer") => Explicit,
        ("\"char\"", b) if text(b) => Assignment,
        (a, "\"char\"") if text(a) => Assignment,
        ("text", "character varying" | "character") => Same,
        ("character varying", "text" | "character") => Same,
        ("xml", b) if text(b) => Same,
        (a, "xml") if text(a) => Explicit,
        (a, "name") if text(a) => Assignment,
        ("cidr", "inet") => Same,
        ("inet", "cidr") | ("macaddr", "macaddr8") | ("macaddr8", "macaddr") => Assignment,
        ("bit", "bit varying") | ("bit varying", "bit") => Same,
        ("json", "jsonb") | ("jsonb", "json") => Assignment,
        ("jsonb", b) if number(b) || b == "boolean" => Explicit,
        ("timestamp without time zone", "timestamp with time zone")
        | ("timestamp with time zone", "timestamp without time zone") => Zone,
        ("date", "timestamp without time zone" | "timestamp with time zone") => Assignment,
        ("timestamp without time zone", "date" | "time without time zone") => Assignment,
        ("timestamp with time zone", "date" | "time without time zone" | "time with time zone") => Assignment,
        ("time without time zone", "interval" | "time with time zone") => Assignment,
        ("interval" | "time with time zone", "time without time zone") => Assignment,
        ("path", "polygon") | ("polygon", "path" | "box" | "circle" | "point") => {
            if to == "path" || from == "path" {
                Assignment
            } else {
                Explicit
            }
        }
        ("point", "box") | ("box" | "circle", "polygon") => Assignment,
        ("lseg", "point") | ("box", "point" | "lseg" | "circle") | ("circle", "point" | "box") => Explicit,
        ("xid8", "xid") => Explicit,
        (range, multirange) if major >= 14 && is_multirange_of(range, multirange) => Explicit,
        _ => return None,
    })
}

fn is_multirange_of(range: &str, multirange: &str) -> bool {
    range.strip_suffix("range").zip(multirange.strip_suffix("multirange")).is_some_and(|(a, b)| a == b)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn of(from: &str, to: &str, setting: Setting) -> Conversion {
        conversion(&NativeType::parse(from).unwrap(), &NativeType::parse(to).unwrap(), setting)
    }

    #[test]
    fn only_what_cuts_nothing_keeps_the_bytes() {
        let utc = Setting { major: 15, utc: true };
        for (from, to, kept) in [
            ("varchar(20)", "varchar(50)", true),
            ("varchar(20)", "text", true),
            ("text", "varchar", true),
            ("text", "varchar(20)", false),
            ("varchar(50)", "varchar(20)", false),
            ("numeric(10,2)", "numeric(12,2)", true),
            ("numeric(10,2)", "numeric(12,4)", false),
            ("numeric(10,2)", "numeric", true),
            ("numeric", "numeric(10,2)", false),
            ("timestamp(3)", "timestamp(6)", true),
            ("timestamp", "timestamp(6)", true),
            ("timestamp", "timestamp(3)", false),
            ("timestamp", "timestamptz", true),
            ("timestamp(3)", "timestamptz(3)", false),
            ("interval day", "interval day to hour", true),
            ("interval day to second", "interval day", false),
            ("varbit(8)", "varbit(9)", true),
            ("bit(8)", "bit(9)", false),
            ("cidr", "inet", true),
            ("integer", "oid", true),
            ("integer", "bigint", false),
            ("char(3)", "char(5)", false),
            ("varchar(3)[]", "varchar(5)[]", false),
            ("varchar(3)[]", "varchar[]", true),
        ] {
            assert_eq!(matches!(of(from, to, utc), Conversion::Relabel { .. }), kept, "{from} -> {to}");
        }
        for other in [Setting { major: 11, utc: true }, Setting { major: 18, utc: false }] {
            assert_eq!(of("timestamp", "timestamptz", other), REWRITE);
        }
        assert_eq!(of("uuid", "integer", utc), Conversion::None);
        assert_eq!(of("text", "uuid", utc), Conversion::Rewrite { using: Using::Cast });
    }
}
