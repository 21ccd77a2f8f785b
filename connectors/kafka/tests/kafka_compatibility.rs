//! The rules of a Schema Registry, case by case: what a reader with one schema makes of what another one wrote.
#![allow(clippy::unwrap_used, clippy::cloned_ref_to_slice_refs)]

use dpone_kafka::{Kind, Level, Report, compatibility};
use serde_json::{Value, json};

fn judge(level: Level, kind: Kind, new: &Value, earlier: &[Value]) -> Report {
    compatibility(level, kind, new, earlier).unwrap_or_else(|error| unreachable!("{error}: {new}"))
}

/// The rules that a reader breaks; each case also says what the other direction is.
fn rules(kind: Kind, reader: &Value, writer: &Value) -> Vec<&'static str> {
    let backward = judge(Level::Backward, kind, reader, &[writer.clone()]);
    let forward = judge(Level::Forward, kind, writer, &[reader.clone()]);
    let names = |report: &Report| report.problems.iter().map(|p| (p.rule, p.path.clone())).collect::<Vec<_>>();
    assert_eq!(names(&backward), names(&forward), "FORWARD is BACKWARD with the sides exchanged");
    assert_eq!(backward.compatible, backward.problems.is_empty());
    backward.problems.iter().map(|problem| problem.rule).collect()
}

fn record(fields: Value) -> Value {
    json!({"type": "record", "name": "Order", "namespace": "shop", "fields": fields})
}

