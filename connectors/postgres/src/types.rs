//! The one table of types: what a column of PostgreSQL becomes in Arrow, how it is selected, how its bytes are read.
//!
//! There are two carriages. *Portable* columns have an Arrow type that other systems understand. *Raw* columns go unread
//! from PostgreSQL to PostgreSQL, so they keep the server's own binary form and are exact for every value. Types whose
//! binary form holds numbers that only one database knows (enum arrays, composites, anything of an extension) travel as
//! text, and the server makes and reads that text.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use dpone_planner::order::ValueOrder;
use dpone_planner::types::{
    CARRIAGE, CARRIAGE_RAW, EXTENSION_JSON, EXTENSION_UUID, MICROS, ORDER, logical_name, parse_logical, utc, widens,
    with_extension, with_native,
};
use dpone_planner::{Error, Result};

use crate::SYSTEM;

/// Field metadata: the native type below a domain.
pub const BASE: &str = "dpone:base";
/// Field metadata: the labels of an enum in their order, as a JSON array.
pub const LABELS: &str = "dpone:labels";

/// OIDs of built-in types, from the server's `pg_type.dat`: the same in every version and database.
pub mod oid {
    pub const BOOL: u32 = 16;
    pub const BYTEA: u32 = 17;
    pub const INT8: u32 = 20;
    pub const INT2: u32 = 21;
    pub const INT4: u32 = 23;
    pub const TEXT: u32 = 25;
    pub const OID: u32 = 26;
    pub const JSON: u32 = 114;
    pub const XML: u32 = 142;
    pub const CIDR: u32 = 650;
    pub const FLOAT4: u32 = 700;
    pub const FLOAT8: u32 = 701;
    pub const MACADDR8: u32 = 774;
    pub const MONEY: u32 = 790;
    pub const MACADDR: u32 = 829;
    pub const INET: u32 = 869;
    pub const BPCHAR: u32 = 1042;
    pub const VARCHAR: u32 = 1043;
    pub const DATE: u32 = 1082;
    pub const TIME: u32 = 1083;
    pub const TIMESTAMP: u32 = 1114;
    pub const TIMESTAMPTZ: u32 = 1184;
    pub const INTERVAL: u32 = 1186;
    pub const TIMETZ: u32 = 1266;
    pub const BIT: u32 = 1560;
    pub const VARBIT: u32 = 1562;
    pub const NUMERIC: u32 = 1700;
    pub const UUID: u32 = 2950;
    pub const PG_LSN: u32 = 3220;
    pub const TSVECTOR: u32 = 3614;
    pub const TSQUERY: u32 = 3615;
    pub const JSONB: u32 = 3802;
    pub const JSONPATH: u32 = 4072;
    /// point, lseg, path, box, polygon, line, circle
    pub const GEOMETRIC: [u32; 7] = [600, 601, 602, 603, 604, 628, 718];
    /// int4range, numrange, tsrange, tstzrange, daterange, int8range, and their multiranges
    pub const RANGES: [u32; 12] = [3904, 3906, 3908, 3910, 3912, 3926, 4451, 4532, 4533, 4534, 4535, 4536];
    /// The first that a database gives to a type of its own.
    pub const FIRST_USER: u32 = 16384;
}

/// A type as the catalog describes it, down to the bottom of domains and arrays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PgType {
    pub oid: u32,
    pub typmod: i32,
    /// With its modifiers, and with its schema unless that is `pg_catalog`: `numeric(10,2)`, `public.mood`.
    pub native: String,
    pub kind: TypeKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TypeKind {
    /// With the name of the C function that makes its binary form.
    Base {
        send: String,
    },
    Domain(Box<PgType>),
    Array(Box<PgType>),
    /// Its labels in order.
    Enum(Vec<String>),
    /// Composites, ranges, pseudo types.
    Other,
}

impl PgType {
    /// A built-in type without modifiers.
    pub fn builtin(oid: u32, native: &str) -> Self {
        let send = if oid == oid::TEXT { "textsend" } else { "" };
        Self { oid, typmod: -1, native: native.to_owned(), kind: TypeKind::Base { send: send.to_owned() } }
    }

