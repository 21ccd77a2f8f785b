//! Names of types, as the catalog prints them and as people write them: one spelling for each type, what a column of it
//! can hold, and how its values travel.

use dpone_planner::schema::TypeShape;

use crate::dialect::is_type_name;
use crate::types::{PgType, TypeKind, oid};

/// A type as DDL names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NativeType {
    /// Without modifiers, as `format_type` writes it: `character varying`, `timestamp with time zone`, `public.mood`.
    pub(crate) base: String,
    /// What stands in parentheses: length, precision, scale. Empty: nothing was said.
    pub(crate) modifiers: Vec<i32>,
    /// The fields of an interval: `day to second`; empty: all.
    pub(crate) fields: String,
    pub(crate) array: bool,
}

/// Why a text is not the name of a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotAType {
    /// `serial` and its like: an integer with a sequence, and not a type.
    Serial,
    /// The modifiers are not what the type takes.
    Modifiers(&'static str),
    Unknown,
}

/// What the modifiers of times and intervals are.
pub(super) const FRACTION: &str = "0 to 6 digits of a second";

/// A built-in type: its catalog name, the OID, and what its modifiers may be.
struct Builtin {
    base: &'static str,
    oid: u32,
    takes: Takes,
}

#[derive(Clone, Copy, PartialEq)]
enum Takes {
    Nothing,
    /// `(n)`; the number is what the bare name means, where it is not "any length".
    Length {
        most: i32,
    },
    PrecisionScale,
    /// Digits of a fraction of a second, 0 to 6.
    Fraction,
}

const LENGTH: Takes = Takes::Length { most: 10_485_760 };
const BITS: Takes = Takes::Length { most: 83_886_080 };

const fn builtin(base: &'static str, oid: u32, takes: Takes) -> Builtin {
    Builtin { base, oid, takes }
}

const BUILTINS: &[Builtin] = &[
    builtin("boolean", oid::BOOL, Takes::Nothing),
    builtin("smallint", oid::INT2, Takes::Nothing),
    builtin("integer", oid::INT4, Takes::Nothing),
    builtin("bigint", oid::INT8, Takes::Nothing),
    builtin("real", oid::FLOAT4, Takes::Nothing),
    builtin("double precision", oid::FLOAT8, Takes::Nothing),
    builtin("numeric", oid::NUMERIC, Takes::PrecisionScale),
    builtin("text", oid::TEXT, Takes::Nothing),
    builtin("character varying", oid::VARCHAR, LENGTH),
    builtin("character", oid::BPCHAR, LENGTH),
    builtin("name", 19, Takes::Nothing),
    builtin("\"char\"", 18, Takes::Nothing),
    builtin("bytea", oid::BYTEA, Takes::Nothing),
    builtin("uuid", oid::UUID, Takes::Nothing),
    builtin("json", oid::JSON, Takes::Nothing),
    builtin("jsonb", oid::JSONB, Takes::Nothing),
    builtin("jsonpath", oid::JSONPATH, Takes::Nothing),
    builtin("xml", oid::XML, Takes::Nothing),
    builtin("date", oid::DATE, Takes::Nothing),
    builtin("time without time zone", oid::TIME, Takes::Fraction),
    builtin("time with time zone", oid::TIMETZ, Takes::Fraction),
    builtin("timestamp without time zone", oid::TIMESTAMP, Takes::Fraction),
    builtin("timestamp with time zone", oid::TIMESTAMPTZ, Takes::Fraction),
    builtin("interval", oid::INTERVAL, Takes::Fraction),
    builtin("bit", oid::BIT, BITS),
    builtin("bit varying", oid::VARBIT, BITS),
    builtin("oid", oid::OID, Takes::Nothing),
    builtin("money", oid::MONEY, Takes::Nothing),
    builtin("inet", oid::INET, Takes::Nothing),
    builtin("cidr", oid::CIDR, Takes::Nothing),
    builtin("macaddr", oid::MACADDR, Takes::Nothing),
    builtin("macaddr8", oid::MACADDR8, Takes::Nothing),
    builtin("tsvector", oid::TSVECTOR, Takes::Nothing),
    builtin("tsquery", oid::TSQUERY, Takes::Nothing),
    builtin("pg_lsn", oid::PG_LSN, Takes::Nothing),
    builtin("regclass", 2205, Takes::Nothing),
    builtin("regtype", 2206, Takes::Nothing),
    builtin("regproc", 24, Takes::Nothing),
    builtin("xid", 28, Takes::Nothing),
    builtin("xid8", 5069, Takes::Nothing),
    builtin("cid", 29, Takes::Nothing),
    builtin("tid", 27, Takes::Nothing),
    builtin("txid_snapshot", 2970, Takes::Nothing),
    builtin("pg_snapshot", 5038, Takes::Nothing),
    builtin("point", 600, Takes::Nothing),
    builtin("lseg", 601, Takes::Nothing),
    builtin("path", 602, Takes::Nothing),
    builtin("box", 603, Takes::Nothing),
    builtin("polygon", 604, Takes::Nothing),
    builtin("line", 628, Takes::Nothing),
    builtin("circle", 718, Takes::Nothing),
    builtin("int4range", 3904, Takes::Nothing),
    builtin("numrange", 3906, Takes::Nothing),
    builtin("tsrange", 3908, Takes::Nothing),
    builtin("tstzrange", 3910, Takes::Nothing),
    builtin("daterange", 3912, Takes::Nothing),
    builtin("int8range", 3926, Takes::Nothing),
    builtin("int4multirange", 4451, Takes::Nothing),
    builtin("nummultirange", 4532, Takes::Nothing),
    builtin("tsmultirange", 4533, Takes::Nothing),
    builtin("tstzmultirange", 4534, Takes::Nothing),
    builtin("datemultirange", 4535, Takes::Nothing),
    builtin("int8multirange", 4536, Takes::Nothing),
];

