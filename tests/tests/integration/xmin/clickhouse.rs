//! `xmin` into ClickHouse: changes, deletions by reconciliation, marks, and kills between the statements of a commit.

use std::time::Duration;

use dpone_tests::{COMMIT_STEPS, COMMIT_STEPS_BETWEEN, ClickHouse, assert_same_rows, every_case};

use super::{FILE, MERGE, Place, TABLE, manifest, shared};

const APPEND: &str = "mode: incremental_append";
const RECONCILED: &str = "reconciliation: {cadence: every_run}";

struct Case {
    ch: ClickHouse,
    place: Place,
}

impl Case {
    fn new(strategy: &str, options: &str, more: &str) -> Self {
        let ch = ClickHouse::new();
        let mut place = Place::new(TABLE, strategy, more);
        place.project = std::mem::take(&mut place.project).env("DPONE_CONN_CH_URL", ch.url());
        let case = Self { ch, place };
        case.write(strategy, options, more);
        case
    }

    fn write(&self, strategy: &str, options: &str, more: &str) {
        let text = manifest("t", strategy, more);
        let before = "type: postgres, connection_type: env, connection_id: DB, table: {schema: landing, name: t}";
        assert!(text.contains(before), "{text}");
        let after = format!(
            "type: clickhouse, connection_type: env, connection_id: CH, table: {{schema: {}, name: t}}, options: {{{options}}}",
            self.ch.database
        );
        self.place.project.write(FILE, text.replace(before, &after));
    }

    fn source(&self) -> Vec<String> {
        self.place.pg.column("SELECT concat_ws('|', id, v, coalesce(n::text, 'NULL')) FROM shop.t")
    }

    /// Rows that meet a condition, as readers of the table's engine see them.
    fn rows(&self, condition: &str) -> Vec<String> {
        let row = "concat(toString(id), '|', v, '|', ifNull(toString(n), 'NULL'))";
        let of = format!("database = '{}' AND name = 't'", self.ch.database);
        let engine = self.ch.value(&format!("SELECT engine FROM system.tables WHERE {of}"));
        let last = if engine == "ReplacingMergeTree" { " FINAL" } else { "" };
        self.ch.column(&format!("SELECT {row} FROM t{last} WHERE {condition}"))
    }

    #[track_caller]
    fn same(&self, what: &str) {
        assert_same_rows(what, self.source(), self.rows("1"));
        assert_eq!(self.ch.leftovers(), Vec::<String>::new(), "{what}");
    }
}

const CHANGE: &str = "DELETE FROM shop.t WHERE id % 7 = 0; UPDATE shop.t SET v = 'x', n = NULL WHERE id % 5 = 0; \
                      INSERT INTO shop.t VALUES (1000, 'new', 1.50)";

#[test]
fn changes_and_deletions_reach_the_table_by_every_policy() {
    let _turn = shared();
    let policies = [
        ("auto", ""),
        ("mutation_delete_insert", ""),
        ("shadow_swap", ""),
        ("replacing", "connector: {engine: ReplacingMergeTree}"),
        ("auto", "partition_by: [v]"),
    ];
    every_case(policies, |(policy, options)| {
        let case = Case::new(&format!("{MERGE}, merge_policy: {policy}"), options, RECONCILED);
        let first = case.place.run().ok();
        assert_eq!((first.rows("extracted"), first.rows("inserted")), (500, 500));
        case.same("first");
        case.place.pg.execute(CHANGE);
        let second = case.place.run().ok();
        // 500 / 7 rows go; 100 are updated, of which 14 go; one comes.
        let counts = ["inserted", "updated", "deleted"].map(|which| second.rows(which));
        assert_eq!(counts, [1, 86, 71], "{policy} {options}: {}", second.text());
        case.same("changed");
        assert_eq!(case.place.run().ok().rows("staged"), 0, "nothing is new");
        // A key that moves is a row that goes and one that comes.
        case.place.pg.execute("UPDATE shop.t SET id = 2000 WHERE id = 1");
        case.place.pg.execute("VACUUM FULL shop.t");
        case.place.run().ok();
        case.same("a key that moved, and a table that was written anew");
    });
}

