//! Wrong manifests: each message with its place and its suggestion, as users see it.

use super::*;

const GOOD: &str = "name: orders
source:
  type: postgres
  connection_type: env
  connection_id: SRC
  table: {schema: public, name: orders}
  options:
    incremental_column: updated_at
sink:
  type: postgres
  connection_type: env
  connection_id: DWH
  table: {schema: landing, name: orders}
  strategy:
    mode: incremental_merge
    unique_key: [id]
";

/// The message for the good manifest with one change.
fn changed(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    error("m.yml", &GOOD.replacen(from, to, 1))
}

fn added(lines: &str) -> String {
    error("m.yml", &format!("{GOOD}{lines}"))
}

#[test]
fn the_manifest_that_the_tests_change_is_good() {
    pipeline("m.yml", GOOD);
}

#[test]
fn unknown_keys_name_the_nearest_known_one() {
    assert_eq!(
        changed("    unique_key: [id]", "    unique_keys: [id]"),
        "m.yml:16:5: sink.strategy.unique_keys is not a known key\nhint: did you mean unique_key?"
    );
    assert_eq!(added("sourc: {}\n"), "m.yml:17:1: sourc is not a known key\nhint: did you mean source?");
    assert_eq!(
        changed("  table: {schema: public, name: orders}", "  table: {schema: public, nmae: orders}"),
        "m.yml:6:27: source.table.nmae is not a known key\nhint: did you mean name?"
    );
    assert_eq!(changed("source:", "soruce:"), "m.yml:2:1: soruce is not a known key\nhint: did you mean source?");
    assert_eq!(
        changed("  strategy:\n", "  max_delete_ratio: 0.5\n  strategy:\n"),
        "m.yml:14:3: sink.max_delete_ratio is not a known key\nhint: max_delete_ratio belongs at sink.strategy.max_delete_ratio"
    );
}

#[test]
fn types_ranges_and_lists_are_held() {
    assert_eq!(
        changed("name: orders", "name: 42"),
        "m.yml:1:7: name is the number 42; expected text\nhint: put it in quotes"
    );
    assert_eq!(changed("name: orders", "name: or"), "m.yml:1:7: name has 2 characters; expected 3 to 64");
    assert_eq!(
        changed("name: orders", "name: Shop-Orders"),
        "m.yml:1:7: name is \"Shop-Orders\"; expected small letters, digits and underscores only\nhint: for example shop_orders"
    );
    assert_eq!(
        changed("mode: incremental_merge", "mode: incremental_marge"),
        "m.yml:15:11: sink.strategy.mode is \"incremental_marge\"; expected one of full_refresh, incremental_append, \
         incremental_merge, replace, partition_replace, snapshot_diff, scd2, backfill, cdc_apply, xmin\n\
         hint: did you mean incremental_merge?"
    );
    assert_eq!(
        changed("    incremental_column: updated_at", "    incremental_column: [updated_at]"),
        "m.yml:8:25: source.options.incremental_column is a list; expected text"
    );
    assert_eq!(
        changed("incremental_column: updated_at", "batch_size: 10"),
        "m.yml:8:17: source.options.batch_size is 10; expected 100 to 5000000"
    );
    assert_eq!(
        added("    max_delete_ratio: 1.5\n"),
        "m.yml:17:23: sink.strategy.max_delete_ratio is 1.5; expected 0 to 1"
    );
    assert_eq!(
        changed("  table: {schema: public, name: orders}", "  table: public.orders"),
        "m.yml:6:10: source.table is the text \"public.orders\"; expected a mapping"
    );
    assert_eq!(error("m.yml", "[1, 2]\n"), "m.yml:1:1: the manifest is a list; expected a mapping");
}