#[test]
fn avro_resolution() {
    const OK: &[&str] = &[];
    let id = json!({"name": "id", "type": "long"});
    let enumeration = |symbols: Value, default: Value| {
        let mut schema = json!({"type": "enum", "name": "State", "symbols": symbols});
        if !default.is_null() {
            schema["default"] = default;
        }
        schema
    };
    let fixed = |name: &str, size: u32| json!({"type": "fixed", "name": name, "size": size});
    let decimal = |p: u32, s: u32| json!({"type": "bytes", "logicalType": "decimal", "precision": p, "scale": s});
    let list = |tail: Value| json!({"type": "record", "name": "Node", "fields": [{"name": "value", "type": tail}, {"name": "next", "type": ["null", "Node"], "default": null}]});
    let cases: Vec<(&str, Value, Value, &[&str])> = vec![
        (
            "a field with a default is added",
            record(json!([id, {"name": "n", "type": "int", "default": 0}])),
            record(json!([id])),
            OK,
        ),
        (
            "a field without one is added",
            record(json!([id, {"name": "n", "type": "int"}])),
            record(json!([id])),
            &["READER_FIELD_MISSING_DEFAULT_VALUE"],
        ),
        (
            "nullable is not a default",
            record(json!([id, {"name": "n", "type": ["null", "int"]}])),
            record(json!([id])),
            &["READER_FIELD_MISSING_DEFAULT_VALUE"],
        ),
        (
            "a default of null is one",
            record(json!([id, {"name": "n", "type": ["null", "int"], "default": null}])),
            record(json!([id])),
            OK,
        ),
        ("a field is removed", record(json!([])), record(json!([id])), OK),
        ("int to long", json!("long"), json!("int"), OK),
        ("int to float", json!("float"), json!("int"), OK),
        ("int to double", json!("double"), json!("int"), OK),
        ("long to float", json!("float"), json!("long"), OK),
        ("float to double", json!("double"), json!("float"), OK),
        ("string to bytes", json!("bytes"), json!("string"), OK),
        ("bytes to string", json!("string"), json!("bytes"), OK),
        ("long to int", json!("int"), json!("long"), &["TYPE_MISMATCH"]),
        ("double to float", json!("float"), json!("double"), &["TYPE_MISMATCH"]),
        ("double to long", json!("long"), json!("double"), &["TYPE_MISMATCH"]),
        ("int to string", json!("string"), json!("int"), &["TYPE_MISMATCH"]),
        ("boolean to int", json!("int"), json!("boolean"), &["TYPE_MISMATCH"]),
        ("a union takes one of its types", json!(["null", "long"]), json!("int"), OK),
        ("a union loses a type", json!(["null", "long"]), json!(["null", "long", "string"]), &["MISSING_UNION_BRANCH"]),
        ("a union gains a type", json!(["null", "long", "string"]), json!(["null", "long"]), OK),
        ("a union becomes a type", json!("long"), json!(["null", "long"]), &["TYPE_MISMATCH"]),
        ("a union of types that are promoted", json!("double"), json!(["int", "long"]), OK),
        (
            "an array's items are promoted",
            json!({"type": "array", "items": "long"}),
            json!({"type": "array", "items": "int"}),
            OK,
        ),
        (
            "an array's items are not",
            json!({"type": "array", "items": "int"}),
            json!({"type": "array", "items": "long"}),
            &["TYPE_MISMATCH"],
        ),
        (
            "a map's values are not",
            json!({"type": "map", "values": "int"}),
            json!({"type": "map", "values": "long"}),
            &["TYPE_MISMATCH"],
        ),
        (
            "an enum gains a symbol",
            enumeration(json!(["A", "B"]), Value::Null),
            enumeration(json!(["A"]), Value::Null),
            OK,
        ),
        (
            "an enum loses a symbol",
            enumeration(json!(["A"]), Value::Null),
            enumeration(json!(["A", "B"]), Value::Null),
            &["MISSING_ENUM_SYMBOLS"],
        ),
        (
            "an enum loses a symbol and has a default",
            enumeration(json!(["A"]), json!("A")),
            enumeration(json!(["A", "B"]), Value::Null),
            OK,
        ),
        ("a fixed of another size", fixed("F", 8), fixed("F", 4), &["FIXED_SIZE_MISMATCH"]),
        ("a fixed of another name", fixed("F", 4), fixed("G", 4), &["NAME_MISMATCH"]),
        (
            "another namespace is no other name",
            json!({"type": "record", "name": "b.Order", "fields": []}),
            json!({"type": "record", "name": "a.Order", "fields": []}),
            OK,
        ),
        (
            "another name",
            json!({"type": "record", "name": "Other", "fields": []}),
            record(json!([])),
            &["NAME_MISMATCH"],
        ),
        (
            "another name with an alias",
            json!({"type": "record", "name": "Other", "aliases": ["shop.Order"], "fields": []}),
            record(json!([])),
            OK,
        ),
        (
            "a field is renamed with an alias",
            record(json!([{"name": "key", "aliases": ["id"], "type": "long"}])),
            record(json!([id])),
            OK,
        ),
        (
            "a field is renamed without",
            record(json!([{"name": "key", "type": "long"}])),
            record(json!([id])),
            &["READER_FIELD_MISSING_DEFAULT_VALUE"],
        ),
        ("a type that holds itself", list(json!("long")), list(json!("int")), OK),
        ("a type that holds itself and narrows", list(json!("int")), list(json!("long")), &["TYPE_MISMATCH"]),
        ("a decimal of another scale", decimal(10, 4), decimal(10, 2), &["LOGICAL_TYPE_MISMATCH"]),
        ("a decimal of more digits", decimal(12, 2), decimal(10, 2), OK),
        (
            "a time of another unit",
            json!({"type": "long", "logicalType": "timestamp-micros"}),
            json!({"type": "long", "logicalType": "timestamp-millis"}),
            &["LOGICAL_TYPE_MISMATCH"],
        ),
        ("a logical type is added", json!({"type": "long", "logicalType": "timestamp-micros"}), json!("long"), OK),
        ("a record is a map", json!({"type": "map", "values": "long"}), record(json!([id])), &["TYPE_MISMATCH"]),
        ("a wrapped type", json!({"type": {"type": "long"}}), json!("int"), OK),
    ];
    for (what, reader, writer, broken) in cases {
        assert_eq!(rules(Kind::Avro, &reader, &writer), broken, "{what}: {reader} reads {writer}");
    }
}

