//! Names of Delta's types, and which of them holds the values of two.
#![allow(clippy::unwrap_used)]

use dpone_planner::dialect::Dialect;
use dpone_planner::schema::{Fit, fit};

use dpone_delta::DeltaDialect;

#[test]
fn types_are_read_in_all_their_spellings() {
    for (written, canonical) in [
        ("byte", "byte"),
        ("smallint", "short"),
        ("int", "integer"),
        ("bigint", "long"),
        ("float", "float"),
        ("double precision", "double"),
        ("decimal(18,2)", "decimal(18,2)"),
        ("numeric(18, 2)", "decimal(18,2)"),
        ("timestamp", "timestamp"),
        ("timestamp_ntz", "timestamp_ntz"),
        ("timestamptz", "timestamp"),
        ("varchar(20)", "string"),
        ("uuid", "string"),
        ("array<int>", "array<integer>"),
        ("struct<a: integer, b: array<string>>", "struct<a: integer, b: array<string>>"),
        ("text[]", "array<string>"),
    ] {
        let field = DeltaDialect.parse_type("c", written).unwrap();
        assert_eq!(DeltaDialect.native_type(&field).unwrap(), canonical, "{written}");
    }
    for wrong in ["decimal(39,0)", "interval", "int; drop", "map<int>", ""] {
        assert!(DeltaDialect.parse_type("c", wrong).is_err(), "{wrong}");
    }
}

#[test]
fn which_type_holds_the_values_of_both() {
    for (source, target, want) in [
        ("int", "long", "="),
        ("long", "int", "long"),
        ("float", "double", "="),
        ("decimal(10,2)", "decimal(12,4)", "="),
        ("decimal(12,2)", "decimal(10,4)", "decimal(14,4)"),
        ("uuid", "string", "="),
        ("timestamp_ntz", "timestamp", "none"),
        ("date", "timestamp_ntz", "="),
        ("timestamp_ntz", "date", "timestamp_ntz"),
        ("long", "double", "none"),
        ("int", "string", "none"),
    ] {
        let shape = |name: &str| DeltaDialect.shape(&DeltaDialect.parse_type("c", name).unwrap());
        let got = match fit(&shape(source), &shape(target)) {
            Fit::Same | Fit::Narrower => "=".to_owned(),
            Fit::Incompatible => "none".to_owned(),
            Fit::Wider(join) => DeltaDialect.native_type(&DeltaDialect.field_of("c", &join).unwrap()).unwrap(),
        };
        assert_eq!(got, want, "{source} into {target}");
    }
}
