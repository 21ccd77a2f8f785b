//! `xmin` against real transactions: those in progress, aborted, prepared and rolled back in part; what vacuum, rewrites
//! and partitions do to row versions; and, as a property, that after every run the target equals the source as of the
//! run's snapshot.

mod clickhouse;
mod property;

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use dpone_tests::{COMMIT_STEPS, Lake, Outcome, Pg, Project, assert_same_rows, connect, every_case};
use serde_json::Value;

const FILE: &str = "load.yaml";
const MERGE: &str = "mode: incremental_merge, unique_key: [id]";

fn manifest(table: &str, strategy: &str, more: &str) -> String {
    let connection = "type: postgres, connection_type: env, connection_id: DB";
    format!(
        "name: orders_xmin\nsource: {{{connection}, table: {{schema: shop, name: {table}}}, options: {{incremental_strategy: xmin}}}}\n\
         sink: {{{connection}, table: {{schema: landing, name: t}}, strategy: {{{strategy}}}}}\n{more}\n"
    )
}

/// The horizon is the server's, not the database's: a test that leaves a transaction open holds back what others count.
/// Those write, all others read.
static TRANSACTIONS: RwLock<()> = RwLock::new(());

fn alone() -> RwLockWriteGuard<'static, ()> {
    TRANSACTIONS.write().unwrap_or_else(PoisonError::into_inner)
}

fn shared() -> RwLockReadGuard<'static, ()> {
    TRANSACTIONS.read().unwrap_or_else(PoisonError::into_inner)
}

/// A database with the table, and a project that loads it.
struct Place {
    pg: Pg,
    project: Project,
}

impl Place {
    fn on(pg: Pg, sql: &str, strategy: &str, more: &str) -> Self {
        pg.execute("CREATE SCHEMA shop; CREATE SCHEMA landing");
        pg.execute(sql);
        let project = Project::new().env("DPONE_CONN_DB_URL", pg.url()).argument("--lease-seconds").argument("1");
        project.write(FILE, manifest("t", strategy, more));
        Self { pg, project }
    }

    fn new(sql: &str, strategy: &str, more: &str) -> Self {
        Self::on(Pg::new(), sql, strategy, more)
    }