/// Other spellings of built-in types.
const ALIASES: &[(&str, &str)] = &[
    ("bool", "boolean"),
    ("int2", "smallint"),
    ("int", "integer"),
    ("int4", "integer"),
    ("int8", "bigint"),
    ("float4", "real"),
    ("float8", "double precision"),
    ("decimal", "numeric"),
    ("dec", "numeric"),
    ("varchar", "character varying"),
    ("char varying", "character varying"),
    ("nchar varying", "character varying"),
    ("national character varying", "character varying"),
    ("national char varying", "character varying"),
    ("char", "character"),
    ("nchar", "character"),
    ("national character", "character"),
    ("national char", "character"),
    ("time", "time without time zone"),
    ("timetz", "time with time zone"),
    ("timestamp", "timestamp without time zone"),
    ("timestamptz", "timestamp with time zone"),
    ("varbit", "bit varying"),
];

/// Types of well-known extensions: names without a schema that are no mistake.
const EXTENSIONS: &[&str] = &["citext", "hstore", "ltree", "geometry", "geography", "vector", "cube", "isbn"];

const INTERVAL_FIELDS: &[&str] = &[
    "year",
    "month",
    "day",
    "hour",
    "minute",
    "second",
    "year to month",
    "day to hour",
    "day to minute",
    "day to second",
    "hour to minute",
    "hour to second",
    "minute to second",
];

impl NativeType {
    pub(crate) fn new(base: &str, modifiers: &[i32]) -> Self {
        Self { base: base.to_owned(), modifiers: modifiers.to_vec(), fields: String::new(), array: false }
    }

    /// Reads a name in any spelling that the server takes.
    pub(crate) fn parse(text: &str) -> Result<Self, NotAType> {
        let (text, array) = without_brackets(text.trim());
        let text = text.strip_prefix("pg_catalog.").unwrap_or(text);
        let mut found = match text {
            // Quoted, it has no length of its own; unquoted it has one bit, or one character.
            "\"bit\"" => Self::new("bit", &[]),
            "\"char\"" => Self::new("\"char\"", &[]),
            _ if text.contains('"') => own_type(text)?,
            _ => plain(&text.to_lowercase())?,
        };
        found.array = array;
        Ok(found)
    }