    /// The type that goes by this name, as far as a comparison needs to know it: for columns that no catalog describes.
    pub fn named(field: &Field, native: &str) -> Self {
        let labels = field.metadata().get(LABELS).and_then(|labels| serde_json::from_str(labels).ok());
        if let Some(labels) = labels {
            return Self { oid: oid::FIRST_USER, typmod: -1, native: native.to_owned(), kind: TypeKind::Enum(labels) };
        }
        let (base, arguments) = match native.split_once('(') {
            Some((base, rest)) => (base.trim(), rest.split(')').next().unwrap_or_default()),
            None => (native, ""),
        };
        let after = native.split_once(')').map_or("", |(_, after)| after.trim());
        let (oid, send) = match (base, after) {
            ("boolean", _) => (oid::BOOL, ""),
            ("smallint", _) => (oid::INT2, ""),
            ("integer", _) => (oid::INT4, ""),
            ("bigint", _) => (oid::INT8, ""),
            ("real", _) => (oid::FLOAT4, ""),
            ("double precision", _) => (oid::FLOAT8, ""),
            ("numeric", _) => (oid::NUMERIC, ""),
            ("text", _) => (oid::TEXT, "textsend"),
            ("character varying", _) => (oid::VARCHAR, "varcharsend"),
            ("character", _) => (oid::BPCHAR, "bpcharsend"),
            ("bytea", _) => (oid::BYTEA, ""),
            ("uuid", _) => (oid::UUID, ""),
            ("date", _) => (oid::DATE, ""),
            ("time" | "time without time zone", "" | "without time zone") => (oid::TIME, ""),
            ("timestamp" | "timestamp without time zone", "" | "without time zone") => (oid::TIMESTAMP, ""),
            ("timestamptz" | "timestamp with time zone", _) | ("timestamp", "with time zone") => (oid::TIMESTAMPTZ, ""),
            _ => return Self { oid: 0, typmod: -1, native: native.to_owned(), kind: TypeKind::Other },
        };
        let numbers: Vec<i32> = arguments.split(',').filter_map(|number| number.trim().parse().ok()).collect();
        let typmod = match (oid, numbers.as_slice()) {
            (oid::NUMERIC, [precision]) => (precision << 16) + 4,
            (oid::NUMERIC, [precision, scale]) => ((precision << 16) | (scale & 0x7ff)) + 4,
            _ => -1,
        };
        Self { oid, typmod, native: native.to_owned(), kind: TypeKind::Base { send: send.to_owned() } }
    }

    /// The type below all domains.
    pub fn base(&self) -> &PgType {
        match &self.kind {
            TypeKind::Domain(base) => base.base(),
            _ => self,
        }
    }

    /// Precision and scale of a numeric that has them.
    pub fn precision_scale(&self) -> Option<(i32, i32)> {
        if self.oid != oid::NUMERIC || self.typmod < 4 {
            return None;
        }
        let bits = self.typmod - 4;
        // The scale is eleven bits with a sign since version 15; before it was never negative.
        Some(((bits >> 16) & 0xffff, ((bits & 0x7ff) ^ 1024) - 1024))
    }

    fn is_text(&self) -> bool {
        match &self.kind {
            TypeKind::Base { send } => {
                matches!(send.as_str(), "textsend" | "varcharsend" | "bpcharsend" | "namesend" | "unknownsend")
            }
            TypeKind::Enum(_) => true,
            _ => false,
        }
    }
}

/// How the server is asked for a column.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Select {
    Plain,
    /// `column::type`
    Cast(String),
}

/// How the bytes of a value are read.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decode {
    Bool,
    Int2,
    Int4,
    Int8,
    Oid,
    Float4,
    Float8,
    Decimal {
        precision: u8,
        scale: i8,
    },
    /// Any numeric, as the text that the server would print.
    NumericText,
    Text,
    /// Text after a version byte.
    Jsonb,
    Bytes,
    Uuid,
    Date,
    Time,
    Timestamp,
    /// One dimension from index one; elements are read by the inner decoder.
    List(Box<Decode>),
    /// The server's own 4, 8 or any number of bytes.
    RawInt32,
    RawInt64,
    RawBytes,
}

/// A column as it is read.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    pub field: Field,
    pub select: Select,
    pub decode: Decode,
    pub native: PgType,
}

