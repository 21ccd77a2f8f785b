//! What a commit into ClickHouse promises beyond its rows: it is written down as finished, it leaves no table behind
//! whoever finishes it, it counts what was staged, it stops at the limits of deletion, and it does not undo what others
//! wrote while it lay half done.

use std::time::{Duration, Instant};

use dpone_tests::{COMMIT_STEPS_BETWEEN, ClickHouse, Outcome, Pg, Project, assert_same_rows, every_case};

use crate::clickhouse_sink::{Case, FILE, TARGETS, Target};
use crate::matrix::From;
use crate::orders::{self, STRATEGIES, Strategy};
use crate::problems::database;

fn target(name: &str) -> &'static Target {
    TARGETS.iter().find(|t| t.name == name).unwrap()
}

fn strategy(name: &str) -> &'static Strategy {
    STRATEGIES.iter().find(|s| s.name == name).unwrap()
}

/// Loads whose steps were written down, and which nobody has marked as finished or given up.
fn open_commits(ch: &ClickHouse) -> Vec<String> {
    ch.column("SELECT load_id FROM __dpone__commits FINAL GROUP BY load_id HAVING max(mark) < 4294967294")
}

fn leases(ch: &ClickHouse) -> Vec<String> {
    ch.column(&format!(
        "SELECT name FROM system.tables WHERE database = '{}' AND name LIKE '\\_\\_dpone\\_\\_lease%'",
        ch.database
    ))
}

#[test]
fn a_commit_that_ended_is_finished_in_the_journal_and_its_lease_is_gone() {
    every_case(STRATEGIES, |strategy| {
        let case = Case::new(From::Postgres, strategy, target("months"));
        for run in ["one", "two", "three"] {
            if run == "two" {
                orders::change(&case.pg);
            }
            case.project.run(FILE, run).ok();
            assert_eq!(open_commits(&case.ch), Vec::<String>::new(), "{}, {run}", strategy.name);
            assert_eq!(leases(&case.ch), Vec::<String>::new(), "{}, {run}", strategy.name);
        }
        let loads = "SELECT toString(uniqExact(load_id)) FROM __dpone__commits";
        assert_eq!(case.ch.value(loads), "3", "every commit was written down");
    });
}

#[test]
fn a_commit_that_another_run_ended_is_finished_too() {
    every_case(COMMIT_STEPS_BETWEEN.iter().chain(&["commit.applied"]), |step| {
        let case = Case::new(From::Postgres, strategy("incremental_merge"), target("lightweight deletion"));
        case.project.run(FILE, "first").ok();
        orders::change(&case.pg);
        if case.project.run_with_failpoint(FILE, "second", &format!("{step}=kill")).code().is_some() {
            assert!(step.contains('@'), "nobody was killed at {step}");
            return;
        }
        assert_eq!(open_commits(&case.ch).len(), 1, "killed at {step}");
        case.rerun("third");
        assert_eq!(open_commits(&case.ch), Vec::<String>::new(), "killed at {step}");
        assert_eq!(leases(&case.ch), Vec::<String>::new(), "killed at {step}");
    });
}

/// The journal holds states as well: one that was never marked would be brought back.
#[test]
fn a_state_that_was_reset_does_not_come_back() {
    let strategy = strategy("incremental_merge");
    let case = Case::new(From::Postgres, strategy, target("lightweight deletion"));
    let all = case.project.run(FILE, "one").ok().rows("extracted");
    assert!(case.project.run(FILE, "two").ok().rows("extracted") < all / 2);
    case.project.dpone(&["state", "reset", FILE, "--yes"]).ok();
    assert_eq!(case.project.run(FILE, "three").ok().rows("extracted"), all);
    assert_same_rows("after the reset", case.oracle(strategy), case.rows());
}

#[test]
fn a_commit_that_cannot_be_finished_says_so_until_it_is_given_up() {
    let case = Case::new(From::Postgres, strategy("incremental_append"), target("lightweight deletion"));
    case.project.run(FILE, "first").ok();
    orders::change(&case.pg);
    let before = case.rows();
    case.project.run_with_failpoint(FILE, "second", "commit.planned=kill").killed();
    for table in case.ch.leftovers().iter().filter(|name| name.contains("stage")) {
        case.ch.execute(&format!("DROP TABLE `{table}` SYNC"));
    }
    std::thread::sleep(Duration::from_millis(1200));
    for run in ["third", "fourth"] {
        case.project.run(FILE, run).failed("conflict").says("is gone, which held rows").says("dpone state reset");
        assert_same_rows("nothing is taken for loaded", before.clone(), case.rows());
    }
    let reset = case.project.dpone(&["state", "reset", FILE, "--yes"]).ok();
    reset.says("warning: orders: a commit that was cut short is given up").says("is gone, which held rows");
    assert_eq!(open_commits(&case.ch), Vec::<String>::new());
    case.project.run(FILE, "fifth").ok();
    assert_eq!(case.ch.leftovers(), Vec::<String>::new());
}

