//! Batch manifests: merging, naming, selectors.

use super::*;
use crate::relation::Relation;

fn batch(text: &str) -> Vec<Pipeline> {
    project(&[("etl/batch.yml", text)]).pipelines
}

const HEAD: &str = "kind: dpone.batch.v1
vars: {src_system: Shop, src_database: core}
defaults:
  source: {type: postgres, connection_type: env, connection_id: SRC}
  sink: {type: postgres, connection_type: env, connection_id: DWH, strategy: {mode: full_refresh}}
";

#[test]
fn the_example_of_the_contract_becomes_two_pipelines() {
    let pipelines = batch(include_str!("examples/batch.yml"));
    let [customers, orders] = pipelines.as_slice() else { panic!("{}", pipelines.len()) };
    assert_eq!(
        (customers.name.as_str(), customers.selector.as_deref()),
        ("public_customers", Some("public.customers"))
    );
    assert_eq!((orders.name.as_str(), orders.selector.as_deref()), ("public_orders", Some("orders")));
    assert_eq!(customers.sink.relation, Relation::new("landing", "public__customers"));
    assert_eq!(customers.strategy.name(), "full_refresh");
    assert_eq!(orders.strategy.key(), ["id"]);
    assert_eq!(orders.strategy.cursor().unwrap().column, "updated_at");
    assert!(
        matches!(&orders.source.query, SourceQuery::Table { relation, .. } if *relation == Relation::new("public", "orders"))
    );
    assert_eq!(orders.location.line, 18);
}

#[test]
fn the_built_in_convention_names_everything() {
    let text = format!("{HEAD}convention: landing_raw_v1\nschemas: {{Sales: {{tables: [OrderLines]}}}}\n");
    let pipeline = &batch(&text)[0];
    assert_eq!(pipeline.name, "sales_order_lines__full_refresh");
    assert_eq!(pipeline.sink.relation, Relation::new("landing__shop__core", "sales__order_lines"));
    assert!(pipeline.warnings.is_empty());
}

#[test]
fn inner_layers_win_maps_merge_and_lists_replace() {
    let text = "kind: dpone.batch.v1
vars: {level: root}
defaults:
  description: root
  source: {type: postgres, connection_type: env, connection_id: SRC, options: {batch_size: 1000, exclude_columns: [a, b], null_cursor: fail, incremental_column: at}}
  sink: {type: postgres, connection_type: env, connection_id: DWH, table: {schema: s, name: '${level}'}, strategy: {mode: incremental_merge, unique_key: [x]}}
schemas:
  one:
    vars: {level: schema}
    defaults: {description: schema, source: {options: {batch_size: 2000, exclude_columns: [c]}}}
    tables:
      - plain
      - table: special
        vars: {level: table}
        overrides: {source: {options: {batch_size: 3000, incremental_column: null, null_cursor: null}}, sink: {strategy: {unique_key: [y, z]}}}
  two:
    tables: [other]
";
    let pipelines = batch(text);
    let facts: Vec<_> = pipelines
        .iter()
        .map(|p| {
            let excluded = p.source.read.exclude_columns.join(",");
            let cursor = p.strategy.cursor().map(|c| c.column.as_str());
            (
                p.name.as_str(),
                p.description.as_deref().unwrap(),
                p.tuning.batch_rows.unwrap(),
                excluded,
                p.sink.relation.name.as_str(),
                p.strategy.key().join(","),
                cursor,
            )
        })
        .collect();
    assert_eq!(
        facts,
        [
            ("one_plain", "schema", 2000, "c".to_owned(), "schema", "x".to_owned(), Some("at")),
            ("one_special", "schema", 3000, "c".to_owned(), "table", "y,z".to_owned(), None),
            ("two_other", "root", 1000, "a,b".to_owned(), "root", "x".to_owned(), Some("at")),
        ]
    );
}

#[test]
fn a_convention_file_comes_first_and_the_command_line_last() {
    let convention = "vars: {layer: bronze, owner: nobody}
naming: {process_name: '{{ vars.layer }}_{{ src_table }}', sink_dataset: '{{ vars.layer }}', sink_table: '{{ src_table | upper }}'}
defaults: {description: from the convention, source: {options: {batch_size: 500}}}
";
    let reader = |path: &Path| {
        assert_eq!(path, Path::new("etl/conventions/bronze.yml"));
        Ok(convention.to_owned())
    };
    let text = format!(
        "{HEAD}conventions: [conventions/bronze.yml]\nnaming: {{sink_table: 't_{{{{ src_table }}}}'}}\nschemas: {{public: {{tables: [orders]}}}}\n"
    );
    let files = [("etl/batch.yml", text.as_str())];
    let one = |vars: &[(&str, &str)]| load_with(&files, vars, &reader).unwrap().pipelines.remove(0);
    let pipeline = one(&[]);
    assert_eq!(pipeline.name, "bronze_orders");
    assert_eq!(pipeline.sink.relation, Relation::new("bronze", "t_orders"));
    assert_eq!(pipeline.tuning.batch_rows, Some(500));
    assert_eq!(one(&[("layer", "silver")]).name, "silver_orders");
}

