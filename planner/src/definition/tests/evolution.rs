//! `schema_evolution` at both front doors: its defaults, all of its keys, and what contradicts itself.

use super::*;
use crate::schema::{
    ColumnsMode, DataTypeMode, DdlMode, EvolutionMode, EvolutionPolicy, OnBreaking, OnSchemaChange, OnTypeChange,
    TablesMode, TargetNullability,
};

fn yaml(lines: &str) -> String {
    format!(
        "name: orders
source: {{type: postgres, connection_type: env, connection_id: SRC, table: {{schema: public, name: orders}}}}
sink:
  type: postgres
  connection_type: env
  connection_id: DST
  table: {{schema: landing, name: orders}}
  strategy: {{mode: full_refresh}}
  options:
    schema_evolution: {lines}
"
    )
}

fn policy(lines: &str) -> EvolutionPolicy {
    pipeline("m.yml", &yaml(lines)).evolution
}

#[test]
fn the_defaults_are_those_of_the_contract() {
    let default = EvolutionPolicy::default();
    assert_eq!(policy("{}"), default);
    let documented = "{enabled: true, mode: widening, tables: evolve, columns: evolve, data_type: widen, \
                      ddl_mode: online, on_schema_change: apply, on_type_change: fail, \
                      new_column_prefix: \"__dpone__nc__\"}";
    assert_eq!(policy(documented), default);
    assert_eq!((default.approvals_path.as_str(), default.ledger()), (".dpone/schema_approvals", None));
}

#[test]
fn every_key_is_read() {
    let read = policy(
        "{enabled: false, mode: additive, tables: freeze, columns: quarantine, data_type: freeze, ddl_mode: safe_window, \
         on_schema_change: notify, on_breaking: ignore, target_nullability: strict, new_column_prefix: __dpone__v_, \
         allow_blocking_online: true, lock_timeout_seconds: 5, statement_timeout_seconds: 60, ledger_path: l, \
         approvals_path: a, require_signed: true, trusted_keys: [k1, 'file:k2'], allow_reserved_dpone_columns: true, \
         max_table_size_for_inline_ddl: 10GB, renames: {old: new, other: another}}",
    );
    let expected = EvolutionPolicy {
        enabled: false,
        mode: EvolutionMode::Additive,
        tables: TablesMode::Freeze,
        columns: ColumnsMode::Quarantine,
        data_type: DataTypeMode::Freeze,
        ddl_mode: DdlMode::SafeWindow,
        on_schema_change: OnSchemaChange::Notify,
        on_breaking: OnBreaking::Ignore,
        target_nullability: TargetNullability::Strict,
        new_column_prefix: "__dpone__v_".into(),
        allow_blocking_online: true,
        lock_timeout_seconds: Some(5),
        statement_timeout_seconds: Some(60),
        ledger_path: Some("l".into()),
        approvals_path: "a".into(),
        require_signed: true,
        trusted_keys: vec!["k1".into(), "file:k2".into()],
        allow_reserved_dpone_columns: true,
        max_table_size_for_inline_ddl: Some(10_000_000_000),
        renames: [("old".to_owned(), "new".to_owned()), ("other".into(), "another".into())].into(),
        ..EvolutionPolicy::default()
    };
    assert_eq!(read, expected);
    assert_eq!(policy("{on_type_change: new_column}").on_type_change, OnTypeChange::NewColumn);
    assert_eq!(policy("{apply_safe: false}").ddl_mode, DdlMode::PlanOnly);
    assert_eq!(policy("{max_table_size_for_inline_ddl: 4096}").max_table_size_for_inline_ddl, Some(4096));
    assert_eq!(policy("{ddl_mode: manual_approval}").ledger(), Some(".dpone/schema_changes"));
}

#[test]
fn sql_says_the_same() {
    let text = "CREATE CONNECTION src TYPE postgres OPTIONS ('url' 'env:SRC_URL');
CREATE CONNECTION dst TYPE postgres OPTIONS ('url' 'env:DST_URL');
CREATE PIPELINE orders INTO dst.landing.orders STRATEGY full_refresh
  OPTIONS ('schema_evolution.ddl_mode' 'manual_approval', 'schema_evolution.renames' 'old=new, other = another',
           'schema_evolution_lock_timeout_seconds' '3', 'schema_evolution.max_table_size_for_inline_ddl' '1.5GiB',
           'schema_evolution.allow_blocking_online' 'true', 'schema_evolution.trusted_keys' 'k1, k2')
AS SELECT * FROM src.public.orders;
";
    let read = pipeline("p.sql", text).evolution;
    assert_eq!((read.ddl_mode, read.lock_timeout_seconds), (DdlMode::ManualApproval, Some(3)));
    assert_eq!(read.renames, [("old".to_owned(), "new".to_owned()), ("other".into(), "another".into())].into());
    assert_eq!(read.max_table_size_for_inline_ddl, Some(1_610_612_736));
    assert!(read.allow_blocking_online);
    assert_eq!(read.trusted_keys, ["k1", "k2"]);
    let wrong = text.replace("'manual_approval'", "'whenever'");
    let shown = error("p.sql", &wrong);
    assert!(shown.contains("schema_evolution_ddl_mode") && shown.contains("p.sql:4"), "{shown}");
}

#[test]
fn what_contradicts_itself_is_refused_where_it_is_written() {
    for (lines, said) in [
        ("{mode: whatever}", "mode is \"whatever\"; expected one of strict, additive, widening"),
        ("{modus: strict}", "is not a known key"),
        ("{data_type: variant_column, on_type_change: fail}", "is fail, and data_type: variant_column"),
        ("{data_type: freeze, on_type_change: new_column}", "data_type: freeze fails"),
        ("{data_type: quarantine, on_type_change: new_column}", "puts such rows aside"),
        ("{mode: strict, on_type_change: new_column}", "strict allows no difference"),
        ("{apply_safe: false, ddl_mode: online}", "ddl_mode says when"),
        ("{ddl_mode: plan_only, allow_blocking_online: true}", "plan_only applies nothing"),
        ("{lock_timeout_seconds: 0}", "is 0; expected 1 to"),
        ("{lock_timeout_seconds: 9, statement_timeout_seconds: 3}", "more than the statement may take (3)"),
        ("{new_column_prefix: nc_}", "begins with __dpone__"),
        ("{new_column_prefix: __dpone__}", "begins with __dpone__"),
        ("{max_table_size_for_inline_ddl: large}", "such as 10GB"),
        ("{ledger_path: ''}", "is empty"),
        ("{renames: {a: a}}", "the name that it has"),
        ("{renames: {a: c, b: c}}", "one name, \"c\""),
        ("{renames: 'a'}", "expected old=new"),
    ] {
        let shown = error("m.yml", &yaml(lines));
        assert!(shown.contains(said), "{lines}: {shown}");
        assert!(shown.contains("m.yml:10:"), "the place is told: {shown}");
    }
}