#[test]
fn deletions_stop_at_the_limits() {
    let _turn = shared();
    let case = Case::new(MERGE, "", "reconciliation: {cadence: every_run, guards: {max_delete_rows: 5}}");
    case.place.run().ok();
    let before = case.rows("1");
    case.place.pg.execute("DELETE FROM shop.t WHERE id BETWEEN 100 AND 109");
    case.place.run().failed("data_quality").says("max_delete_rows is 5");
    assert_same_rows("refused", before.clone(), case.rows("1"));
    case.write(MERGE, "", "reconciliation: {cadence: every_run, guards: {max_delete_ratio: 0.01}}");
    case.place.run().failed("data_quality").says("max_delete_ratio is 0.01");
    assert_same_rows("refused", before, case.rows("1"));
    case.write(MERGE, "", RECONCILED);
    assert_eq!(case.place.run().ok().rows("deleted"), 10);
    case.same("allowed");
}

#[test]
fn rows_that_are_gone_may_be_marked() {
    let _turn = shared();
    every_case(["auto", "shadow_swap"], |policy| {
        let more = "reconciliation: {cadence: every_run, delete_policy: soft_delete}";
        let case = Case::new(&format!("{MERGE}, merge_policy: {policy}"), "", more);
        case.place.run().ok();
        case.place.pg.execute("DELETE FROM shop.t WHERE id <= 10; UPDATE shop.t SET v = 'x' WHERE id = 11");
        case.place.run().ok();
        assert_same_rows("live", case.source(), case.rows("NOT __dpone__is_deleted"));
        assert_eq!(
            case.rows("__dpone__is_deleted AND __dpone__deleted_at <= now64(6) AND v = concat('v', toString(id))")
                .len(),
            10
        );
        assert_eq!(case.place.run().ok().rows("staged"), 0, "marked once");
        case.place.pg.execute("INSERT INTO shop.t VALUES (1, 'back', 1)");
        case.place.run().ok();
        assert_same_rows("a row that comes back", case.source(), case.rows("NOT __dpone__is_deleted"));
    });
}

#[test]
fn xmin_into_clickhouse_survives_kill_at_every_step() {
    let _turn = shared();
    let steps = || COMMIT_STEPS.iter().chain(COMMIT_STEPS_BETWEEN);
    every_case(
        [(MERGE, RECONCILED), (APPEND, "")].iter().flat_map(|case| steps().map(move |step| (case, step))),
        |((strategy, more), step)| {
            let case = Case::new(strategy, "", more);
            case.place.run().ok();
            let before = case.rows("1");
            let change = if *strategy == MERGE {
                CHANGE
            } else {
                "UPDATE shop.t SET v = 'x' WHERE id % 10 = 0; INSERT INTO shop.t VALUES (1000, 'x', 1)"
            };
            case.place.pg.execute(change);
            let expected = || match *strategy == MERGE {
                true => case.source(),
                false => {
                    [before.clone(), case.place.pg.column("SELECT concat_ws('|', id, v, n) FROM shop.t WHERE v = 'x'")]
                        .concat()
                }
            };
            case.place.settle();
            if case.place.project.run_with_failpoint(FILE, "second", &format!("{step}=kill")).code().is_some() {
                assert!(step.contains('@'), "nobody was killed at {step}");
                return;
            }
            std::thread::sleep(Duration::from_millis(1200));
            case.place.settle();
            case.place.project.run(FILE, "second").ok();
            assert_same_rows(&format!("{strategy}, killed at {step}"), expected(), case.rows("1"));
            // Position and rows moved together: nothing comes twice, and nothing is left out.
            assert_eq!(case.place.run().ok().rows("staged"), 0, "{strategy}, killed at {step}");
            assert_same_rows(&format!("{strategy}, the run after {step}"), expected(), case.rows("1"));
            assert_eq!(case.ch.leftovers(), Vec::<String>::new(), "{strategy}, killed at {step}");
        },
    );
}