#[test]
fn avro_problems_name_their_place() {
    let address = |zip: &str| json!({"type": "record", "name": "Address", "fields": [{"name": "zip", "type": zip}]});
    let order = |zip: &str| {
        record(
            json!([{"name": "ship_to", "type": ["null", {"type": "array", "items": address(zip)}], "default": null}]),
        )
    };
    let report = judge(Level::Backward, Kind::Avro, &order("int"), &[order("string")]);
    assert_eq!(report.problems[0].path, "ship_to[].zip");
    assert!(report.problems[0].message.contains("int") && report.problems[0].message.contains("string"));
}

#[test]
fn what_is_no_avro_schema_is_refused() {
    for (schema, says) in [
        (json!(5), "not a type"),
        (json!("shop.Missing"), "no type is called"),
        (json!({"type": "record", "fields": []}), "\"name\""),
        (json!({"type": "record", "name": "9a", "fields": []}), "not a name"),
        (json!({"type": "record", "name": "R"}), "\"fields\""),
        (json!(["int", "int"]), "each type once"),
        (json!(["int", ["null"]]), "no union"),
        (json!({"type": "enum", "name": "E", "symbols": ["A", "A"]}), "twice"),
        (json!({"type": "enum", "name": "E", "symbols": ["A"], "default": "B"}), "none of its symbols"),
        (json!({"type": "fixed", "name": "F"}), "size"),
        (record(json!([{"name": "n", "type": "int", "default": "zero"}])), "default"),
        (record(json!([{"name": "n", "type": "int"}, {"name": "n", "type": "int"}])), "two fields"),
    ] {
        let error = compatibility(Level::Backward, Kind::Avro, &schema, &[json!("int")]).unwrap_err();
        assert!(error.message().contains(says), "{schema}: {error}");
    }
    let mut deep = json!("int");
    for _ in 0..500 {
        deep = json!({"type": "array", "items": deep});
    }
    assert!(compatibility(Level::Backward, Kind::Avro, &deep, &[]).is_err());
}

#[test]
fn levels_say_who_reads_whom() {
    let (int, long) = (json!("int"), json!("long"));
    let fits = |level: Level, new: &Value, earlier: &[Value]| judge(level, Kind::Avro, new, earlier).compatible;
    assert!(fits(Level::Backward, &long, &[int.clone()]) && !fits(Level::Backward, &int, &[long.clone()]));
    assert!(fits(Level::Forward, &int, &[long.clone()]) && !fits(Level::Forward, &long, &[int.clone()]));
    assert!(!fits(Level::Full, &long, &[int.clone()]) && fits(Level::Full, &long, &[long.clone()]));
    assert!(fits(Level::None, &int, &[json!("string")]));
    // The newest comes first: the others count for the transitive levels alone.
    let earlier = [long.clone(), json!("string")];
    assert!(fits(Level::Backward, &long, &earlier) && !fits(Level::BackwardTransitive, &long, &earlier));
    assert!(fits(Level::Forward, &long, &earlier) && !fits(Level::ForwardTransitive, &long, &earlier));
    assert!(fits(Level::Full, &long, &earlier) && !fits(Level::FullTransitive, &long, &earlier));
    let report = judge(Level::FullTransitive, Kind::Avro, &long, &earlier);
    assert_eq!((report.checked, report.problems[0].against), (2, 1));
    assert!(fits(Level::FullTransitive, &long, &[]), "a first schema is compatible");
}

