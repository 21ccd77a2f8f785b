//! The examples of the reference work as they are printed.

use super::*;

const YAML: &str = include_str!("../../../../docs/definitions-yaml.md");
const SQL: &str = include_str!("../../../../docs/definitions-sql.md");

fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    page.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn every_example_loads() {
    let vars = [("from", "2013-01-01"), ("to", "2013-02-01")];
    let (yaml, sql) = (blocks(YAML, "yaml"), blocks(SQL, "sql"));
    assert_eq!((yaml.len(), sql.len()), (3, 2));
    for (name, text) in yaml.iter().map(|text| ("m.yml", text)).chain(sql.iter().map(|text| ("p.sql", text))) {
        let project = load_with(&[(name, text)], &vars, &no_files).unwrap_or_else(|error| panic!("{error:?}\n{text}"));
        assert!(!project.pipelines.is_empty());
        assert!(project.pipelines.iter().all(|pipeline| pipeline.warnings.is_empty()), "{text}");
    }
}

#[test]
fn the_reference_names_every_key_of_a_manifest() {
    let schema = json_schema(SchemaKind::Single);
    for definition in ["", "/$defs/StrategySpec", "/$defs/SinkOptions"] {
        let properties = schema.pointer(&format!("{definition}/properties")).and_then(|p| p.as_object()).unwrap();
        for key in properties.keys() {
            // Those belong to systems with a page of their own.
            let elsewhere = ["message_format", "envelope", "key", "delivery", "deletes", "schema_registry"];
            let modes = ["mutations_sync", "partition", "diff", "scd2", "cdc", "backfill", "atomicity"];
            if elsewhere.contains(&key.as_str()) || modes.contains(&key.as_str()) {
                continue;
            }
            assert!(YAML.contains(key.as_str()), "{definition}: {key} is not documented");
        }
    }
}