    fn builtin(&self) -> Option<&'static Builtin> {
        let base = if self.base == "bpchar" { "character" } else { self.base.as_str() };
        BUILTINS.iter().find(|builtin| builtin.base == base)
    }

    /// Whether the database's owner made the type, or an extension.
    pub(crate) fn is_own(&self) -> bool {
        self.builtin().is_none()
    }

    pub(crate) fn is_of_extension(&self) -> bool {
        let bare = self.base.rsplit('.').next().unwrap_or_default();
        EXTENSIONS.contains(&bare)
    }

    pub(crate) fn element(&self) -> Self {
        Self { array: false, ..self.clone() }
    }

    /// As the catalog prints it.
    pub(crate) fn name(&self) -> String {
        let numbers: Vec<String> = self.modifiers.iter().map(i32::to_string).collect();
        let modifiers = if numbers.is_empty() { String::new() } else { format!("({})", numbers.join(",")) };
        let mut name = match (self.base.as_str(), self.modifiers.is_empty()) {
            // Without a length these two mean another type than the bare words do.
            ("character", true) => "bpchar".to_owned(),
            ("bit", true) => "\"bit\"".to_owned(),
            ("interval", _) if !self.fields.is_empty() => format!("interval {}{modifiers}", self.fields),
            (base, false) => match base.split_once(' ') {
                Some((first @ ("time" | "timestamp"), rest)) => format!("{first}{modifiers} {rest}"),
                _ => format!("{base}{modifiers}"),
            },
            (base, true) => base.to_owned(),
        };
        if self.array {
            name.push_str("[]");
        }
        name
    }

    /// The type without its modifiers, for a cast that must not cut: the assignment after it checks them.
    pub(crate) fn unmodified(&self) -> String {
        Self { modifiers: Vec::new(), fields: String::new(), ..self.clone() }.name()
    }

    /// Digits of a fraction of a second; six where nothing was said.
    fn fraction(&self) -> u8 {
        self.modifiers.first().map_or(6, |digits| *digits as u8)
    }

    /// The type as reading and staging know it.
    pub(crate) fn pg_type(&self) -> PgType {
        let native = self.name();
        if self.array {
            let item = self.element().pg_type();
            return PgType { oid: 0, typmod: item.typmod, native, kind: TypeKind::Array(Box::new(item)) };
        }
        let Some(builtin) = self.builtin() else {
            return PgType { oid: oid::FIRST_USER, typmod: -1, native, kind: TypeKind::Other };
        };
        let send = match builtin.oid {
            oid::TEXT => "textsend",
            oid::VARCHAR => "varcharsend",
            oid::BPCHAR => "bpcharsend",
            19 => "namesend",
            _ => "",
        };
        let typmod = match (builtin.oid, self.modifiers.as_slice()) {
            (oid::NUMERIC, [precision, scale]) => ((precision << 16) | (scale & 0x7ff)) + 4,
            (oid::VARCHAR | oid::BPCHAR, [length]) => length + 4,
            (_, [first]) => *first,
            _ => -1,
        };
        PgType { oid: builtin.oid, typmod, native, kind: TypeKind::Base { send: send.to_owned() } }
    }

    /// What a column of the type can hold.
    pub(crate) fn shape(&self) -> TypeShape {
        use TypeShape as S;
        if self.array {
            return S::Array(Box::new(self.element().shape()));
        }
        let length = self.modifiers.first().map(|n| *n as u32);
        let integer = |bits, signed| S::Integer { bits, signed };
        let Some(builtin) = self.builtin() else { return S::Other(self.name()) };
        match builtin.oid {
            oid::BOOL => S::Boolean,
            oid::INT2 => integer(16, true),
            oid::INT4 => integer(32, true),
            oid::INT8 => integer(64, true),
            oid::OID => integer(32, false),
            oid::FLOAT4 => S::Float { bits: 32 },
            oid::FLOAT8 => S::Float { bits: 64 },
            oid::NUMERIC => self.numeric_shape(),
            oid::TEXT => S::Text { length: None, padded: false },
            oid::VARCHAR => S::Text { length, padded: false },
            oid::BPCHAR => S::Text { length, padded: true },
            oid::BYTEA => S::Bytes { length: None, fixed: false },
            oid::UUID => S::Uuid,
            oid::JSON => S::Json { binary: false },
            oid::JSONB => S::Json { binary: true },
            oid::DATE => S::Date,
            oid::TIME => S::Time { digits: self.fraction(), zoned: false },
            oid::TIMETZ => S::Time { digits: self.fraction(), zoned: true },
            oid::TIMESTAMP => S::Timestamp { digits: self.fraction(), zoned: false },
            oid::TIMESTAMPTZ => S::Timestamp { digits: self.fraction(), zoned: true },
            oid::INTERVAL => S::Interval { digits: self.fraction(), fields: self.fields.clone() },
            oid::BIT => S::Bits { length, fixed: length.is_some() },
            oid::VARBIT => S::Bits { length, fixed: false },
            _ => S::Other(self.name()),
        }
    }

    /// A negative scale rounds, and a scale beyond the precision leaves digits out: such types hold what they hold.
    fn numeric_shape(&self) -> TypeShape {
        match self.modifiers.as_slice() {
            [] => TypeShape::Decimal { digits: None },
            [precision, scale] if (0..=*precision).contains(scale) => TypeShape::decimal(*precision, *scale),
            _ => TypeShape::Other(self.name()),
        }
    }
}