#[test]
fn json_schema_rules() {
    const OK: &[&str] = &[];
    let object = |properties: Value| json!({"type": "object", "properties": properties});
    let closed = |properties: Value| json!({"type": "object", "properties": properties, "additionalProperties": false});
    let (s, n, i) = (json!({"type": "string"}), json!({"type": "number"}), json!({"type": "integer"}));
    let cases: Vec<(&str, Value, Value, &[&str])> = vec![
        (
            "added to an open model",
            object(json!({"a": s, "b": s})),
            object(json!({"a": s})),
            &["PROPERTY_ADDED_TO_OPEN_CONTENT_MODEL"],
        ),
        ("added without a schema to an open model", object(json!({"a": s, "b": {}})), object(json!({"a": s})), OK),
        ("added to a closed model", closed(json!({"a": s, "b": s})), closed(json!({"a": s})), OK),
        ("removed from an open model", object(json!({"a": s})), object(json!({"a": s, "b": s})), OK),
        (
            "removed from a closed model",
            closed(json!({"a": s})),
            closed(json!({"a": s, "b": s})),
            &["PROPERTY_REMOVED_FROM_CLOSED_CONTENT_MODEL"],
        ),
        ("a model is closed", closed(json!({"a": s})), object(json!({"a": s})), &["ADDITIONAL_PROPERTIES_REMOVED"]),
        ("a model is opened", object(json!({"a": s})), closed(json!({"a": s})), OK),
        (
            "covered by a partially open model",
            json!({"type": "object", "properties": {"b": n}, "additionalProperties": n}),
            json!({"type": "object", "additionalProperties": i}),
            OK,
        ),
        (
            "not covered by a partially open model",
            json!({"type": "object", "properties": {"b": s}, "additionalProperties": n}),
            json!({"type": "object", "additionalProperties": i}),
            &["PROPERTY_ADDED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL"],
        ),
        ("removed and covered", json!({"type": "object", "additionalProperties": n}), closed(json!({"a": i})), OK),
        (
            "removed and not covered",
            json!({"type": "object", "additionalProperties": n}),
            closed(json!({"a": s})),
            &["PROPERTY_REMOVED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL"],
        ),
        (
            "required is added",
            json!({"type": "object", "properties": {"a": s}, "required": ["a"]}),
            object(json!({"a": s})),
            &["REQUIRED_ATTRIBUTE_ADDED"],
        ),
        (
            "required is added with a default",
            json!({"type": "object", "properties": {"a": {"type": "string", "default": "x"}}, "required": ["a"]}),
            object(json!({"a": s})),
            OK,
        ),
        (
            "required is removed",
            object(json!({"a": s})),
            json!({"type": "object", "properties": {"a": s}, "required": ["a"]}),
            OK,
        ),
        (
            "a required property is added to a closed model",
            json!({"type": "object", "properties": {"a": s}, "required": ["a"], "additionalProperties": false}),
            closed(json!({})),
            &["REQUIRED_PROPERTY_ADDED_TO_UNOPEN_CONTENT_MODEL"],
        ),
        ("integer to number", n.clone(), i.clone(), OK),
        ("number to integer", i.clone(), n.clone(), &["TYPE_NARROWED"]),
        ("string to number", n.clone(), s.clone(), &["TYPE_CHANGED"]),
        ("a type is added", json!({"type": ["string", "null"]}), s.clone(), OK),
        ("a type is removed", s.clone(), json!({"type": ["string", "null"]}), &["TYPE_NARROWED"]),
        ("no type at all is every type", s.clone(), json!({}), &["TYPE_NARROWED"]),
        ("an enum gains a value", json!({"enum": ["a", "b"]}), json!({"enum": ["a"]}), OK),
        ("an enum loses a value", json!({"enum": ["a"]}), json!({"enum": ["a", "b"]}), &["ENUM_ARRAY_NARROWED"]),
        ("an enum is added", json!({"type": "string", "enum": ["a"]}), s.clone(), &["ENUM_ARRAY_NARROWED"]),
        ("an enum is removed", s.clone(), json!({"type": "string", "enum": ["a"]}), OK),
        ("an enum's values fit a bound", json!({"type": "integer", "maximum": 5}), json!({"enum": [1, 5]}), OK),
        (
            "an enum's values pass a bound",
            json!({"type": "integer", "maximum": 4}),
            json!({"enum": [1, 5]}),
            &["TYPE_NARROWED"],
        ),
        ("a constant becomes another", json!({"const": 2}), json!({"const": 1}), &["TYPE_NARROWED"]),
        ("maxLength grows", json!({"type": "string", "maxLength": 20}), json!({"type": "string", "maxLength": 10}), OK),
        (
            "maxLength shrinks",
            json!({"type": "string", "maxLength": 10}),
            json!({"type": "string", "maxLength": 20}),
            &["MAX_LENGTH_DECREASED"],
        ),
        ("maxLength is added", json!({"type": "string", "maxLength": 10}), s.clone(), &["MAX_LENGTH_ADDED"]),
        (
            "minLength grows",
            json!({"type": "string", "minLength": 2}),
            json!({"type": "string", "minLength": 1}),
            &["MIN_LENGTH_INCREASED"],
        ),
        ("minLength of nothing", json!({"type": "string", "minLength": 0}), s.clone(), OK),
        ("a length of numbers is nobody's", json!({"type": "integer", "maxLength": 3}), i.clone(), OK),
        ("a pattern is added", json!({"type": "string", "pattern": "^a"}), s.clone(), &["PATTERN_ADDED"]),
        (
            "a pattern changes",
            json!({"type": "string", "pattern": "^a"}),
            json!({"type": "string", "pattern": "^b"}),
            &["PATTERN_CHANGED"],
        ),
        ("a pattern is removed", s.clone(), json!({"type": "string", "pattern": "^b"}), OK),
        ("a minimum falls", json!({"type": "number", "minimum": 0}), json!({"type": "number", "minimum": 1}), OK),
        (
            "a minimum rises",
            json!({"type": "number", "minimum": 1}),
            json!({"type": "number", "minimum": 0}),
            &["MINIMUM_INCREASED"],
        ),
        ("a maximum is added", json!({"type": "number", "maximum": 1}), n.clone(), &["MAXIMUM_ADDED"]),
        (
            "a maximum becomes exclusive",
            json!({"type": "number", "exclusiveMaximum": 1}),
            json!({"type": "number", "maximum": 1}),
            &["MAXIMUM_DECREASED"],
        ),
        (
            "a maximum as draft 4 excludes it",
            json!({"type": "number", "maximum": 1, "exclusiveMaximum": true}),
            json!({"type": "number", "maximum": 1}),
            &["MAXIMUM_DECREASED"],
        ),
        (
            "whole numbers above 0 are at least 1",
            json!({"type": "integer", "minimum": 1}),
            json!({"type": "integer", "exclusiveMinimum": 0}),
            OK,
        ),
        (
            "multiples of a divisor",
            json!({"type": "integer", "multipleOf": 5}),
            json!({"type": "integer", "multipleOf": 10}),
            OK,
        ),
        (
            "multiples of another",
            json!({"type": "integer", "multipleOf": 10}),
            json!({"type": "integer", "multipleOf": 5}),
            &["MULTIPLE_OF_CHANGED"],
        ),
        ("items widen", json!({"type": "array", "items": n}), json!({"type": "array", "items": i}), OK),
        (
            "items narrow",
            json!({"type": "array", "items": i}),
            json!({"type": "array", "items": n}),
            &["TYPE_NARROWED"],
        ),
        (
            "maxItems shrinks",
            json!({"type": "array", "maxItems": 1}),
            json!({"type": "array", "maxItems": 2}),
            &["MAX_ITEMS_DECREASED"],
        ),
        (
            "items become unique",
            json!({"type": "array", "uniqueItems": true}),
            json!({"type": "array"}),
            &["UNIQUE_ITEMS_ADDED"],
        ),
        (
            "a place is added to a closed tuple",
            json!({"type": "array", "items": [s, i], "additionalItems": false}),
            json!({"type": "array", "items": [s], "additionalItems": false}),
            OK,
        ),
        (
            "a place is removed from a closed tuple",
            json!({"type": "array", "items": [s], "additionalItems": false}),
            json!({"type": "array", "items": [s, i], "additionalItems": false}),
            &["SCHEMA_NARROWED"],
        ),
        (
            "words change",
            json!({"type": "string", "title": "b", "description": "c", "default": "d", "format": "e"}),
            json!({"type": "string", "title": "a"}),
            OK,
        ),
        ("false takes nothing", json!(false), json!({"type": "string"}), &["SCHEMA_NARROWED"]),
        ("everything takes all", json!({}), json!({"type": "string"}), OK),
        ("nothing is taken by all", s.clone(), json!(false), OK),
        ("anyOf gains a branch", json!({"anyOf": [s, i, {"type": "null"}]}), json!({"anyOf": [s, i]}), OK),
        ("anyOf loses a branch", json!({"anyOf": [s]}), json!({"anyOf": [s, i]}), &["SUM_TYPE_NARROWED"]),
        ("a type becomes one of anyOf", json!({"anyOf": [s, {"type": "null"}]}), s.clone(), OK),
        ("types become branches", json!({"anyOf": [s, {"type": "null"}]}), json!({"type": ["string", "null"]}), OK),
        ("oneOf gains a branch apart", json!({"oneOf": [s, i]}), s.clone(), OK),
        ("oneOf gains a branch that overlaps", json!({"oneOf": [n, i]}), n.clone(), &["SUM_TYPE_NARROWED"]),
        (
            "oneOf told apart by a constant",
            json!({"oneOf": [
                {"type": "object", "properties": {"kind": {"const": "a"}}, "required": ["kind"]},
                {"type": "object", "properties": {"kind": {"const": "b"}}, "required": ["kind"]}]}),
            json!({"type": "object", "properties": {"kind": {"const": "a"}}, "required": ["kind"]}),
            OK,
        ),
        ("allOf gains a branch", json!({"allOf": [s, {"maxLength": 5}]}), s.clone(), &["MAX_LENGTH_ADDED"]),
        ("allOf loses a branch", s.clone(), json!({"allOf": [s, {"maxLength": 5}]}), OK),
        (
            "allOf says what the schema says",
            json!({"type": "string", "maxLength": 5}),
            json!({"allOf": [s, {"maxLength": 5}]}),
            OK,
        ),
        ("not is added", json!({"type": "string", "not": {"const": "x"}}), s.clone(), &["NOT_TYPE_EXTENDED"]),
        ("not is removed", s.clone(), json!({"type": "string", "not": {"const": "x"}}), OK),
        ("not refuses less", json!({"not": {"type": "integer"}}), json!({"not": {"type": "number"}}), OK),
        ("not refuses another type", json!({"type": "string", "not": {"type": "integer"}}), s.clone(), OK),
        ("if is added", json!({"if": {"type": "string"}, "then": {"maxLength": 3}}), s.clone(), &["NOT_UNDERSTOOD"]),
        (
            "if is kept",
            json!({"title": "b", "if": {"type": "string"}, "then": {"maxLength": 3}}),
            json!({"title": "a", "if": {"type": "string"}, "then": {"maxLength": 3}}),
            OK,
        ),
        ("if is removed", json!({}), json!({"if": {"type": "string"}, "then": {"maxLength": 3}}), OK),
        (
            "dependencies are added",
            json!({"type": "object", "dependentRequired": {"a": ["b"]}}),
            json!({"type": "object"}),
            &["NOT_UNDERSTOOD"],
        ),
        (
            "unevaluated properties are closed",
            json!({"type": "object", "unevaluatedProperties": false}),
            json!({"type": "object"}),
            &["NOT_UNDERSTOOD"],
        ),
        ("a reference elsewhere", json!({"$ref": "https://example.com/other.json"}), s.clone(), &["NOT_UNDERSTOOD"]),
        (
            "a pattern of names is kept",
            json!({"type": "object", "patternProperties": {"^x-": n}}),
            json!({"type": "object", "patternProperties": {"^x-": i}}),
            OK,
        ),
        (
            "a pattern of names narrows",
            json!({"type": "object", "patternProperties": {"^x-": i}}),
            json!({"type": "object", "patternProperties": {"^x-": n}}),
            &["TYPE_NARROWED"],
        ),
        (
            "a pattern of names is added",
            json!({"type": "object", "patternProperties": {"^x-": i}}),
            json!({"type": "object"}),
            &["TYPE_NARROWED"],
        ),
    ];
    for (what, reader, writer, broken) in cases {
        assert_eq!(rules(Kind::Json, &reader, &writer), broken, "{what}: {reader} reads {writer}");
        assert_eq!(rules(Kind::Json, &reader, &reader), OK, "{what}: {reader} reads itself");
    }
}