#[test]
fn all_mistakes_come_at_once() {
    let text = GOOD
        .replace(
            "type: postgres\n  connection_type: env\n  connection_id: SRC",
            "type: postgrs\n  conection_type: env\n  connection_id: SRC",
        )
        .replace("[id]", "7");
    assert_eq!(
        error("m.yml", &text),
        "m.yml:3:9: source.type is \"postgrs\"; expected one of postgres, mssql, clickhouse, api, rest, rest_api, kafka, \
         bigquery, mysql, file, delta, parquet, csv, memory, null\n\
         m.yml:4:3: source.conection_type is not a known key (did you mean connection_type?)\n\
         m.yml:16:17: sink.strategy.unique_key is the number 7; expected a list or text (put it in quotes)\n\
         hint: did you mean postgres?"
    );
}

#[test]
fn known_keys_without_support_say_what_to_do() {
    assert_eq!(
        added("quality: {mode: fail}\n"),
        "m.yml:17:1: quality is known, but not supported by this version\nhint: quality gates are not run by this version; \
         remove the key, or test the target after the run"
    );
    assert_eq!(
        added("  options: {lineage: {preset: hierarchical}}\n"),
        "m.yml:17:23: the preset hierarchical of lineage is known, but not supported by this version: rows of nested documents \
         are not split into tables\nhint: standard writes the load, its time and the hash of each row"
    );
    assert_eq!(
        added("  options: {lineage: true, technical_columns: forbidden}\n"),
        "m.yml:17:28: sink.options.technical_columns is forbidden, and lineage is on\nhint: keep one of them"
    );
    assert_eq!(
        added("reconciliation: true\n"),
        "m.yml:17:1: reconciliation belongs to the reader xmin, which this strategy does not use\nhint: deletions are found \
         by snapshot_diff, or by sink.strategy.soft_delete where the source marks them"
    );
    assert_eq!(
        changed("connection_type: env\n  connection_id: SRC", "connection_type: airflow\n  connection_id: SRC"),
        "m.yml:4:3: connections kept in Vault or Airflow are not read by this version\nhint: let the orchestrator export \
         them as DPONE_CONN_<ID>_URL, or as …_HOST, …_USERNAME and so on, and write connection_type: env"
    );
    pipeline("m.yml", &format!("{GOOD}  options: {{lineage: {{enabled: false}}}}\ntransforms: []\n"));
}

#[test]
fn keys_in_the_wrong_place_say_where_they_belong() {
    assert_eq!(
        changed("    incremental_column", "    delimiter: ';'\n    incremental_column"),
        "m.yml:8:5: source.options.delimiter has no meaning where source.type is postgres\nhint: it belongs to file, csv"
    );
    assert_eq!(
        added("    overwrite_type: exchange\n"),
        "m.yml:17:5: sink.strategy.overwrite_type has no meaning where sink.strategy.mode is incremental_merge\n\
         hint: it belongs to full_refresh, backfill"
    );
}

#[test]
fn strategies_say_what_they_need() {
    assert_eq!(
        changed("    unique_key: [id]\n", ""),
        "m.yml:14:3: sink.strategy.unique_key is missing: incremental_merge matches rows by their key\n\
         hint: name the columns that tell rows apart, for example [id]"
    );
    assert_eq!(
        changed("mode: incremental_merge\n    unique_key: [id]", "mode: incremental_append\n    only_new_rows: true"),
        "m.yml:14:3: sink.strategy.unique_key is missing: sink.strategy.only_new_rows compares rows by it"
    );
    assert_eq!(
        added("    duplicate_policy: latest\n"),
        "m.yml:14:3: sink.strategy.order_by is missing: duplicate_policy latest keeps the row that is greatest by it\n\
         hint: name the columns that order the versions of a row, for example [updated_at]"
    );
    assert_eq!(
        added("    order_by: [updated_at]\n"),
        "m.yml:17:5: sink.strategy.order_by has no meaning where duplicates fail the run\n\
         hint: write duplicate_policy: latest, or remove it"
    );
    assert_eq!(
        changed("    mode: incremental_merge\n    unique_key: [id]\n", "    mode: full_refresh\n"),
        "m.yml:8:5: full_refresh reads everything; source.options.incremental_column has no meaning\n\
         hint: remove it, or use incremental_append or incremental_merge"
    );
    assert_eq!(
        changed("    incremental_column: updated_at\nsink:", "    lookback_days: 2\nsink:"),
        "m.yml:8:5: source.options.lookback_days has no meaning without source.options.incremental_column"
    );
    assert_eq!(
        added("    merge_policy: event_upsert\n"),
        "m.yml:17:5: sink.strategy.merge_policy event_upsert is not a way in which a postgres sink merges\n\
         hint: postgres takes auto, delete_insert, update_insert; auto is always right"
    );
    assert_eq!(
        changed("unique_key: [id]", "unique_key: [id, id]"),
        "m.yml:16:5: sink.strategy.unique_key names \"id\" twice"
    );
}