/// The table that is to take the target's place was built like the target as it was.
#[test]
fn what_was_altered_while_a_commit_lay_half_done_stays_altered() {
    every_case(
        [("full_refresh (exchange)", "lightweight deletion"), ("incremental_merge", "shadow swap")],
        |(by, into)| {
            let strategy = strategy(by);
            let case = Case::new(From::Postgres, strategy, target(into));
            case.project.run(FILE, "first").ok();
            case.oracle(strategy);
            orders::change(&case.pg);
            case.project.run_with_failpoint(FILE, "second", "commit.planned=kill").killed();
            case.ch.execute("ALTER TABLE orders ADD COLUMN extra String MATERIALIZED 'kept'");
            std::thread::sleep(Duration::from_millis(1200));
            case.project.run(FILE, "third").ok();
            assert_eq!(
                case.ch.value("SELECT toString(uniqExact(extra)) FROM orders"),
                "1",
                "{by}: the column is there"
            );
            assert_same_rows(by, case.oracle(strategy), case.rows());
            assert_eq!(open_commits(&case.ch), Vec::<String>::new());
        },
    );
}

/// A run that fails after it has taken the lease stages nothing, so nobody but the recovery itself can have cleaned up.
#[test]
fn recovery_leaves_no_table_behind() {
    let cases = [
        ("lightweight deletion", "incremental_merge", "commit.planned"),
        ("lightweight deletion", "incremental_merge", "commit.step@1"),
        ("lightweight deletion", "incremental_merge", "commit.recorded"),
        ("shadow swap", "incremental_merge", "commit.step@1"),
        ("lightweight deletion", "full_refresh (exchange)", "commit.planned"),
        ("months", "full_refresh (truncate_insert)", "commit.step@1"),
        ("months", "incremental_append", "commit.applied"),
    ];
    every_case(cases, |(into, by, step)| {
        let strategy = strategy(by);
        let case = Case::new(From::Postgres, strategy, target(into));
        let elsewhere = ClickHouse::new();
        let text = std::fs::read_to_string(case.project.path(FILE)).unwrap();
        let table = format!("table: {{schema: {}, name: orders}}", case.ch.database);
        let text = text.replace(&table, &format!("{table}, staging: {{schema: {}}}", elsewhere.database));
        assert!(text.contains(&elsewhere.database), "{text}");
        case.project.write(FILE, text);
        case.project.run(FILE, "first").ok();
        case.oracle(strategy);
        orders::change(&case.pg);
        case.project.run_with_failpoint(FILE, "second", &format!("{step}=kill")).killed();
        assert!(!elsewhere.leftovers().is_empty(), "{by} by {into}, killed at {step}: nothing to clean up");
        let expected = case.oracle(strategy);
        case.pg.execute("ALTER TABLE shop.orders RENAME TO gone");
        std::thread::sleep(Duration::from_millis(1200));
        case.project.run(FILE, "third").failed("configuration");
        assert_same_rows(&format!("{by} by {into}, killed at {step}: finished"), expected, case.rows());
        assert_eq!(elsewhere.leftovers(), Vec::<String>::new(), "{by} by {into}, killed at {step}");
    });
}

/// Staging, the next state and the old one of loads that died before their commit was written down.
#[test]
fn the_next_load_removes_what_a_dead_one_staged() {
    let cases = [
        ("lightweight deletion", "incremental_append", "staged"),
        ("shadow swap", "incremental_merge", "commit.begun"),
        ("lightweight deletion", "full_refresh (exchange)", "commit.begun"),
    ];
    every_case(cases, |(into, by, step)| {
        let strategy = strategy(by);
        let case = Case::new(From::Postgres, strategy, target(into));
        case.project.run(FILE, "first").ok();
        case.oracle(strategy);
        orders::change(&case.pg);
        case.project.run_with_failpoint(FILE, "second", &format!("{step}=kill")).killed();
        assert!(!case.ch.leftovers().is_empty(), "{by} by {into}, killed at {step}: nothing to clean up");
        case.rerun("third");
        assert_eq!(case.ch.leftovers(), Vec::<String>::new(), "{by} by {into}, killed at {step}");
        assert_same_rows(&format!("{by} by {into}, killed at {step}"), case.oracle(strategy), case.rows());
    });
}