#[test]
fn json_references_are_followed_and_may_turn_round() {
    let tree = |value: &str| {
        json!({"$schema": "http://json-schema.org/draft-07/schema#",
            "definitions": {"node": {"type": "object", "additionalProperties": false,
                "properties": {"value": {"type": value}, "next": {"$ref": "#/definitions/node"}}}},
            "$ref": "#/definitions/node"})
    };
    assert_eq!(rules(Kind::Json, &tree("number"), &tree("integer")), [] as [&str; 0]);
    assert_eq!(rules(Kind::Json, &tree("integer"), &tree("number")), ["TYPE_NARROWED"]);
    // The same words, and other definitions behind them.
    let with = |definition: Value| json!({"$defs": {"t": definition}, "properties": {"a": {"$ref": "#/$defs/t"}}});
    let (reader, writer) = (with(json!({"type": "string", "maxLength": 1})), with(json!({"type": "string"})));
    assert_eq!(rules(Kind::Json, &reader, &writer), ["MAX_LENGTH_ADDED"]);
    assert_eq!(rules(Kind::Json, &json!({"$ref": "#"}), &json!({"$ref": "#"})), [] as [&str; 0]);
    let report =
        judge(Level::Backward, Kind::Json, &with(json!({"type": "integer"})), &[with(json!({"type": "string"}))]);
    assert_eq!((report.problems[0].path.as_str(), report.problems[0].rule), ("a", "TYPE_CHANGED"));
}