#[test]
fn a_replace_has_exactly_one_scope() {
    let replace = |scope: &str| {
        let text = GOOD.replace("  options:\n    incremental_column: updated_at\n", "");
        error(
            "m.yml",
            &text
                .replace("    mode: incremental_merge\n    unique_key: [id]\n", &format!("    mode: replace\n{scope}")),
        )
    };
    assert_eq!(
        replace(""),
        "m.yml:13:5: replace rewrites a scope, and none is given\nhint: give one of sink.strategy.custom_predicate, \
         sink.strategy.portable_scope and sink.strategy.window"
    );
    assert_eq!(
        replace("    custom_predicate: a = 1\n    window: {column: d, from: 1, to: 2}\n"),
        "m.yml:15:5: replace takes exactly one of custom_predicate, portable_scope and window"
    );
    assert_eq!(
        replace("    custom_predicate: a = = 1\n"),
        "m.yml:14:5: sink.strategy.custom_predicate is not a predicate: Expected: an expression, found: = at Line: 1, Column: 5"
    );
}

#[test]
fn readers_and_modes_must_fit() {
    assert_eq!(
        changed("    incremental_column: updated_at", "    incremental_strategy: xmin\n    cdc: {slot: s}"),
        "m.yml:9:5: incremental_strategy: xmin and cdc are two readers of one source\nhint: keep one of them"
    );
    assert_eq!(
        changed("    incremental_column: updated_at", "    incremental_column: a\n    incremental_strategy: xmin"),
        "m.yml:8:5: the xmin reader keeps its own position; a cursor column has no meaning\nhint: remove incremental_column"
    );
    let xmin = |more: &str| {
        let text = GOOD.replace("    incremental_column: updated_at", "    incremental_strategy: xmin");
        error("m.yml", &format!("{text}{more}"))
    };
    assert_eq!(
        xmin("reconciliation: {cadence: sometimes}\n"),
        "m.yml:17:18: reconciliation.cadence is \"sometimes\"; expected how often keys are compared\nhint: every_run, a \
         number of runs such as 10, or a time such as 6h or 1d"
    );
    assert!(xmin("reconciliation: {mode: snapshot}\n").contains("key_snapshot"));
    assert_eq!(
        changed(
            "    incremental_column: updated_at",
            "    incremental_strategy: xmin\n    xmin_execution: {mode: initial}"
        ),
        "m.yml:9:5: source.options.xmin_execution: a first read cannot be handed over to another process\nhint: remove it: \
         a run without state reads everything by itself; `dpone state reset` starts over"
    );
    assert_eq!(
        changed("    incremental_column: updated_at", "    incremental_column: a\n    lag: soon"),
        "m.yml:9:5: source.options.lag is \"soon\"; expected a distance\nhint: for example 2h, 15 minutes or 1 day; a number \
         alone for integer cursors"
    );
    assert_eq!(
        changed("    incremental_column: updated_at", "    columns: [{name: a, type: varchr}]"),
        "m.yml:8:5: column \"a\": \"varchr\" is not a type\nhint: types are boolean, smallint, integer, bigint, real, double, \
         decimal(p,s), text, bytes, date, time, timestamp, timestamptz, uuid, json, and any of them followed by []"
    );
}