/// Dimensions and bounds mean nothing to the server.
fn without_brackets(text: &str) -> (&str, bool) {
    let (mut text, mut array) = (text, false);
    loop {
        let trimmed = text.trim_end();
        let cut = match trimmed.strip_suffix(']').and_then(|t| t.rsplit_once('[')) {
            Some((before, bound)) if bound.trim().bytes().all(|b| b.is_ascii_digit()) => before,
            _ => match trimmed.len().checked_sub(6).and_then(|at| trimmed.split_at_checked(at)) {
                Some((before, word)) if word.eq_ignore_ascii_case(" array") => before,
                _ => return (trimmed, array),
            },
        };
        (text, array) = (cut, true);
    }
}

/// A name without quotes, in lower case.
fn plain(text: &str) -> Result<NativeType, NotAType> {
    let (before, arguments, after) = match text.split_once('(') {
        None => (text, None, ""),
        Some((before, rest)) => {
            let (inside, after) = rest.split_once(')').ok_or(NotAType::Unknown)?;
            (before, Some(inside), after)
        }
    };
    let words = format!("{before} {after}").split_whitespace().collect::<Vec<_>>().join(" ");
    if matches!(words.as_str(), "serial" | "bigserial" | "smallserial" | "serial2" | "serial4" | "serial8") {
        return Err(NotAType::Serial);
    }
    let numbers = match arguments {
        None => Vec::new(),
        Some(inside) => {
            let numbers = inside.split(',').map(|n| n.trim().parse().ok()).collect::<Option<Vec<i32>>>();
            match numbers {
                Some(numbers) => numbers,
                None => return own_type(text),
            }
        }
    };
    if let Some(found) = float(&words, &numbers) {
        return found;
    }
    if let Some(fields) = words.strip_prefix("interval ").filter(|fields| INTERVAL_FIELDS.contains(fields)) {
        let fraction = fields.ends_with("second");
        let holds = numbers.is_empty() || fraction && matches!(numbers[..], [0..=6]);
        let found = NativeType { fields: fields.to_owned(), ..NativeType::new("interval", &numbers) };
        return if holds { Ok(found) } else { Err(NotAType::Modifiers(FRACTION)) };
    }
    if words == "bpchar" && numbers.is_empty() {
        return Ok(NativeType::new("character", &[]));
    }
    let word = if words == "bpchar" { "character" } else { words.as_str() };
    let base = ALIASES.iter().find(|(alias, _)| *alias == word).map_or(word, |(_, base)| base);
    match BUILTINS.iter().find(|builtin| builtin.base == base) {
        Some(builtin) => Ok(NativeType::new(base, &modifiers(builtin, &numbers)?)),
        None => own_type(text),
    }
}

/// `float(n)` is one of two types.
fn float(words: &str, numbers: &[i32]) -> Option<Result<NativeType, NotAType>> {
    if words != "float" {
        return None;
    }
    Some(match numbers {
        [] | [25..=53] => Ok(NativeType::new("double precision", &[])),
        [1..=24] => Ok(NativeType::new("real", &[])),
        _ => Err(NotAType::Modifiers("1 to 53 bits")),
    })
}

fn modifiers(builtin: &Builtin, numbers: &[i32]) -> Result<Vec<i32>, NotAType> {
    let (holds, expected) = match (builtin.takes, numbers) {
        (Takes::Nothing, []) => (true, ""),
        (Takes::Nothing, _) => (false, "no numbers in parentheses"),
        // The bare words mean one character, and one bit.
        (Takes::Length { .. }, []) if matches!(builtin.base, "character" | "bit") => return Ok(vec![1]),
        (Takes::Length { most }, [length]) => ((1..=most).contains(length), "a length of at least 1"),
        (Takes::Length { .. }, numbers) => (numbers.is_empty(), "one length"),
        (Takes::PrecisionScale, [precision]) if (1..=1000).contains(precision) => return Ok(vec![*precision, 0]),
        (Takes::PrecisionScale, [precision, scale]) => (
            (1..=1000).contains(precision) && (-1000..=1000).contains(scale),
            "a precision of 1 to 1000, and a scale of -1000 to 1000",
        ),
        (Takes::PrecisionScale, numbers) => (numbers.is_empty(), "a precision of 1 to 1000, and a scale"),
        (Takes::Fraction, numbers) => (matches!(numbers, [] | [0..=6]), FRACTION),
    };
    if holds { Ok(numbers.to_vec()) } else { Err(NotAType::Modifiers(expected)) }
}