#[test]
fn what_is_no_json_schema_is_refused() {
    for schema in [
        json!(5),
        json!({"type": "text"}),
        json!({"properties": []}),
        json!({"anyOf": {}}),
        json!({"maxLength": -1}),
        json!({"properties": {"a": {"minimum": "0"}}}),
        json!({"required": [1]}),
    ] {
        assert!(compatibility(Level::Backward, Kind::Json, &schema, &[]).is_err(), "{schema}");
        assert!(compatibility(Level::Backward, Kind::Json, &json!({}), &[schema.clone()]).is_err(), "{schema}");
    }
}

/// Small values, small schemas: whenever the rules say that a reader takes what a writer takes, no value says otherwise.
#[test]
fn what_is_called_compatible_is() {
    let atoms: Vec<Value> = [
        json!({"type": "integer"}),
        json!({"type": "number", "minimum": 1}),
        json!({"type": "string", "maxLength": 2}),
        json!({"type": ["string", "null"]}),
        json!({"enum": [1, "a"]}),
        json!({"const": null}),
        json!({}),
        json!(false),
        json!({"type": "integer", "exclusiveMaximum": 3}),
        json!({"type": "string", "minLength": 1}),
    ]
    .to_vec();
    let mut schemas = atoms.clone();
    for a in &atoms {
        schemas.push(json!({"not": a}));
        for b in &atoms {
            for key in ["anyOf", "oneOf", "allOf"] {
                schemas.push(json!({ key: [a, b] }));
            }
        }
    }
    let values = [
        json!(null),
        json!(true),
        json!(0),
        json!(1),
        json!(2),
        json!(3),
        json!(1.5),
        json!(""),
        json!("a"),
        json!("abc"),
        json!([]),
        json!({}),
    ];
    let mut compatible = 0;
    for (i, reader) in schemas.iter().enumerate() {
        // All pairs would be a hundred thousand: each reader meets every seventh writer, each time other ones.
        for writer in schemas.iter().skip(i % 7).step_by(7) {
            if !judge(Level::Backward, Kind::Json, reader, &[writer.clone()]).compatible {
                continue;
            }
            compatible += 1;
            for value in &values {
                assert!(!valid(writer, value) || valid(reader, value), "{value}: {reader} reads {writer}");
            }
        }
    }
    assert!(compatible > 500, "{compatible}");
}