#[test]
fn connections_are_named_in_one_way() {
    assert_eq!(
        changed("  connection_type: env\n  connection_id: SRC\n", ""),
        "m.yml:2:1: source.connection_type is missing: it says where the data is\nhint: write connection_type: env and \
         connection_id: <ID>, or connection_ref: <name>"
    );
    assert_eq!(
        changed("  connection_type: env\n  connection_id: SRC\n", "  connection_ref: shop\n"),
        "m.yml:4:3: there is no connection \"shop\"\nhint: write CREATE CONNECTION in a .sql file and give that file too"
    );
    assert_eq!(
        changed(
            "connection_type: env\n  connection_id: SRC",
            "connection_type: params\n  connection_id: '{\"password\": \"hunter2\"'"
        ),
        "m.yml:5:3: source.connection_id is not a JSON object (line 1, column 22 of the text)\nhint: with connection_type: \
         params, write a mapping, or a JSON object in quotes"
    );
    assert_eq!(
        changed("  connection_id: SRC\n", ""),
        "m.yml:2:1: source.connection_id is missing: connection_type alone names no connection"
    );
    let state = "state: {type: postgres, connection_type: env, connection_id: META, atomicity: target_atomic}\n";
    assert_eq!(
        added(state),
        "m.yml:17:68: state in another system cannot be committed in the target's transaction\nhint: write state: {reuse: \
         sink}, or leave state out: it then lies beside the data"
    );
}

#[test]
fn yaml_itself_is_held_to_limits() {
    assert_eq!(
        error("m.yml", &format!("{GOOD}---\nname: other\n")),
        "m.yml:17:1: the file holds more than one YAML document\nhint: write one manifest per file, or list several tables \
         in a manifest of kind dpone.batch.v1"
    );
    assert_eq!(
        error("m.yml", "name: a\nname: b\n"),
        "m.yml:2:1: the key \"name\" is written twice\nhint: the first one is on line 1"
    );
    assert!(error("m.yml", "").starts_with("m.yml:1:1: the file is empty"));
    assert!(error("m.yml", "name: [a\n").starts_with("m.yml:2:1: this is not valid YAML"));
    assert!(error("m.yml", "name: !secret x\n").starts_with("m.yml:1:7: the tag !secret has no meaning"));
    assert!(error("m.yml", &"[".repeat(100)).contains("nested deeper than 64 levels"));
    assert!(error("m.yml", &"[".repeat(500_000)).starts_with("m.yml:1:"));
    assert!(error("m.yml", &"- ".repeat(500_000)).starts_with("m.yml:1:"));
    assert!(error("m.yml", &" ".repeat(yaml_limit() + 1)).contains("a definition has at most"));
    let mut bomb = "a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]\n".to_owned();
    for (i, name) in ["b", "c", "d", "e", "f", "g"].iter().enumerate() {
        let before = ["a", "b", "c", "d", "e", "f"][i];
        bomb += &format!("{name}: &{name} [{}]\n", vec![format!("*{before}"); 10].join(", "));
    }
    assert!(error("m.yml", &bomb).contains("more than 500000 values"));
    assert!(error("m.toml", "").contains("definitions end in .yml, .yaml or .sql"));
}

fn yaml_limit() -> usize {
    super::super::yaml::MAX_BYTES
}

#[test]
fn variables_need_values() {
    assert_eq!(
        changed("name: orders}", "name: 'orders_${envt}'}"),
        "m.yml:6:33: the variable \"envt\" has no value\nhint: give it by --var envt=value; write $${ for ${ itself"
    );
}

#[test]
fn names_are_unique_in_a_project() {
    let result = load_with(&[("a.yml", GOOD), ("b.yml", GOOD)], &[], &no_files);
    assert_eq!(
        shown(result),
        "b.yml:1:1: the pipeline \"orders\" is defined twice\nhint: the first one is at a.yml:1:1; state goes by the name"
    );
}