    /// Waits until every transaction of the server that began before has ended.
    fn settle(&self) {
        let next: u64 = self.pg.value("SELECT txid_snapshot_xmax(txid_current_snapshot())").parse().unwrap();
        let began = Instant::now();
        while self.pg.value("SELECT txid_snapshot_xmin(txid_current_snapshot())").parse::<u64>().unwrap() < next {
            assert!(began.elapsed() < Duration::from_secs(60), "a transaction of another test stays open");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs under a run id of its own, when nothing else is in progress.
    fn run(&self) -> Outcome {
        self.settle();
        self.run_now()
    }

    fn run_now(&self) -> Outcome {
        self.project.run(FILE, &ulid::Ulid::generate().to_string())
    }

    #[track_caller]
    fn same(&self, what: &str) {
        assert_same_rows(what, self.pg.rows("shop.t"), self.pg.rows("landing.t"));
    }
}

fn notes(outcome: &Outcome) -> Vec<String> {
    let notes = outcome.json()["result"]["details"]["notes"].clone();
    notes.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[track_caller]
fn notes_say(outcome: &Outcome, what: &str) {
    assert!(notes(outcome).iter().any(|note| note.contains(what)), "{what:?} is not in {:#?}", notes(outcome));
}

const TABLE: &str = "CREATE TABLE shop.t (id int PRIMARY KEY, v text NOT NULL, n numeric); \
                     INSERT INTO shop.t SELECT i, 'v' || i, i FROM generate_series(1, 500) i";

/// The oldest and the newest server.
const ENDS: [u32; 2] = [11, 18];

#[test]
fn what_was_in_progress_comes_when_it_has_ended_and_nothing_else_travels() {
    let _turn = alone();
    every_case(ENDS, |major| {
        let place = Place::on(Pg::major(*major), TABLE, MERGE, "");
        let first = place.run().ok();
        assert_eq!((first.rows("extracted"), first.rows("inserted")), (500, 500));
        let (runtime, open) = connect(place.pg.url());
        let open_run = |sql: &str| runtime.block_on(open.batch_execute(sql)).unwrap();
        open_run("BEGIN; UPDATE shop.t SET v = 'open' WHERE id = 7; INSERT INTO shop.t VALUES (600, 'open', 0)");
        place.pg.execute("UPDATE shop.t SET v = 'late' WHERE id = 8; INSERT INTO shop.t VALUES (601, 'late', 0)");
        let second = place.run_now().ok();
        place.same("with a transaction in progress");
        assert_eq!((second.rows("updated"), second.rows("inserted"), second.rows("extracted")), (1, 1, 2));
        notes_say(&second, "is in progress (process ");
        open_run("COMMIT");
        let third = place.run().ok();
        place.same("when it has ended");
        assert_eq!((third.rows("updated"), third.rows("inserted"), third.rows("unchanged")), (1, 1, 2));
        let fourth = place.run().ok();
        assert_eq!(fourth.rows("extracted"), 0, "nothing is new: {}", fourth.text());
    });
}

#[test]
fn subtransactions_that_were_rolled_back_are_not_seen_and_the_others_are() {
    let _turn = alone();
    let place = Place::new(TABLE, MERGE, "");
    place.run().ok();
    let (runtime, open) = connect(place.pg.url());
    let open_run = |sql: &str| runtime.block_on(open.batch_execute(sql)).unwrap();
    open_run("BEGIN; INSERT INTO shop.t VALUES (700, 'top', 0); SAVEPOINT a; INSERT INTO shop.t VALUES (701, 'a', 0)");
    open_run("ROLLBACK TO a; SAVEPOINT b; INSERT INTO shop.t VALUES (702, 'b', 0); RELEASE b");
    // Younger transactions end before the older one, whose subtransactions are younger still.
    place.pg.execute("INSERT INTO shop.t VALUES (703, 'young', 0)");
    open_run("SAVEPOINT c; UPDATE shop.t SET v = 'c' WHERE id = 1");
    place.run_now().ok();
    place.same("in progress");
    open_run("COMMIT");
    place.run().ok();
    place.same("committed");
    assert_eq!(place.pg.column("SELECT id FROM landing.t WHERE id >= 700 ORDER BY id"), ["700", "702", "703"]);
}

#[test]
fn freezing_changes_nothing_and_a_rewrite_starts_over() {
    let _turn = shared();
    every_case(ENDS, |major| {
        let place = Place::on(Pg::major(*major), TABLE, MERGE, "");
        place.run().ok();
        place.pg.execute("VACUUM FREEZE shop.t");
        assert_eq!(place.run().ok().rows("extracted"), 0);
        every_case(
            ["VACUUM FULL shop.t", "CLUSTER shop.t USING t_pkey", "ALTER TABLE shop.t ALTER n TYPE float8"],
            |rewrite| {
                place.pg.execute("DELETE FROM shop.t WHERE id = (SELECT max(id) FROM shop.t)");
                place.pg.execute(rewrite);
                if rewrite.contains("ALTER") {
                    place.pg.execute("ALTER TABLE landing.t ALTER n TYPE float8");
                }
                let outcome = place.run().ok();
                notes_say(&outcome, "everything is read again");
                assert_eq!(outcome.rows("deleted"), 1, "what went meanwhile is found too");
                place.same(rewrite);
                assert_eq!(place.run().ok().rows("extracted"), 0, "{rewrite}: once");
            },
        );
    });
}

#[test]
fn a_column_that_is_added_has_values_in_rows_that_nobody_wrote() {
    let _turn = shared();
    let place = Place::new(TABLE, MERGE, "");
    place.run().ok();
    place.pg.execute("ALTER TABLE shop.t ADD COLUMN c int DEFAULT 5; ALTER TABLE landing.t ADD COLUMN c int");
    let outcome = place.run().ok();
    notes_say(&outcome, "columns of shop.t changed");
    place.same("with the new column");
}

#[test]
fn truncate_is_seen_and_does_not_empty_the_target_unasked() {
    let _turn = shared();
    let place = Place::new(TABLE, MERGE, "");
    place.run().ok();
    let before = place.pg.rows("landing.t");
    place.pg.execute("TRUNCATE shop.t");
    place.run().failed("data_quality").says("set empty_source: allow");
    assert_same_rows("refused", before, place.pg.rows("landing.t"));
    place.pg.execute("INSERT INTO shop.t SELECT i, 'again', 0 FROM generate_series(1, 400) i");
    let outcome = place.run().ok();
    assert_eq!((outcome.rows("updated"), outcome.rows("deleted")), (400, 100));
    place.same("after TRUNCATE");

    place.pg.execute("TRUNCATE shop.t");
    place.project.write(FILE, manifest("t", &format!("{MERGE}, empty_source: allow, max_delete_ratio: 1"), ""));
    place.run().ok();
    assert_eq!(place.pg.count("landing.t"), 0);
    // An empty target is no reason to refuse; reading everything into it is right.
    place.pg.execute("INSERT INTO shop.t VALUES (1, 'new', 1)");
    place.run().ok();
    place.same("from nothing");
}

#[test]
fn reconciliation_finds_deletions_on_its_cadence_and_within_its_limits() {
    let _turn = shared();
    let place = Place::new(TABLE, MERGE, "reconciliation: {enabled: true, mode: key_snapshot, cadence: 3}");
    place.run().ok();
    place.pg.execute("DELETE FROM shop.t WHERE id <= 10; UPDATE shop.t SET id = 900 WHERE id = 11");
    let deleted: Vec<u64> = (0..3).map(|_| place.run().ok().rows("deleted")).collect();
    assert_eq!(deleted, [0, 0, 11], "in the third run after the first");
    place.same("compared");

    let every = |more: &str| manifest("t", MERGE, &format!("reconciliation: {{cadence: every_run{more}}}"));
    place.project.write(FILE, every(", guards: {max_delete_rows: 5}"));
    place.pg.execute("DELETE FROM shop.t WHERE id BETWEEN 100 AND 109");
    place.run().failed("data_quality").says("max_delete_rows is 5");
    place.project.write(FILE, every(""));
    assert_eq!(place.run().ok().rows("deleted"), 10);
    // By default not more than half.
    place.pg.execute("DELETE FROM shop.t WHERE id > 200");
    place.run().failed("data_quality").says("max_delete_ratio is 0.5");
    place.project.write(FILE, every(", guards: {max_delete_ratio: 0.9}"));
    place.run().ok();
    place.same("raised");

    place.project.write(FILE, manifest("t", MERGE, "reconciliation: false"));
    place.pg.execute("DELETE FROM shop.t WHERE id = 50");
    place.pg.execute("VACUUM FULL shop.t");
    let outcome = place.run().ok();
    notes_say(&outcome, "reconciliation is off");
    assert_eq!(outcome.rows("deleted"), 0);
    assert_eq!(place.pg.value("SELECT count(*) FROM landing.t WHERE id = 50"), "1");
}

#[test]
fn rows_that_are_gone_may_be_marked_instead() {
    let _turn = shared();
    let more = "reconciliation: {cadence: every_run, delete_policy: soft_delete}";
    let place = Place::new(TABLE, MERGE, more);
    place.run().ok();
    place.pg.execute("DELETE FROM shop.t WHERE id <= 10; UPDATE shop.t SET v = 'x' WHERE id = 11");
    let marked = place.run().ok();
    assert_eq!((marked.rows("deleted"), marked.rows("updated")), (10, 1), "{}", marked.text());
    let gone = "SELECT id FROM landing.t WHERE __dpone__is_deleted AND __dpone__deleted_at <= now() AND v = 'v' || id";
    assert_eq!(place.pg.column(gone).len(), 10, "marked, and otherwise as they were");
    assert_eq!(
        place.pg.value("SELECT count(*) FROM landing.t WHERE NOT __dpone__is_deleted AND __dpone__deleted_at IS NULL"),
        "490"
    );
    assert_eq!(place.run().ok().rows("staged"), 0, "marked once");
    place.pg.execute("INSERT INTO shop.t VALUES (1, 'back', 1)");
    place.run().ok();
    let live = "SELECT (id, v, n)::text FROM landing.t WHERE NOT __dpone__is_deleted";
    assert_same_rows("a row that comes back", place.pg.rows("shop.t"), place.pg.column(live));
    // The guards count marks as they count deletions.
    place.pg.execute("DELETE FROM shop.t WHERE id > 100");
    place.run().failed("data_quality").says("max_delete_ratio is 0.5");
}

#[test]
fn xmin_survives_kill_at_every_step() {
    let _turn = shared();
    every_case(["mode: incremental_append", MERGE], |strategy| {
        every_case(COMMIT_STEPS, |step| {
            let more = if *strategy == MERGE { "reconciliation: true" } else { "" };
            let place = Place::new(TABLE, strategy, more);
            place.run().ok();
            place.pg.execute("UPDATE shop.t SET v = 'x' WHERE id % 10 = 0; INSERT INTO shop.t VALUES (1000, 'new', 1)");
            if *strategy == MERGE {
                place.pg.execute("DELETE FROM shop.t WHERE id % 7 = 0");
            }
            let before = place.pg.rows("landing.t");
            place.project.run_with_failpoint(FILE, "second", &format!("{step}=kill")).killed();
            let expected = |pg: &Pg| match *strategy == MERGE {
                true => pg.rows("shop.t"),
                false => [before.clone(), pg.column("SELECT t::text FROM shop.t t WHERE v IN ('x', 'new')")].concat(),
            };
            let sorted = |mut rows: Vec<String>| {
                rows.sort_unstable();
                rows
            };
            let found = sorted(place.pg.rows("landing.t"));
            let whole = found == sorted(expected(&place.pg));
            assert!(whole || found == sorted(before.clone()), "killed at {step}: part of a load is visible");
            std::thread::sleep(Duration::from_millis(1200));
            place.settle();
            let outcome = place.project.run(FILE, "second").ok();
            assert_eq!(outcome.status(), if whole { "already_committed" } else { "committed" }, "killed at {step}");
            assert_same_rows(step, expected(&place.pg), place.pg.rows("landing.t"));
            // Position and rows moved together: nothing comes twice, and nothing is left out.
            assert_eq!(place.run().ok().rows("staged"), 0, "killed at {step}");
        });
    });
}

#[test]
fn appended_versions_come_once_each_whatever_is_in_progress() {
    let _turn = alone();
    let place = Place::new(TABLE, "mode: incremental_append", "");
    place.run().ok();
    let (runtime, open) = connect(place.pg.url());
    let open_run = |sql: &str| runtime.block_on(open.batch_execute(sql)).unwrap();
    open_run("BEGIN; SAVEPOINT a; INSERT INTO shop.t VALUES (800, 'open', 0); RELEASE a");
    place.pg.execute("INSERT INTO shop.t VALUES (801, 'waits', 0)");
    for _ in 0..2 {
        assert_eq!(place.run_now().ok().rows("inserted"), 0, "what is younger than the open one waits");
    }
    open_run("COMMIT");
    assert_eq!(place.run().ok().rows("inserted"), 2);
    place.same("each once");
    place.pg.execute("UPDATE shop.t SET v = 'second' WHERE id = 801; DELETE FROM shop.t WHERE id = 1");
    assert_eq!(place.run().ok().rows("inserted"), 1);
    assert_eq!(place.pg.column("SELECT v FROM landing.t WHERE id = 801 ORDER BY v"), ["second", "waits"]);
    assert_eq!(place.run().ok().rows("inserted"), 0);

    place.pg.execute("VACUUM FULL shop.t");
    place.run().failed("conflict").says("without a key");
}

#[test]
fn appended_versions_with_a_key_survive_a_rewrite() {
    let _turn = shared();
    let place = Place::new(TABLE, "mode: incremental_append, unique_key: [id]", "");
    place.run().ok();
    place.pg.execute("UPDATE shop.t SET v = 'second', n = NULL WHERE id <= 5");
    place.pg.execute("VACUUM FULL shop.t");
    let outcome = place.run().ok();
    notes_say(&outcome, "value for value");
    assert_eq!(outcome.rows("inserted"), 5);
    assert_eq!(place.pg.count("landing.t"), 505);
}

const PARTITIONED: &str = "CREATE TABLE shop.t (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id); \
     CREATE TABLE shop.t1 PARTITION OF shop.t FOR VALUES FROM (0) TO (100); \
     CREATE TABLE shop.t2 (v text, id int NOT NULL); ALTER TABLE shop.t ATTACH PARTITION shop.t2 FOR VALUES FROM (100) TO (200); \
     INSERT INTO shop.t SELECT i, 'v' || i FROM generate_series(1, 199) i";

#[test]
fn leaves_of_a_partitioned_table_are_followed_one_by_one() {
    let _turn = shared();
    every_case(ENDS, |major| {
        let place = Place::on(Pg::major(*major), PARTITIONED, MERGE, "");
        place.run().ok();
        place.same("all leaves");
        // Rows of an attached table were written long ago.
        place.pg.execute("CREATE TABLE shop.t3 (id int PRIMARY KEY, v text); INSERT INTO shop.t3 SELECT i, 'old' FROM generate_series(200, 299) i");
        place.pg.execute("UPDATE shop.t SET v = 'x' WHERE id = 1");
        assert_eq!(place.run().ok().rows("extracted"), 1);
        place.pg.execute("ALTER TABLE shop.t ATTACH PARTITION shop.t3 FOR VALUES FROM (200) TO (300)");
        let attached = place.run().ok();
        assert_eq!(attached.rows("inserted"), 100, "{}", attached.text());
        notes_say(&attached, "read whole: shop.t3");
        // A row that moves is written anew.
        place.pg.execute("UPDATE shop.t SET id = 250 WHERE id = 50 AND NOT EXISTS (SELECT FROM shop.t WHERE id = 250)");
        place.pg.execute("DELETE FROM shop.t WHERE id = 251; UPDATE shop.t SET id = 251 WHERE id = 51");
        place.pg.execute(
            "ALTER TABLE shop.t DETACH PARTITION shop.t2; TRUNCATE shop.t1; INSERT INTO shop.t VALUES (1, 'anew')",
        );
        place.project.write(FILE, manifest("t", &format!("{MERGE}, max_delete_ratio: 0.9"), ""));
        let outcome = place.run().ok();
        notes_say(&outcome, "read whole: shop.t1");
        place.same("after DETACH and TRUNCATE of leaves");
        assert_eq!(place.run().ok().rows("extracted"), 0);
    });
}

#[test]
fn heirs_are_read_with_their_parent() {
    let _turn = shared();
    let sql = "CREATE TABLE shop.t (id int, v text); CREATE TABLE shop.heir () INHERITS (shop.t); \
               INSERT INTO shop.t VALUES (1, 'a'); INSERT INTO shop.heir VALUES (2, 'b')";
    let place = Place::new(sql, MERGE, "reconciliation: true");
    place.run().ok();
    place.pg.execute("UPDATE shop.heir SET v = 'c'; INSERT INTO shop.heir VALUES (3, 'd')");
    assert_eq!(place.run().ok().rows("extracted"), 2);
    place.same("heirs");
    place.pg.execute("ALTER TABLE shop.heir NO INHERIT shop.t; INSERT INTO shop.t VALUES (4, 'e'), (5, 'f')");
    place.project.write(FILE, manifest("t", &format!("{MERGE}, max_delete_ratio: 1"), "reconciliation: true"));
    place.run().ok();
    place.same("without the heir");
}

#[test]
fn what_has_no_xmin_of_its_own_is_refused_by_name() {
    let _turn = shared();
    let place = Place::new(
        "CREATE TABLE shop.u (id int PRIMARY KEY); CREATE VIEW shop.t AS SELECT * FROM shop.u; \
         CREATE EXTENSION IF NOT EXISTS file_fdw; CREATE SERVER f FOREIGN DATA WRAPPER file_fdw; \
         CREATE FOREIGN TABLE shop.far (id int) SERVER f OPTIONS (filename '/dev/null')",
        MERGE,
        "",
    );
    place.run().failed("configuration").says("shop.t: it is a view");
    place.project.write(FILE, manifest("far", MERGE, ""));
    place.run().failed("configuration").says("shop.far: it is a foreign table");
    let sql = |query: &str, strategy: &str| {
        place.project.write(
            "p.sql",
            format!(
                "CREATE CONNECTION db TYPE postgres OPTIONS ('url' 'env:DPONE_CONN_DB_URL');\n\
                 CREATE CONNECTION lake TYPE delta OPTIONS ('path' 'lake');\n\
                 CREATE PIPELINE other_xmin INTO db.landing.o STRATEGY {strategy} AS {query};\n"
            ),
        );
        place.project.run("p.sql", &ulid::Ulid::generate().to_string())
    };
    let merge = "xmin KEY (id)";
    sql("SELECT a.id FROM db.shop.u a JOIN db.shop.u b USING (id)", merge).failed("configuration").says("joins tables");
    sql("SELECT id FROM db.shop.u LIMIT 1", merge).failed("configuration").says("has a limit");
    sql("SELECT 1 AS id", merge).failed("configuration").says("reads no table");
    sql("SELECT id, v FROM db.shop.u", "xmin").says("KEY is missing");
    place.pg.execute("INSERT INTO shop.u VALUES (1), (2)");
    sql("SELECT id AS id, id * 2 AS twice FROM db.shop.u WHERE id > 1", merge).ok();
    assert_eq!(place.pg.rows("landing.o"), ["(2,4)"]);
    // Another source has no such reader.
    place.project.run("p.sql", "lake").ok();
    place.project.write(
        "d.sql",
        "CREATE CONNECTION lake TYPE delta OPTIONS ('path' 'lake');\n\
         CREATE CONNECTION db TYPE postgres OPTIONS ('url' 'env:DPONE_CONN_DB_URL');\n\
         CREATE PIPELINE fill INTO lake.landing.o STRATEGY full_refresh AS SELECT id FROM db.shop.u;\n",
    );
    place.project.run("d.sql", "fill").ok();
    place.project.write(
        "d.sql",
        "CREATE CONNECTION lake TYPE delta OPTIONS ('path' 'lake');\n\
         CREATE CONNECTION db TYPE postgres OPTIONS ('url' 'env:DPONE_CONN_DB_URL');\n\
         CREATE PIPELINE from_lake INTO db.landing.o STRATEGY xmin KEY (id) AS SELECT id FROM lake.landing.o;\n",
    );
    place.project.run("d.sql", "from").failed("configuration").says("cannot tell which rows changed");
}

#[test]
fn another_definition_or_server_does_not_use_the_position() {
    let _turn = shared();
    let place = Place::new(TABLE, MERGE, "");
    place.run().ok();
    place.project.write(
        FILE,
        manifest("t", MERGE, "").replace("incremental_strategy: xmin", "incremental_strategy: xmin, columns: [id, v]"),
    );
    place.run().failed("conflict").says("stored position");
    place.project.write(FILE, manifest("t", MERGE, ""));
    // As if the state had come from another cluster, another timeline, and from transactions yet to come.
    let edits = [
        ("{changes,position,system}", "\"1\"", "another one"),
        ("{changes,position,timeline}", "77", "timeline 77 to"),
        ("{changes,position,horizon}", "4000000000000", "went back"),
        ("{changes,position,horizon}", "3", "extracted"),
    ];
    for (path, value, why) in edits {
        place.pg.execute(&format!("UPDATE landing.__dpone__state SET state = jsonb_set(state, '{path}', '{value}')"));
        place.pg.execute("DELETE FROM shop.t WHERE id = (SELECT max(id) FROM shop.t)");
        let outcome = place.run().ok();
        if why != "extracted" {
            notes_say(&outcome, why);
            place.same(why);
        }
    }
    place.pg.execute(
        "UPDATE landing.__dpone__state SET state = jsonb_set(state, '{changes,position}', '{\"version\": 9}')",
    );
    place.run().failed("configuration").says("another version");
}

#[test]
fn a_role_without_rights_loads_and_is_told_what_is_not_checked() {
    let _turn = shared();
    let place = Place::new(TABLE, MERGE, "reconciliation: true");
    let role = format!("plain_{}", ulid::Ulid::generate().to_string().to_lowercase());
    place.pg.execute(&format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA shop TO {role}; GRANT SELECT ON shop.t TO {role}; \
         GRANT USAGE, CREATE ON SCHEMA landing TO {role}; GRANT CREATE ON DATABASE {} TO {role}; \
         REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC",
        place.pg.value("SELECT current_database()")
    ));
    let project = Project::new().env("DPONE_CONN_DB_URL", place.pg.url().replacen("postgres@", &format!("{role}@"), 1));
    project.write(FILE, manifest("t", MERGE, "reconciliation: true"));
    let outcome = project.run(FILE, "one").ok();
    notes_say(&outcome, "may not ask");
    place.pg.execute("DELETE FROM shop.t WHERE id = 1; UPDATE shop.t SET v = 'x' WHERE id = 2");
    project.run(FILE, "two").ok();
    place.same("as a plain role");
    place.pg.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[test]
fn deletions_reach_a_lake_too() {
    let _turn = shared();
    let place = Place::new(TABLE, MERGE, "");
    let text = manifest("t", MERGE, "reconciliation: true");
    let connection = "type: postgres, connection_type: env, connection_id: DB, table: {schema: landing, name: t}";
    place.project.write(FILE, text.replace(connection, "type: delta, path: lake, table: {schema: landing, name: t}"));
    place.run().ok();
    place.pg.execute("DELETE FROM shop.t WHERE id % 7 = 0; UPDATE shop.t SET v = 'x' WHERE id % 5 = 0; INSERT INTO shop.t VALUES (1000, 'n', NULL)");
    let outcome = place.run().ok();
    assert_eq!(outcome.rows("deleted"), 71);
    let expression = "id || '|' || v || '|' || coalesce(n::varchar, '')";
    let expected = place.pg.column(&format!("SELECT {expression} FROM shop.t"));
    assert_same_rows("the lake", expected, Lake::Delta.rows(&place.project.path("lake/landing/t"), expression));
    assert_eq!(place.run().ok().rows("staged"), 0);
}

#[test]
fn a_plan_says_what_is_read_and_touches_nothing() {
    let _turn = shared();
    let place = Place::new(TABLE, MERGE, "reconciliation: true");
    place.run().ok();
    place.pg.execute("UPDATE shop.t SET v = 'x' WHERE id = 1");
    let state = place.pg.rows("landing.__dpone__state");
    place
        .project
        .dpone(&["plan", FILE])
        .ok()
        .says("because xmin has no index")
        .says("all keys of source and target are compared")
        .says("age(xmin)")
        .says("Diff");
    assert_eq!(place.pg.rows("landing.__dpone__state"), state);
}