/// A validator of its own, for the keywords above.
fn valid(schema: &Value, value: &Value) -> bool {
    let Some(object) = schema.as_object() else { return schema == &json!(true) };
    let is = |name: &str| match name {
        "null" => value.is_null(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        _ => value.is_i64(),
    };
    object.iter().all(|(key, asked)| match key.as_str() {
        "type" => match asked {
            Value::Array(names) => names.iter().any(|name| is(name.as_str().unwrap())),
            name => is(name.as_str().unwrap()),
        },
        "minimum" => value.as_f64().is_none_or(|n| n >= asked.as_f64().unwrap()),
        "exclusiveMaximum" => value.as_f64().is_none_or(|n| n < asked.as_f64().unwrap()),
        "maxLength" => value.as_str().is_none_or(|s| s.len() as u64 <= asked.as_u64().unwrap()),
        "minLength" => value.as_str().is_none_or(|s| s.len() as u64 >= asked.as_u64().unwrap()),
        "enum" => asked.as_array().unwrap().contains(value),
        "const" => asked == value,
        "not" => !valid(asked, value),
        "allOf" => asked.as_array().unwrap().iter().all(|s| valid(s, value)),
        "anyOf" => asked.as_array().unwrap().iter().any(|s| valid(s, value)),
        _ => asked.as_array().unwrap().iter().filter(|s| valid(s, value)).count() == 1,
    })
}

#[test]
fn a_change_of_a_topic_says_what_the_registry_would() {
    use std::sync::Arc;

    use dpone_kafka::KafkaDialect;
    use dpone_planner::Relation;
    use dpone_planner::dialect::Dialect;
    use dpone_planner::schema::{DEFAULT, Risk, SchemaChange, TableFacts};

    let said = |level: Level, change: &SchemaChange| {
        let dialect = KafkaDialect { level, kind: Kind::Avro };
        let table = Relation::new("shop", "orders");
        let cost = dialect.cost(&table, &TableFacts::default(), change);
        assert_eq!((cost.risk, cost.lock), (Risk::Unsupported, None));
        assert!(dialect.render(&table, change).is_err(), "no statement is ever made");
        match (cost.reason.contains("is compatible"), cost.reason.contains("is incompatible")) {
            (true, false) => true,
            (false, true) => false,
            _ => unreachable!("{}", cost.reason),
        }
    };
    let column = |name: &str, dtype: &str, nullable: bool| {
        Arc::new(KafkaDialect::default().parse_type(name, dtype).unwrap().with_nullable(nullable))
    };
    let with_default = |default: &str| {
        let field = column("n", "int", false).as_ref().clone();
        Arc::new(field.with_metadata([(DEFAULT.to_owned(), default.to_owned())].into()))
    };
    let add = |column| SchemaChange::AddColumn { column };
    let (int, long) = (column("n", "int", false), column("n", "long", false));
    for (change, backward, forward) in [
        (add(column("n", "int", true)), true, true),
        (add(column("n", "int", false)), false, true),
        (add(with_default("0")), true, true),
        (SchemaChange::DropColumn { column: int.clone() }, true, false),
        (SchemaChange::DropColumn { column: column("n", "int", true) }, true, true),
        (SchemaChange::AlterType { from: int.clone(), to: long.clone() }, true, false),
        (SchemaChange::AlterType { from: long, to: int.clone() }, false, true),
        (SchemaChange::DropNotNull { column: int.clone() }, true, false),
        (SchemaChange::SetNotNull { column: int.clone() }, false, true),
        (SchemaChange::RenameColumn { from: int.clone(), to: "m".into() }, true, false),
        (
            SchemaChange::AlterType {
                from: column("d", "decimal(10,2)", false),
                to: column("d", "decimal(10,4)", false),
            },
            false,
            false,
        ),
    ] {
        assert_eq!((said(Level::Backward, &change), said(Level::Forward, &change)), (backward, forward), "{change:?}");
        assert_eq!(said(Level::Full, &change), backward && forward, "{change:?}");
    }
    // A name that Avro does not have is no field.
    let change = add(column("a b", "int", true));
    let cost = KafkaDialect::default().cost(&Relation::new("s", "t"), &TableFacts::default(), &change);
    assert!(cost.reason.contains("no name of a field in Avro"), "{}", cost.reason);
}