#[test]
fn no_message_shows_a_secret() {
    for id in ["{password: hunter2, host: [hunter2]}", "'hunter2'", "[hunter2]", "'{\"password\": hunter2}'"] {
        let text = GOOD.replace(
            "connection_type: env\n  connection_id: SRC",
            &format!("connection_type: params\n  connection_id: {id}"),
        );
        if let Err(error) = load_with(&[("m.yml", &text)], &[], &no_files) {
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }
}

#[test]
fn a_parameter_is_one_value() {
    let params = |value: &str| {
        changed(
            "  connection_type: env\n  connection_id: SRC\n",
            &format!("  connection_type: params\n  connection_id: {{host: h, password: {value}}}\n"),
        )
    };
    let message = params("{hunter2: x}");
    assert!(message.contains("source.connection_id.password is a mapping; expected text"), "{message}");
    assert!(message.contains("env:NAME") && !message.contains("hunter2"), "{message}");
    assert!(params("[hunter2]").contains("source.connection_id.password is a list"));
}

#[test]
fn what_looks_like_a_limit_or_a_name_and_is_none_is_refused_at_its_place() {
    assert_eq!(
        added("    max_delete_ratio: .nan\n"),
        "m.yml:17:23: sink.strategy.max_delete_ratio is NaN; expected 0 to 1"
    );
    for key in ["'id,,k2'", "'id,'", "[id, '']"] {
        assert_eq!(
            changed("[id]", key),
            format!("m.yml:16:5: sink.strategy.unique_key holds an empty name\nhint: look for a comma too many")
        );
    }
    let scd2 = GOOD
        .replace("    incremental_column: updated_at\n", "    batch_size: 1000\n")
        .replace("incremental_merge", "scd2");
    for names in ["''", "[]"] {
        assert_eq!(
            error("m.yml", &format!("{scd2}    scd2: {{track_columns: {names}}}\n")),
            "m.yml:17:12: sink.strategy.scd2.track_columns names no column\nhint: name columns, or leave the option out"
        );
    }
    assert!(
        error("m.yml", &format!("{scd2}    scd2: {{track_columns: 'a,,b'}}\n"))
            .contains("track_columns holds an empty name")
    );
}

#[test]
fn limits_beside_rows_that_stay_are_refused() {
    let text = GOOD.replace("    incremental_column: updated_at\n", "    batch_size: 1000\n");
    for (mode, option) in [("snapshot_diff", "diff"), ("scd2", "scd2")] {
        let text = text.replace("incremental_merge", mode);
        let ignoring = format!("{text}    {option}: {{delete_policy: ignore}}\n");
        pipeline("m.yml", &ignoring);
        for limit in ["max_delete_ratio: 0.5", "max_delete_rows: 5"] {
            let key = limit.split(':').next().unwrap();
            assert_eq!(
                error("m.yml", &format!("{ignoring}    {limit}\n")),
                format!(
                    "m.yml:18:5: sink.strategy.{key} has no meaning where sink.strategy.{option}.delete_policy is ignore\n\
                     hint: nothing is deleted, marked or closed for being absent: remove the limit"
                )
            );
        }
    }
    let sql = "CREATE CONNECTION c TYPE postgres OPTIONS ('url' 'env:C_URL');\n\
               CREATE PIPELINE orders INTO c.a.b STRATEGY snapshot_diff KEY (id)\n\
               OPTIONS ('diff_delete_policy' 'ignore', 'max_delete_rows' '5') AS SELECT * FROM c.a.s;";
    let shown = error("p.sql", sql);
    assert!(shown.starts_with("p.sql:3:") && shown.contains("max_delete_rows") && shown.contains("ignore"), "{shown}");
    let shown = error(
        "p.sql",
        &sql.replace("'diff_delete_policy' 'ignore', 'max_delete_rows' '5'", "'max_delete_ratio' 'NaN'"),
    );
    assert!(shown.starts_with("p.sql:3:") && shown.contains("NaN"), "{shown}");
}
