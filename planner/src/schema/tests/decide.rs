use super::super::*;
use super::{Plain, columns, planned, table};

const SOURCE: &str = r#"[{"name": "a", "dtype": "bigint"}, {"name": "b", "dtype": "text"}]"#;
const TARGET: &str = r#"[{"name": "a", "dtype": "integer"}]"#;

fn decisions(widening: Risk, policy: EvolutionPolicy) -> (Vec<Decision>, Vec<String>) {
    let plan = planned(SOURCE, TARGET, &Plain { widening }, &policy);
    (plan.actions.iter().map(|a| a.decision).collect(), plan.blockers())
}

fn policy(ddl_mode: DdlMode) -> EvolutionPolicy {
    EvolutionPolicy { ddl_mode, ..EvolutionPolicy::default() }
}

#[test]
fn what_is_online_is_applied_and_what_blocks_is_deferred() {
    use Decision::*;
    assert_eq!(decisions(Risk::MetadataOnly, policy(DdlMode::Online)), (vec![Apply, Apply], vec![]));
    assert_eq!(decisions(Risk::LowLock, policy(DdlMode::Online)), (vec![Apply, Apply], vec![]));
    let blocked = vec!["schema_evolution.blocking:type_widen:a".to_owned()];
    assert_eq!(decisions(Risk::Blocking, policy(DdlMode::Online)), (vec![Defer, Apply], blocked));
    let accepted = EvolutionPolicy { allow_blocking_online: true, ..policy(DdlMode::Online) };
    assert_eq!(decisions(Risk::Blocking, accepted), (vec![Apply, Apply], vec![]));
    let refused = vec!["schema_evolution.unsupported:type_widen:a".to_owned()];
    let accepted = EvolutionPolicy { allow_blocking_online: true, ..policy(DdlMode::Online) };
    assert_eq!(decisions(Risk::Unsupported, accepted), (vec![Defer, Apply], refused));
}

#[test]
fn the_other_ddl_modes_apply_nothing_by_themselves() {
    use Decision::*;
    let (given, blockers) = decisions(Risk::MetadataOnly, policy(DdlMode::PlanOnly));
    assert_eq!((given, blockers.len()), (vec![Defer, Defer], 2));
    let (given, blockers) = decisions(Risk::Blocking, policy(DdlMode::ManualApproval));
    assert_eq!(given, [ManualApproval, ManualApproval]);
    assert_eq!(blockers[1], "schema_evolution.manual_approval:add_column:b");
    let plan = planned(SOURCE, TARGET, &Plain::default(), &policy(DdlMode::SafeWindow));
    assert!(plan.actions.iter().all(|a| a.decision == Defer && a.approval_status == Approval::Pending));
    assert!(!plan.passed() && plan.online().online_eligible);
}

#[test]
fn contract_modes_go_before_costs() {
    use Decision::*;
    let with = |columns, data_type| EvolutionPolicy { columns, data_type, ..EvolutionPolicy::default() };
    let (given, blockers) = decisions(Risk::MetadataOnly, with(ColumnsMode::Freeze, DataTypeMode::Freeze));
    assert_eq!(given, [Defer, Defer]);
    assert_eq!(blockers, ["schema_evolution.frozen:type_widen:a", "schema_evolution.frozen:add_column:b"]);
    assert_eq!(decisions(Risk::MetadataOnly, with(ColumnsMode::Ignore, DataTypeMode::Widen)).0, [Apply, Ignore]);
    assert_eq!(
        decisions(Risk::Blocking, with(ColumnsMode::Quarantine, DataTypeMode::Quarantine)),
        (vec![Quarantine, Quarantine], vec![])
    );
}

#[test]
fn a_widening_that_would_block_is_routed_where_variants_are_wanted() {
    let policy = EvolutionPolicy { data_type: DataTypeMode::VariantColumn, ..EvolutionPolicy::default() };
    let plan = planned(SOURCE, TARGET, &Plain { widening: Risk::Blocking }, &policy);
    assert!(plan.passed());
    assert_eq!(plan.generated_columns().get("a"), Some(&"__dpone__nc__a"));
    let online = planned(SOURCE, TARGET, &Plain::default(), &policy);
    assert!(online.generated_columns().is_empty());
}

#[test]
fn a_large_table_gets_no_work_inline() {
    let policy = EvolutionPolicy { max_table_size_for_inline_ddl: Some(1000), ..EvolutionPolicy::default() };
    let judge = |widening, bytes| {
        let facts = TableFacts { bytes, ..TableFacts::default() };
        plan_schema(&table(), &columns(SOURCE), &columns(TARGET), &facts, &Plain { widening }, &policy)
            .unwrap()
            .blockers()
    };
    assert_eq!(judge(Risk::LowLock, Some(1001)), ["schema_evolution.table_too_large:type_widen:a"]);
    assert_eq!(judge(Risk::LowLock, None), ["schema_evolution.table_size_unknown:type_widen:a"]);
    assert!(judge(Risk::LowLock, Some(1000)).is_empty());
    assert!(judge(Risk::MetadataOnly, None).is_empty());
}

#[test]
fn the_same_input_gives_the_same_bytes_and_another_catalog_another_fingerprint() {
    let text = |plan: &SchemaPlan| plan.document().unwrap().to_string();
    let one = planned(SOURCE, TARGET, &Plain::default(), &EvolutionPolicy::default());
    let other = planned(SOURCE, TARGET, &Plain::default(), &EvolutionPolicy::default());
    assert_eq!(text(&one), text(&other));
    let facts = TableFacts {
        dependents: vec![Dependent {
            kind: DependentKind::View,
            name: "v".into(),
            columns: vec!["a".into()],
            definition: String::new(),
        }],
        ..TableFacts::default()
    };
    let moved =
        plan_schema(&table(), &columns(SOURCE), &columns(TARGET), &facts, &Plain::default(), &one.policy).unwrap();
    assert_ne!(moved.catalog_fingerprint, one.catalog_fingerprint);
    assert_eq!(moved.plan_hash, one.plan_hash, "what would be done is the same");
    let larger = TableFacts { rows: Some(9), bytes: Some(9), ..TableFacts::default() };
    let grown =
        plan_schema(&table(), &columns(SOURCE), &columns(TARGET), &larger, &Plain::default(), &one.policy).unwrap();
    assert_eq!(grown.catalog_fingerprint, one.catalog_fingerprint, "a row more is no other catalog");
}

#[test]
fn the_budget_stands_around_the_statements_and_not_in_the_plain_list() {
    let policy = EvolutionPolicy { lock_timeout_seconds: Some(5), ..EvolutionPolicy::default() };
    let plan = planned(SOURCE, TARGET, &Plain::default(), &policy);
    assert_eq!(plan.actions[1].ddl, ["wait at most 5000 ms", "ALTER TABLE landing.orders ADD COLUMN \"b\" text"]);
    assert_eq!(plan.ddl().len(), 2);
}