/// How a column is read: `raw` asks for the server's own form, where the type has one that another database reads;
/// `declared` is a logical type from the definition and goes before both.
pub fn column(name: &str, native: &PgType, nullable: bool, raw: bool, declared: Option<&str>) -> Result<Column> {
    let (data_type, extension, select, decode, is_raw) = match declared {
        Some(declared) => declare(name, native, declared)?,
        None => match raw.then(|| raw_form(native)).flatten() {
            Some((data_type, decode)) => (data_type, None, Select::Plain, decode, true),
            None => {
                let Portable { data_type, extension, select, decode } = portable(native);
                (data_type, extension, select, decode, false)
            }
        },
    };
    let mut field = with_native(Field::new(name, data_type, nullable), SYSTEM, &native.native);
    if let Some(extension) = extension {
        field = with_extension(field, extension);
    }
    let mut metadata = field.metadata().clone();
    if is_raw {
        metadata.insert(CARRIAGE.to_owned(), CARRIAGE_RAW.to_owned());
    }
    let base = native.base();
    if base != native {
        metadata.insert(BASE.to_owned(), base.native.clone());
    }
    if let Some(order) = value_order(base).filter(|_| field.data_type() == &DataType::Utf8) {
        metadata.insert(ORDER.to_owned(), order.metadata());
    }
    if let TypeKind::Enum(labels) = &base.kind {
        metadata.insert(LABELS.to_owned(), serde_json::Value::from(labels.clone()).to_string());
    }
    Ok(Column { field: field.with_metadata(metadata), select, decode, native: native.clone() })
}

/// How values sort that travel as text. `None`: the type has no order, or one that only the server knows.
pub(crate) fn value_order(base: &PgType) -> Option<ValueOrder> {
    if let TypeKind::Enum(labels) = &base.kind {
        return Some(ValueOrder::Labels(labels.clone()));
    }
    Some(match base.oid {
        oid::NUMERIC => ValueOrder::Numeric,
        oid::BPCHAR => ValueOrder::Padded,
        oid::INTERVAL => ValueOrder::Interval,
        oid::TIMETZ => ValueOrder::TimeTz,
        oid::MONEY => ValueOrder::Money,
        oid::INET | oid::CIDR => ValueOrder::Inet,
        oid::PG_LSN => ValueOrder::Lsn,
        // Hexadecimal digits of one length, and bits, sort as their texts do. So do texts, under the order of their bytes.
        oid::MACADDR | oid::MACADDR8 | oid::BIT | oid::VARBIT | oid::TEXT | oid::VARCHAR => ValueOrder::Arrow,
        _ => return None,
    })
}

struct Portable {
    data_type: DataType,
    extension: Option<&'static str>,
    select: Select,
    decode: Decode,
}

/// The Arrow form that other systems understand.
fn portable(native: &PgType) -> Portable {
    let base = native.base();
    let plain = |data_type, decode| Portable { data_type, extension: None, select: Select::Plain, decode };
    let json =
        |decode| Portable { data_type: DataType::Utf8, extension: Some(EXTENSION_JSON), select: Select::Plain, decode };
    match &base.kind {
        TypeKind::Array(item) => return list(item),
        _ if base.is_text() => return plain(DataType::Utf8, Decode::Text),
        _ => {}
    }
    match base.oid {
        oid::BOOL => plain(DataType::Boolean, Decode::Bool),
        oid::INT2 => plain(DataType::Int16, Decode::Int2),
        oid::INT4 => plain(DataType::Int32, Decode::Int4),
        oid::INT8 => plain(DataType::Int64, Decode::Int8),
        oid::OID => plain(DataType::Int64, Decode::Oid),
        oid::FLOAT4 => plain(DataType::Float32, Decode::Float4),
        oid::FLOAT8 => plain(DataType::Float64, Decode::Float8),
        oid::NUMERIC => match base.precision_scale() {
            Some((precision @ 1..=38, scale)) if (0..=precision).contains(&scale) => {
                let (precision, scale) = (precision as u8, scale as i8);
                plain(DataType::Decimal128(precision, scale), Decode::Decimal { precision, scale })
            }
            _ => plain(DataType::Utf8, Decode::NumericText),
        },
        oid::BYTEA => plain(DataType::Binary, Decode::Bytes),
        oid::UUID => Portable { extension: Some(EXTENSION_UUID), ..plain(DataType::FixedSizeBinary(16), Decode::Uuid) },
        oid::JSON => json(Decode::Text),
        oid::JSONB => json(Decode::Jsonb),
        oid::DATE => plain(DataType::Date32, Decode::Date),
        oid::TIME => plain(DataType::Time64(MICROS), Decode::Time),
        oid::TIMESTAMP => plain(DataType::Timestamp(MICROS, None), Decode::Timestamp),
        oid::TIMESTAMPTZ => plain(DataType::Timestamp(MICROS, Some(utc())), Decode::Timestamp),
        _ => as_text(),
    }
}