/// As if the server had lost a block, or kept one twice: what is there is counted before anything is changed.
#[test]
fn rows_that_are_lost_or_doubled_in_staging_stop_the_commit() {
    let lose = "TRUNCATE TABLE {}";
    let one = "ALTER TABLE {} DELETE WHERE order_id = (SELECT min(order_id) FROM {}) SETTINGS mutations_sync = 2";
    let twice = "INSERT INTO {} SELECT * FROM {} LIMIT 1";
    let modes = ["incremental_append", "full_refresh (exchange)", "replace"];
    every_case(modes.iter().flat_map(|by| [lose, one, twice].map(|statement| (by, statement))), |(by, statement)| {
        let strategy = strategy(by);
        let case = Case::new(From::Postgres, strategy, target("lightweight deletion"));
        case.project.run(FILE, "first").ok();
        case.oracle(strategy);
        orders::change(&case.pg);
        let before = case.rows();
        let run = case.project.spawn(FILE, "second", "staged=sleep:5000");
        let staged = || -> Vec<String> {
            let filled = format!(
                "SELECT name FROM system.tables WHERE database = '{}' AND name LIKE '\\_\\_dpone\\_\\_stage%' AND total_rows > 0",
                case.ch.database
            );
            case.ch.column(&filled)
        };
        let began = Instant::now();
        while staged().is_empty() {
            assert!(began.elapsed() < Duration::from_secs(30), "nothing is staged");
            std::thread::sleep(Duration::from_millis(50));
        }
        std::thread::sleep(Duration::from_millis(1500));
        let table = staged().remove(0);
        case.ch.execute(&statement.replace("{}", &format!("`{table}`")));
        Outcome::new(&["run"], run.wait_with_output().unwrap()).failed("conflict").says("rows were staged, and");
        assert_same_rows(&format!("{by}: {statement}"), before, case.rows());
        case.rerun("third");
        assert_same_rows(&format!("{by}, the next run"), case.oracle(strategy), case.rows());
        assert_eq!(case.ch.leftovers(), Vec::<String>::new());
    });
}

/// What a load would make disappear is counted exactly, and compared with the limits before the first statement.
#[test]
fn a_load_that_would_delete_too_much_changes_nothing() {
    let cases = [
        ("full_refresh (exchange)", "lightweight deletion"),
        ("full_refresh (truncate_insert)", "lightweight deletion"),
        ("full_refresh (truncate_insert)", "months"),
        ("replace", "lightweight deletion"),
        ("replace", "months"),
        ("partition_replace", "lightweight deletion"),
        ("partition_replace", "partitions"),
    ];
    every_case(cases, |(by, into)| {
        let strategy = strategy(by);
        let case = Case::new(From::Postgres, strategy, target(into));
        let text = std::fs::read_to_string(case.project.path(FILE)).unwrap();
        let limited = |limit: &str| {
            let (text, mode) = (text.trim_end(), strategy.yaml.strip_suffix('}').unwrap());
            let with = text.replace(mode, &format!("{mode}, {limit}"));
            assert!(with.contains(limit), "{with}");
            case.project.write(FILE, with);
        };
        case.project.run(FILE, "one").ok();
        case.oracle(strategy);
        let before = case.rows();
        case.pg.execute("DELETE FROM shop.orders WHERE order_id % 8 = 3");
        let expected = case.oracle(strategy);
        let gone = before.len() - expected.len();
        assert!(gone > 5, "{by}: {gone} rows go");
        let refused = |limit: String, says: String| {
            limited(&limit);
            case.project.run(FILE, "refused").failed("data_quality").says(&says).says(&format!("{gone} "));
            assert_same_rows(&format!("{by} into {into}, {limit}"), before.clone(), case.rows());
            assert_eq!(case.ch.leftovers(), Vec::<String>::new(), "{by} into {into}, {limit}");
        };
        let part = gone as f64 / before.len() as f64;
        refused(format!("max_delete_rows: {}", gone - 1), format!("max_delete_rows is {}", gone - 1));
        refused("max_delete_rows: 0".into(), "max_delete_rows is 0".into());
        refused(format!("max_delete_ratio: {:.4}", part * 0.98), "max_delete_ratio is".into());
        limited(&format!("max_delete_rows: {gone}, max_delete_ratio: {:.4}", part * 1.02));
        case.project.run(FILE, "allowed").ok();
        assert_same_rows(&format!("{by} into {into}, allowed"), expected, case.rows());
    });
}

/// A table of one month, of which the source has the first days.
struct Month {
    pg: Pg,
    ch: ClickHouse,
    project: Project,
}

