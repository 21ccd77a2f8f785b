use super::super::*;
use super::{Plain, columns, planned};

fn kinds(source: &str, target: &str, policy: &EvolutionPolicy) -> Vec<String> {
    let found = compare_columns(&columns(source), &columns(target), &Plain::default(), policy).unwrap();
    let said = |c: &Change| format!("{}:{}{}", c.kind.as_str(), c.column, if c.breaking { "!" } else { "" });
    found.changes.iter().map(said).collect()
}

const NARROW: &str =
    r#"[{"name": "id", "dtype": "integer", "nullable": false}, {"name": "a", "dtype": "decimal(10,2)"}]"#;
const WIDE: &str = r#"[{"name": "id", "dtype": "bigint", "nullable": false}, {"name": "a", "dtype": "decimal(12,2)"},
                       {"name": "s", "dtype": "text"}]"#;

#[test]
fn policies_differ_in_what_breaks() {
    let with = |mode| EvolutionPolicy { mode, ..EvolutionPolicy::default() };
    assert_eq!(kinds(WIDE, NARROW, &with(EvolutionMode::Widening)), ["type_widen:id", "type_widen:a", "add_column:s"]);
    assert_eq!(
        kinds(WIDE, NARROW, &with(EvolutionMode::Additive)),
        ["type_widen:id!", "type_widen:a!", "add_column:s"]
    );
    assert_eq!(kinds(WIDE, NARROW, &with(EvolutionMode::Strict)), ["type_widen:id!", "type_widen:a!", "add_column:s!"]);
    // A source that is narrower fits; only strict minds.
    assert_eq!(kinds(NARROW, WIDE, &with(EvolutionMode::Widening)), ["drop_column:s!"]);
    assert_eq!(
        kinds(NARROW, WIDE, &with(EvolutionMode::Strict)),
        ["type_narrow:id!", "type_narrow:a!", "drop_column:s!"]
    );
}

#[test]
fn a_target_that_takes_null_is_no_difference_unless_somebody_says_so() {
    let (strict, loose) =
        (r#"[{"name": "a", "dtype": "text", "nullable": false}]"#, r#"[{"name": "a", "dtype": "text"}]"#);
    assert!(kinds(strict, loose, &EvolutionPolicy::default()).is_empty());
    let policy = EvolutionPolicy { target_nullability: TargetNullability::Strict, ..EvolutionPolicy::default() };
    assert_eq!(kinds(strict, loose, &policy), ["nullability_tighten:a!"]);
    assert_eq!(kinds(loose, strict, &EvolutionPolicy::default()), ["nullability_relax:a"]);
}

#[test]
fn a_rename_is_declared_and_never_guessed() {
    let target = r#"[{"name": "old", "dtype": "varchar(20)"}]"#;
    assert_eq!(
        kinds(r#"[{"name": "new", "dtype": "text"}]"#, target, &EvolutionPolicy::default()),
        ["add_column:new", "drop_column:old!"]
    );
    let declared = r#"[{"name": "new", "dtype": "text", "aliases": ["older", "old"]}]"#;
    assert_eq!(kinds(declared, target, &EvolutionPolicy::default()), ["rename_column:new!"]);
    // A column of the earlier name that the source still has is not taken away from it.
    let both = r#"[{"name": "new", "dtype": "text", "aliases": ["old"]}, {"name": "old", "dtype": "text"}]"#;
    assert_eq!(kinds(both, target, &EvolutionPolicy::default()), ["add_column:new"]);
}

#[test]
fn defaults_comments_and_collations_count_where_the_source_declares_them() {
    let target = r#"[{"name": "a", "dtype": "text", "default": "'x'", "comment": "c", "collation": "C"}]"#;
    assert!(kinds(r#"[{"name": "a", "dtype": "text"}]"#, target, &EvolutionPolicy::default()).is_empty());
    let other = r#"[{"name": "a", "dtype": "text", "default": null, "comment": "d", "collation": "de"}]"#;
    assert_eq!(
        kinds(other, target, &EvolutionPolicy::default()),
        ["collation_change:a!", "default_change:a", "comment_change:a"]
    );
}

#[test]
fn values_of_another_kind_get_a_column_of_their_own() {
    let policy = EvolutionPolicy { on_type_change: OnTypeChange::NewColumn, ..EvolutionPolicy::default() };
    let (text, number) = (r#"[{"name": "a", "dtype": "text"}]"#, r#"[{"name": "a", "dtype": "integer"}]"#);
    assert_eq!(kinds(text, number, &EvolutionPolicy::default()), ["type_change:a!"]);
    let plan = planned(text, number, &Plain::default(), &policy);
    assert!(plan.passed() && !plan.has_breaking_changes());
    assert_eq!(plan.generated_columns().get("a"), Some(&"__dpone__nc__a"));
    assert_eq!(plan.ddl(), ["ALTER TABLE landing.orders ADD COLUMN \"__dpone__nc__a\" text"]);
    // The next run finds it there, and a third kind of values gets another one.
    let routed = r#"[{"name": "a", "dtype": "integer"}, {"name": "__dpone__nc__a", "dtype": "text"}]"#;
    let plan = planned(text, routed, &Plain::default(), &policy);
    assert!(plan.changes.is_empty(), "{:?}", plan.changes);
    assert_eq!(plan.mapping.get("a").map(String::as_str), Some("__dpone__nc__a"));
    let third = planned(r#"[{"name": "a", "dtype": "boolean"}]"#, routed, &Plain::default(), &policy);
    let generated = third.changes[0].generated_column.clone().unwrap();
    assert!(generated.starts_with("__dpone__nc__a_") && generated.len() <= 63, "{generated}");
}

#[test]
fn long_names_of_generated_columns_stay_apart() {
    let policy = EvolutionPolicy { on_type_change: OnTypeChange::NewColumn, ..EvolutionPolicy::default() };
    let (one, other) = (format!("{}1", "é".repeat(30)), format!("{}2", "é".repeat(30)));
    let list = |dtype: &str| {
        format!(r#"[{{"name": "{one}", "dtype": "{dtype}"}}, {{"name": "{other}", "dtype": "{dtype}"}}]"#)
    };
    let plan = planned(&list("text"), &list("integer"), &Plain::default(), &policy);
    let names: Vec<_> = plan.generated_columns().into_values().map(str::to_owned).collect();
    assert_eq!(names.len(), 2);
    assert_ne!(names[0], names[1]);
    assert!(names.iter().all(|name| name.len() <= 63 && name.starts_with("__dpone__nc__")), "{names:?}");
}

#[test]
fn names_that_are_ours_are_refused_in_a_source() {
    let source = r#"[{"name": "__dpone__x", "dtype": "text"}]"#;
    assert_eq!(kinds(source, "[]", &EvolutionPolicy::default()), ["reserved_column:__dpone__x!"]);
    let allowed = EvolutionPolicy { allow_reserved_dpone_columns: true, ..EvolutionPolicy::default() };
    assert_eq!(kinds(source, "[]", &allowed), ["add_column:__dpone__x"]);
}