fn as_text() -> Portable {
    Portable {
        data_type: DataType::Utf8,
        extension: None,
        select: Select::Cast("text".to_owned()),
        decode: Decode::Text,
    }
}

/// Lists of what has a plain Arrow form. Arrays of enums stay text: as lists of labels they would come back as arrays of
/// text, and the enum would be lost.
fn list(item: &PgType) -> Portable {
    let inner = portable(item);
    let listed = inner.select == Select::Plain
        && !matches!(inner.decode, Decode::List(_) | Decode::NumericText | Decode::Time | Decode::Oid)
        && !matches!(item.base().kind, TypeKind::Enum(_));
    if !listed {
        return as_text();
    }
    let field = Field::new("item", inner.data_type, true);
    let field = match inner.extension {
        Some(extension) => with_extension(field, extension),
        None => field,
    };
    Portable {
        data_type: DataType::List(Arc::new(field)),
        extension: None,
        select: Select::Plain,
        decode: Decode::List(Box::new(inner.decode)),
    }
}

/// The raw form, where the type has one. Types that are exact and fast in their portable form have none.
fn raw_form(native: &PgType) -> Option<(DataType, Decode)> {
    let base = native.base();
    match (&base.kind, base.oid) {
        (TypeKind::Array(item), _) => array_is_raw(item).then_some((DataType::Binary, Decode::RawBytes)),
        (_, oid::DATE) => Some((DataType::Int32, Decode::RawInt32)),
        (_, oid::TIME | oid::TIMESTAMP | oid::TIMESTAMPTZ | oid::MONEY) => Some((DataType::Int64, Decode::RawInt64)),
        (_, oid) if has_raw_bytes(oid) => Some((DataType::Binary, Decode::RawBytes)),
        _ => None,
    }
}

/// xml is not among them: its binary form drops the XML declaration that its text keeps.
fn has_raw_bytes(oid: u32) -> bool {
    matches!(
        oid,
        oid::NUMERIC
            | oid::TIMETZ
            | oid::INTERVAL
            | oid::INET
            | oid::CIDR
            | oid::MACADDR
            | oid::MACADDR8
            | oid::BIT
            | oid::VARBIT
            | oid::TSVECTOR
            | oid::TSQUERY
            | oid::JSONPATH
            | oid::PG_LSN
    ) || oid::GEOMETRIC.contains(&oid)
        || oid::RANGES.contains(&oid)
}

/// An array's binary form names the element type by its OID, which only built-in types share between databases.
fn array_is_raw(item: &PgType) -> bool {
    let simple = matches!(
        item.oid,
        oid::BOOL
            | oid::BYTEA
            | oid::INT2
            | oid::INT4
            | oid::INT8
            | oid::OID
            | oid::FLOAT4
            | oid::FLOAT8
            | oid::DATE
            | oid::TIME
            | oid::TIMESTAMP
            | oid::TIMESTAMPTZ
            | oid::MONEY
            | oid::UUID
            | oid::JSON
            | oid::JSONB
    );
    item.oid < oid::FIRST_USER && (simple || has_raw_bytes(item.oid) || item.is_text())
}