/// A type that somebody made: with its schema, quoted, or of a well-known extension.
fn own_type(text: &str) -> Result<NativeType, NotAType> {
    let (name, numbers) = match text.rsplit_once('(').and_then(|(name, rest)| Some((name, rest.strip_suffix(')')?))) {
        Some((name, inside)) if !inside.contains('"') => {
            let numbers: Option<Vec<i32>> = inside.split(',').map(|n| n.trim().parse().ok()).collect();
            (name.trim_end(), numbers.ok_or(NotAType::Unknown)?)
        }
        _ => (text, Vec::new()),
    };
    let known = name.contains(['.', '"']) || EXTENSIONS.contains(&name);
    if known && is_type_name(name) { Ok(NativeType::new(name, &numbers)) } else { Err(NotAType::Unknown) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn name(text: &str) -> String {
        NativeType::parse(text).unwrap().name()
    }

    #[test]
    fn every_spelling_becomes_the_catalogs() {
        for (text, want) in [
            ("int4", "integer"),
            ("INT8", "bigint"),
            ("float", "double precision"),
            ("float(24)", "real"),
            ("decimal", "numeric"),
            ("dec(10)", "numeric(10,0)"),
            ("numeric( 10 , 2 )", "numeric(10,2)"),
            ("varchar(20)", "character varying(20)"),
            ("character  varying (20)", "character varying(20)"),
            ("national character varying(20)", "character varying(20)"),
            ("varchar", "character varying"),
            ("char", "character(1)"),
            ("char(5)", "character(5)"),
            ("bpchar", "bpchar"),
            ("bpchar(5)", "character(5)"),
            ("\"char\"", "\"char\""),
            ("bit", "bit(1)"),
            ("\"bit\"", "\"bit\""),
            ("varbit(8)", "bit varying(8)"),
            ("timestamp(3) with time zone", "timestamp(3) with time zone"),
            ("timestamptz(3)", "timestamp(3) with time zone"),
            ("timestamp", "timestamp without time zone"),
            ("time(0)", "time(0) without time zone"),
            ("timetz", "time with time zone"),
            ("interval", "interval"),
            ("interval(3)", "interval(3)"),
            ("interval day to second(3)", "interval day to second(3)"),
            ("INTERVAL YEAR TO MONTH", "interval year to month"),
            ("varchar(20)[]", "character varying(20)[]"),
            ("int[3][4]", "integer[]"),
            ("integer ARRAY", "integer[]"),
            ("pg_catalog.int4", "integer"),
            ("public.mood", "public.mood"),
            ("\"My\".\"Type\"[]", "\"My\".\"Type\"[]"),
            ("citext", "citext"),
        ] {
            assert_eq!(name(text), want, "{text}");
            // What the catalog prints reads back as itself.
            assert_eq!(name(want), want, "{text}");
        }
    }

    #[test]
    fn what_is_no_type_is_told_apart() {
        for text in ["", "strng", "varchar(", "mood", "integer; drop table t", "text collate \"C\"", "a.b.c", "x y"] {
            assert_eq!(NativeType::parse(text), Err(NotAType::Unknown), "{text}");
        }
        for text in
            ["varchar(0)", "numeric(1001,0)", "uuid(3)", "timestamp(7)", "interval day(3)", "bit(0)", "float(54)"]
        {
            assert!(matches!(NativeType::parse(text), Err(NotAType::Modifiers(_))), "{text}");
        }
        assert_eq!(NativeType::parse("bigserial"), Err(NotAType::Serial));
    }

    #[test]
    fn shapes_say_what_a_column_holds() {
        let shape = |text: &str| NativeType::parse(text).unwrap().shape();
        assert_eq!(shape("varchar(20)"), TypeShape::Text { length: Some(20), padded: false });
        assert_eq!(shape("char(20)"), TypeShape::Text { length: Some(20), padded: true });
        assert_eq!(shape("numeric"), TypeShape::Decimal { digits: None });
        assert_eq!(shape("numeric(10,2)"), TypeShape::Decimal { digits: Some((8, 2)) });
        assert_eq!(shape("numeric(5,-2)"), TypeShape::Other("numeric(5,-2)".into()));
        assert_eq!(shape("timestamptz(3)"), TypeShape::Timestamp { digits: 3, zoned: true });
        assert_eq!(shape("interval day"), TypeShape::Interval { digits: 6, fields: "day".into() });
        assert_eq!(shape("jsonb"), TypeShape::Json { binary: true });
        assert_eq!(shape("integer[]"), TypeShape::Array(Box::new(TypeShape::Integer { bits: 32, signed: true })));
        assert_eq!(shape("public.mood"), TypeShape::Other("public.mood".into()));
    }
}