#[test]
fn what_is_named_explicitly_keeps_its_name() {
    let text = format!(
        "{HEAD}naming: {{process_name: 'p_{{{{ src_table }}}}', sink_dataset: d, sink_table: t}}
schemas:
  public:
    tables:
      - {{table: a, overrides: {{sink: {{table: {{schema: mine, name: mine}}}}}}}}
      - {{table: b, overrides: {{name: chosen}}}}
"
    );
    let pipelines = batch(&text);
    assert_eq!((pipelines[0].name.as_str(), &pipelines[0].sink.relation), ("p_a", &Relation::new("mine", "mine")));
    assert_eq!((pipelines[1].name.as_str(), &pipelines[1].sink.relation), ("chosen", &Relation::new("d", "t")));
}

#[test]
fn dependencies_append() {
    let inputs = vec![(
        PathBuf::from("b.yml"),
        "kind: dpone.batch.v1
defaults:
  depends_on: [{path: root.yml}]
  source: {type: postgres, connection_type: env, connection_id: SRC}
  sink: {type: postgres, connection_type: env, connection_id: DWH, table: {schema: s, name: t}, strategy: {mode: full_refresh}}
schemas: {public: {defaults: {depends_on: [{path: schema.yml}]}, tables: [{table: orders, depends_on: [{path: table.yml}]}]}}
"
        .to_owned(),
    )];
    let rendered = render(&inputs, &BTreeMap::new(), &no_files).unwrap();
    let paths: Vec<_> =
        rendered[0]["depends_on"].as_array().unwrap().iter().map(|d| d["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["root.yml", "schema.yml", "table.yml"]);
}

#[test]
fn mistakes_keep_their_place_through_the_merge() {
    let head = HEAD.replace("mode: full_refresh", "mode: incremental_merge");
    let tables = "naming: {sink_dataset: d, sink_table: t}\nschemas: {public: {tables: [orders, items]}}\n";
    // One mistake of the defaults, however many tables have it.
    assert_eq!(
        error("b.yml", &format!("{head}{tables}")),
        "b.yml:5:68: sink.strategy.unique_key is missing: incremental_merge matches rows by their key\nhint: name the \
         columns that tell rows apart, for example [id]"
    );
    assert_eq!(
        error(
            "b.yml",
            &format!(
                "{HEAD}schemas: {{public: {{tables: [{{table: a, overrides: {{sink: {{strategy: {{mod: x}}}}}}}}]}}}}\n"
            )
        ),
        "b.yml:6:70: schemas.public.tables[0].overrides.sink.strategy.mod is not a known key\nhint: did you mean mode?"
    );
    assert_eq!(
        error(
            "b.yml",
            &format!(
                "{HEAD}naming: {{process_name: 'x_{{{{ vars.nope }}}}'}}\nschemas: {{public: {{tables: [orders]}}}}\n"
            )
        )
        .lines()
        .next(),
        Some("b.yml:6:24: naming.process_name names something that has no value")
    );
    let twice = "naming: {sink_dataset: d, sink_table: t, process_name: '{{ src_table }}'}\nschemas:\n  public:\n    tables: [orders, orders]\n";
    assert_eq!(
        error("b.yml", &format!("{HEAD}{twice}")),
        "b.yml:9:22: two tables answer to the selector \"public.orders\"\nhint: the first one is on line 9; give one of them an id"
    );
    assert_eq!(
        error("b.yml", "kind: dpone.flow.v1\nschemas: {}\n"),
        "b.yml:1:7: kind is \"dpone.flow.v1\"; expected one of dpone.batch.v1\nhint: did you mean dpone.batch.v1?"
    );
}

#[test]
fn files_of_a_folder_are_tables_too() {
    let text = "kind: dpone.batch.v1
defaults:
  source: {type: file, path: 'data/${src_table}.csv'}
  sink: {type: delta, path: lake, strategy: {mode: full_refresh}}
naming: {sink_dataset: raw, sink_table: '{{ src_table }}'}
schemas: {flights: {tables: [airlines, planes]}}
";
    let project = project(&[("b.yml", text)]);
    let names: Vec<_> = project.connections.keys().map(String::as_str).collect();
    assert_eq!(names, ["airlines", "lake", "planes"]);
    assert_eq!(project.connections["planes"].options["path"], OptionValue::Plain("data/planes.csv".into()));
}