type Form = (DataType, Option<&'static str>, Select, Decode, bool);

/// A type that the definition declares: text always; a wider number; a decimal whose digits are checked one by one.
fn declare(name: &str, native: &PgType, declared: &str) -> Result<Form> {
    let want = parse_logical(name, declared)?;
    let own = portable(native);
    let own_field = Field::new(name, own.data_type.clone(), true);
    let own_field = match own.extension {
        Some(extension) => with_extension(own_field, extension),
        None => own_field,
    };
    let want_name = logical_name(&want);
    if want_name == logical_name(&own_field) {
        return Ok((own.data_type, own.extension, own.select, own.decode, false));
    }
    if want.data_type() == &DataType::Utf8 && want_name == "text" {
        let numeric = native.base().oid == oid::NUMERIC;
        return Ok(if numeric {
            (DataType::Utf8, None, Select::Plain, Decode::NumericText, false)
        } else if matches!(own.decode, Decode::Text) {
            (DataType::Utf8, None, own.select, Decode::Text, false)
        } else {
            (DataType::Utf8, None, Select::Cast("text".to_owned()), Decode::Text, false)
        });
    }
    let cast = |to: &str, decode| Ok((want.data_type().clone(), None, Select::Cast(to.to_owned()), decode, false));
    match want.data_type() {
        DataType::Decimal128(precision, scale) if native.base().oid == oid::NUMERIC => {
            let decode = Decode::Decimal { precision: *precision, scale: *scale };
            Ok((want.data_type().clone(), None, Select::Plain, decode, false))
        }
        to if widens(&own.data_type, to) => match to {
            DataType::Int32 => cast("int4", Decode::Int4),
            DataType::Int64 => cast("int8", Decode::Int8),
            DataType::Float64 => cast("float8", Decode::Float8),
            DataType::Float32 => cast("float4", Decode::Float4),
            DataType::Decimal128(precision, scale) => {
                cast("numeric", Decode::Decimal { precision: *precision, scale: *scale })
            }
            _ => Err(inexact(name, native, declared)),
        },
        _ => Err(inexact(name, native, declared)),
    }
}

fn inexact(name: &str, native: &PgType, declared: &str) -> Error {
    Error::configuration(format!(
        "column {name:?} is {} and declared {declared:?}: not every value would stay the same",
        native.native
    ))
    .with("column", name)
    .with_hint("read the table through a query that casts the column as you want it, or declare it text")
}

/// One row of the documentation's table of types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct TypeRow {
    pub native: &'static str,
    /// The Arrow type in portable carriage.
    pub portable: &'static str,
    /// The Arrow type in raw carriage; empty where the portable form is already exact.
    pub raw: &'static str,
    pub notes: &'static str,
}

const fn row(native: &'static str, portable: &'static str, raw: &'static str, notes: &'static str) -> TypeRow {
    TypeRow { native, portable, raw, notes }
}