impl Month {
    fn new(strategy: &str, sink: &str) -> Self {
        let seed = "CREATE TABLE shop.t (id int NOT NULL, day date NOT NULL, v text NOT NULL); \
                    INSERT INTO shop.t SELECT i, '2024-02-01'::date + i % 10, 'old' FROM generate_series(1, 100) i";
        let (pg, ch) = (database(seed), ClickHouse::new());
        let project = Project::new().env("DPONE_CONN_DB_URL", pg.url()).env("DPONE_CONN_CH_URL", ch.url());
        project.write(
            FILE,
            format!(
                "name: month\nsource: {{type: postgres, connection_type: env, connection_id: DB, table: {{schema: shop, name: t}}}}\n\
                 sink: {{type: clickhouse, connection_type: env, connection_id: CH, table: {{schema: {}, name: t}}, \
                 strategy: {{{strategy}}}, options: {{{sink}}}}}\n",
                ch.database
            ),
        );
        let project = project.argument("--lease-seconds").argument("1");
        project.run(FILE, "one").ok();
        pg.execute("UPDATE shop.t SET v = 'new'");
        Self { pg, ch, project }
    }

    fn rows(&self) -> Vec<String> {
        self.ch.column("SELECT concat(toString(id), '|', toString(day), '|', v) FROM t")
    }

    fn source(&self) -> Vec<String> {
        self.pg.column("SELECT concat_ws('|', id, day, v) FROM shop.t")
    }
}

/// Steps that replace a partition, or the whole table, were worked out from what was there: rows that others add before a
/// later run finishes the commit stay.
#[test]
fn a_commit_that_is_finished_later_leaves_rows_of_others_alone() {
    let replace = "mode: replace, custom_predicate: \"day < DATE '2024-02-11'\"";
    let by_day = "mode: partition_replace, partition: {column: day}";
    let merge = "mode: incremental_merge, unique_key: [id], merge_policy: shadow_swap";
    let months = "partition_by: [toYYYYMM(day)]";
    let cases = [
        (replace, months, "commit.planned", "already_committed"),
        // The partition was replaced already, and nothing says so.
        (replace, months, "commit.step@1", "already_committed"),
        (replace, "", "commit.planned", "already_committed"),
        (by_day, months, "commit.planned", "already_committed"),
        // No other statements could make the same of it: as if it had never been.
        (merge, "", "commit.planned", "committed"),
        // The table was exchanged, which shows.
        (merge, "", "commit.step@1", "already_committed"),
    ];
    every_case(cases, |(strategy, sink, step, status)| {
        let month = Month::new(strategy, sink);
        month.project.run_with_failpoint(FILE, "two", &format!("{step}=kill")).killed();
        month.ch.execute("INSERT INTO t (id, day, v) VALUES (1000, '2024-02-20', 'somebody')");
        std::thread::sleep(Duration::from_millis(1200));
        assert_eq!(month.project.run(FILE, "two").ok().status(), *status, "{strategy} {sink}, killed at {step}");
        let expected = [month.source(), vec!["1000|2024-02-20|somebody".to_owned()]].concat();
        assert_same_rows(&format!("{strategy} {sink}, killed at {step}"), expected.clone(), month.rows());
        month.project.run(FILE, "three").ok();
        assert_same_rows(&format!("{strategy} {sink}, the run after it"), expected, month.rows());
        assert_eq!(open_commits(&month.ch), Vec::<String>::new());
        assert_eq!(month.ch.leftovers(), Vec::<String>::new());
    });
}

/// Lightweight deletion is refused of them: a scope that is not whole is deleted by a mutation instead.
#[test]
fn a_scope_of_a_table_with_projections_is_replaced() {
    let replace = "mode: replace, custom_predicate: \"day < DATE '2024-02-05'\"";
    let month = Month::new("mode: full_refresh", "");
    month.ch.execute("ALTER TABLE t ADD PROJECTION by_day (SELECT day, count() GROUP BY day)");
    month.ch.execute("ALTER TABLE t MATERIALIZE PROJECTION by_day SETTINGS mutations_sync = 2");
    let text = std::fs::read_to_string(month.project.path(FILE)).unwrap();
    month.project.write(FILE, text.replace("mode: full_refresh", replace));
    month.project.run(FILE, "two").ok();
    assert_eq!(month.ch.value("SELECT toString(countIf(v = 'new')) FROM t WHERE day < '2024-02-05'"), "40");
    assert_eq!(month.ch.value("SELECT concat(toString(countIf(v = 'new')), ' ', toString(count())) FROM t"), "40 100");
}