/// The table of types for the documentation.
pub fn type_table() -> Vec<TypeRow> {
    const INFINITE: &str = "infinity and what is out of Arrow's range fail the run, naming the column: declare it text";
    vec![
        row("boolean", "Boolean", "", ""),
        row("smallint", "Int16", "", ""),
        row("integer", "Int32", "", ""),
        row("bigint", "Int64", "", ""),
        row("oid", "Int64", "", ""),
        row("real", "Float32", "", "bit for bit, NaN and -0 included"),
        row("double precision", "Float64", "", "bit for bit, NaN and -0 included"),
        row(
            "numeric(p,s), p up to 38, s from 0 to p",
            "Decimal128(p,s)",
            "Binary",
            "NaN fails the run, naming the column: declare it text",
        ),
        row(
            "numeric, and numeric(p,s) beyond that",
            "Utf8",
            "Binary",
            "the exact text that the server prints, with its scale; declare decimal(p,s) for a number whose digits are \
             checked",
        ),
        row("money", "Utf8", "Int64", "text of the server, by its lc_monetary"),
        row("text, varchar, name, enum, citext", "Utf8", "", "an enum's labels travel in the field's metadata"),
        row("char(n)", "Utf8", "", "keeps its padding"),
        row("xml", "Utf8", "", "text of the server, with the XML declaration"),
        row("bytea", "Binary", "", ""),
        row("uuid", "FixedSizeBinary(16), arrow.uuid", "", ""),
        row("json", "Utf8, arrow.json", "", "the text as it was stored"),
        row("jsonb", "Utf8, arrow.json", "", "the text as the server prints it"),
        row("date", "Date32", "Int32", INFINITE),
        row("time", "Time64(us)", "Int64", "24:00:00 fails the run, naming the column: declare it text"),
        row("time with time zone", "Utf8", "Binary", "text of the server"),
        row("timestamp", "Timestamp(us)", "Int64", INFINITE),
        row("timestamp with time zone", "Timestamp(us, \"UTC\")", "Int64", INFINITE),
        row("interval", "Utf8", "Binary", "text of the server, intervalstyle postgres"),
        row("inet, cidr, macaddr, macaddr8", "Utf8", "Binary", "text of the server"),
        row("bit(n), bit varying", "Utf8", "Binary", "text of the server: 0 and 1"),
        row("built-in ranges and multiranges", "Utf8", "Binary", "text of the server"),
        row("tsvector, tsquery, jsonpath, pg_lsn", "Utf8", "Binary", "text of the server"),
        row("point, line, lseg, box, path, polygon, circle", "Utf8", "Binary", "text of the server"),
        row(
            "T[] of boolean, integers, floats, numeric(p,s), text, uuid, date, timestamps, bytea, json, jsonb",
            "List(T)",
            "Binary",
            "more than one dimension, or a first index that is not 1, fails the run, naming the column: declare it text",
        ),
        row("other arrays of built-in types", "Utf8", "Binary", "text of the server"),
        row("arrays of enums, composites, ranges of one's own, types of extensions", "Utf8", "", "text of the server"),
        row("domain", "as its base type", "as its base type", "the base type is in the field's metadata too"),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn numeric(precision: i32, scale: i32) -> PgType {
        let typmod = ((precision << 16) | (scale & 0x7ff)) + 4;
        PgType { typmod, ..PgType::builtin(oid::NUMERIC, &format!("numeric({precision},{scale})")) }
    }

    fn data_type(native: &PgType, raw: bool, declared: Option<&str>) -> DataType {
        column("c", native, true, raw, declared).unwrap().field.data_type().clone()
    }

    #[test]
    fn numerics_are_decimals_exactly_when_they_fit() {
        assert_eq!(data_type(&numeric(38, 10), false, None), DataType::Decimal128(38, 10));
        assert_eq!(data_type(&numeric(5, 5), false, None), DataType::Decimal128(5, 5));
        for native in [numeric(39, 0), numeric(5, -2), numeric(3, 5), PgType::builtin(oid::NUMERIC, "numeric")] {
            assert_eq!(data_type(&native, false, None), DataType::Utf8, "{native:?}");
            assert_eq!(data_type(&native, true, None), DataType::Binary, "{native:?}");
        }
        assert_eq!(numeric(5, -2).precision_scale(), Some((5, -2)));
        assert_eq!(numeric(1000, 1000).precision_scale(), Some((1000, 1000)));
    }

    #[test]
    fn domains_read_as_their_base_and_say_so() {
        let domain = PgType {
            oid: 20_000,
            typmod: -1,
            native: "public.price".into(),
            kind: TypeKind::Domain(Box::new(numeric(10, 2))),
        };
        let read = column("c", &domain, false, false, None).unwrap();
        assert_eq!(read.field.data_type(), &DataType::Decimal128(10, 2));
        assert_eq!(read.field.metadata()[BASE], "numeric(10,2)");
        assert!(!read.field.is_nullable());
    }

    #[test]
    fn arrays_of_ones_own_types_travel_as_text() {
        let mood =
            PgType { oid: 20_001, typmod: -1, native: "public.mood".into(), kind: TypeKind::Enum(vec!["sad".into()]) };
        let array = |item: &PgType, oid| PgType {
            oid,
            typmod: -1,
            native: format!("{}[]", item.native),
            kind: TypeKind::Array(Box::new(item.clone())),
        };
        let moods = column("c", &array(&mood, 20_002), true, true, None).unwrap();
        assert_eq!((moods.select, moods.decode), (Select::Cast("text".into()), Decode::Text));
        let mood = column("c", &mood, true, true, None).unwrap();
        assert_eq!((&mood.select, &mood.decode), (&Select::Plain, &Decode::Text));
        assert_eq!(mood.field.metadata()[LABELS], "[\"sad\"]");
        let ints = array(&PgType::builtin(oid::INT4, "integer"), 1007);
        assert!(matches!(data_type(&ints, false, None), DataType::List(_)));
        assert_eq!(data_type(&ints, true, None), DataType::Binary);
    }

    #[test]
    fn a_declared_type_loses_nothing_or_is_refused() {
        let int = PgType::builtin(oid::INT4, "integer");
        assert_eq!(data_type(&int, true, Some("bigint")), DataType::Int64);
        assert_eq!(data_type(&int, true, Some("decimal(12,2)")), DataType::Decimal128(12, 2));
        assert_eq!(data_type(&int, true, Some("text")), DataType::Utf8);
        assert!(column("c", &int, true, false, Some("smallint")).is_err());
        assert!(column("c", &PgType::builtin(oid::TEXT, "text"), true, false, Some("integer")).is_err());
        let free = PgType::builtin(oid::NUMERIC, "numeric");
        assert_eq!(data_type(&free, false, Some("decimal(20,4)")), DataType::Decimal128(20, 4));
    }

    #[test]
    fn every_native_type_of_the_table_is_there_once() {
        let mut seen = std::collections::BTreeSet::new();
        for row in type_table() {
            assert!(seen.insert(row.native), "{}", row.native);
        }
    }
}
