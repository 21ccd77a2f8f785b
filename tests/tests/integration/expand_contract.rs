//! Changes that cannot be made in one step, carried out while the table is in use.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dpone_tests::{Outcome, Pg, Project, connect};

struct Case {
    pg: Pg,
    project: Project,
}

impl Case {
    /// A table `landing.orders`, and the columns that the source has now.
    fn new(pg: Pg, table: &str, source: &str) -> Self {
        pg.execute(&format!("CREATE SCHEMA landing; {table}"));
        let project = Project::new().env("TARGET_URL", pg.url());
        project.write("dpone.sql", "CREATE CONNECTION target TYPE postgres OPTIONS ('url' 'env:TARGET_URL');\n");
        project.write("source.json", source);
        Self { pg, project }
    }

    fn plan(&self, more: &[&str]) -> Outcome {
        let arguments = [
            "schema",
            "expand-contract",
            "--source",
            "source.json",
            "--connection",
            "target",
            "--table",
            "landing.orders",
            "--output-dir",
            "out",
            "--format",
            "json",
        ];
        self.project.dpone(&[&arguments, more].concat())
    }

    fn arguments<'a>(&self, phase: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let arguments = [
            "schema",
            "expand-contract",
            "--apply",
            "--phase",
            phase,
            "--connection",
            "target",
            "--plan",
            "out/expand_contract_landing_orders.json",
            "--format",
            "json",
            "--lock-timeout-seconds",
            "1",
        ];
        [&arguments, more].concat()
    }

    fn apply(&self, phase: &str, more: &[&str]) -> Outcome {
        self.project.dpone(&self.arguments(phase, more))
    }

    fn killed(&self, phase: &str, failpoint: &str) {
        let arguments = self.arguments(phase, &["--batch-rows", "100"]);
        let output = self.project.command(&arguments).env("DPONE_FAILPOINT", failpoint).output().unwrap();
        Outcome::new(&arguments, output).killed();
    }

    fn all(&self) {
        for phase in ["expand", "backfill", "validate", "contract"] {
            self.apply(phase, &[]).ok();
        }
    }

    /// `column: type [not null] [default]` of each column.
    fn columns(&self) -> Vec<String> {
        self.pg.column(
            "SELECT concat_ws(' ', attname || ':', format_type(atttypid, atttypmod), CASE WHEN attnotnull THEN 'not null' END, \
             pg_get_expr(adbin, adrelid)) FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum \
             WHERE attrelid = 'landing.orders'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attname",
        )
    }

    /// What migrations leave behind that nobody asked to keep.
    fn ours(&self) -> Vec<String> {
        self.pg.column(
            "SELECT relname FROM pg_class WHERE relname LIKE '\\_\\_dpone\\_\\_x%' UNION ALL \
             SELECT proname FROM pg_proc WHERE proname LIKE '\\_\\_dpone%' UNION ALL \
             SELECT tgname FROM pg_trigger WHERE tgname LIKE '~%' UNION ALL \
             SELECT conname FROM pg_constraint WHERE conname LIKE '\\_\\_dpone\\_\\_x%' ORDER BY 1",
        )
    }
}

/// Updates and inserts, each in a transaction of its own, and measures the longest.
struct Writers {
    stop: Arc<AtomicBool>,
    longest_ms: Arc<AtomicU64>,
    done: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Writers {
    fn start(url: &str, statements: &[&str]) -> Self {
        let (stop, longest, done) =
            (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let threads = statements
            .iter()
            .map(|statement| {
                let (url, statement) = (url.to_owned(), (*statement).to_owned());
                let (stop, longest, done) = (Arc::clone(&stop), Arc::clone(&longest), Arc::clone(&done));
                std::thread::spawn(move || {
                    let (runtime, client) = connect(&url);
                    while !stop.load(Ordering::Relaxed) {
                        let begun = Instant::now();
                        runtime.block_on(client.batch_execute(&statement)).expect("no writer fails");
                        longest.fetch_max(begun.elapsed().as_millis() as u64, Ordering::Relaxed);
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        Self { stop, longest_ms: longest, done, threads }
    }

    /// The longest that one of them waited, in milliseconds.
    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("no writer fails");
        }
        assert!(self.done.load(Ordering::Relaxed) > 20, "the writers wrote");
        self.longest_ms.load(Ordering::Relaxed)
    }
}

const WIDE: &str = r#"[{"name": "id", "dtype": "bigint", "nullable": false}, {"name": "qty", "dtype": "bigint"}]"#;

#[test]
fn an_integer_becomes_a_bigint_while_writers_go_on() {
    let case = Case::new(
        Pg::new(),
        "CREATE TABLE landing.orders (id bigint PRIMARY KEY, qty integer NOT NULL DEFAULT 7 CHECK (qty > -5)); \
         COMMENT ON COLUMN landing.orders.qty IS 'how many'; \
         CREATE INDEX orders_qty ON landing.orders (qty DESC, id) WHERE id > 0; \
         INSERT INTO landing.orders SELECT i, i % 1000 FROM generate_series(1, 60000) i",
        WIDE,
    );
    let document = case.plan(&[]).ok().json();
    let phases: Vec<_> = document["phases"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
    assert_eq!(phases, ["expand", "backfill", "validate", "contract"]);
    let writers = Writers::start(
        case.pg.url(),
        &[
            "UPDATE landing.orders SET qty = qty + 1 WHERE id = (random() * 59999)::int + 1",
            "INSERT INTO landing.orders (id) SELECT coalesce(max(id), 0) + 1 FROM landing.orders",
        ],
    );
    case.apply("contract", &[]).says("--phase backfill");
    case.apply("backfill", &[]).says("--phase expand");
    case.apply("expand", &[]).ok();
    case.apply("validate", &[]).says("--phase backfill");
    case.apply("backfill", &["--batch-rows", "2000"]).ok();
    case.apply("contract", &[]).says("--phase validate");
    case.apply("contract", &["--drop-old"]).says("validate");
    case.apply("validate", &[]).ok();
    case.apply("contract", &["--drop-old"]).says("--phase contract first");
    let report = case.apply("contract", &[]).ok().json();
    assert_eq!(report["steps"][0]["stage"], "cut_over");
    let longest = writers.stop();
    assert!(longest < 1000, "a writer waited {longest} ms");

    assert_eq!(case.columns(), ["__dpone__old__qty: integer", "id: bigint not null", "qty: bigint not null 7"]);
    assert_eq!(case.pg.value("SELECT col_description('landing.orders'::regclass, attnum) FROM pg_attribute WHERE attrelid = 'landing.orders'::regclass AND attname = 'qty'"), "how many");
    let index = case.pg.value("SELECT indexdef FROM pg_indexes WHERE indexname = 'orders_qty'");
    assert!(index.contains("(qty DESC, id) WHERE (id > 0)"), "{index}");
    let checks = case.pg.column("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'c' AND conrelid = 'landing.orders'::regclass");
    assert_eq!(checks, ["CHECK ((qty > '-5'::integer))"]);
    assert_eq!(case.pg.value("SELECT count(*) FROM landing.orders WHERE qty IS DISTINCT FROM __dpone__old__qty"), "0");

    // What the old column cannot hold stops nobody; a way back must not lose it.
    case.pg.execute("UPDATE landing.orders SET qty = 5000000000 WHERE id = 1");
    assert_eq!(case.pg.value("SELECT __dpone__old__qty IS NULL FROM landing.orders WHERE id = 1"), "t");
    case.apply("contract", &["--rollback"]).says("no integer");
    case.pg.execute("UPDATE landing.orders SET qty = 5 WHERE id = 1");
    case.apply("contract", &["--rollback"]).ok();
    assert_eq!(case.columns(), ["__dpone__nc__qty: bigint", "id: bigint not null", "qty: integer not null 7"],);
    case.pg.execute("UPDATE landing.orders SET qty = 6 WHERE id = 1");
    assert_eq!(case.pg.value("SELECT __dpone__nc__qty FROM landing.orders WHERE id = 1"), "6");

    // And forward again, to the end.
    case.apply("validate", &[]).ok();
    case.apply("contract", &[]).ok();
    case.apply("contract", &["--drop-old"]).ok();
    assert_eq!(case.columns(), ["id: bigint not null", "qty: bigint not null 7"]);
    assert_eq!(case.ours(), Vec::<String>::new());
    case.apply("contract", &["--drop-old"]).ok();
}

#[test]
fn a_key_with_a_sequence_is_widened_on_every_server() {
    for major in 11..=18 {
        let table = "CREATE TABLE landing.orders (id serial PRIMARY KEY, note text UNIQUE); \
                     INSERT INTO landing.orders (note) SELECT 'n' || i FROM generate_series(1, 300) i";
        let source = r#"[{"name": "id", "dtype": "bigint", "nullable": false}, {"name": "note", "dtype": "text"}]"#;
        let case = Case::new(Pg::major(major), table, source);
        case.plan(&[]).ok();
        for phase in ["expand", "backfill", "validate"] {
            case.apply(phase, &[]).ok();
        }
        if major == 11 {
            case.apply("contract", &[]).says("PostgreSQL 11");
            case.apply("expand", &["--rollback"]).ok();
            assert_eq!(case.ours(), Vec::<String>::new());
            continue;
        }
        case.apply("contract", &[]).ok();
        case.apply("contract", &["--drop-old"]).ok();
        case.pg.execute(
            "INSERT INTO landing.orders (note) VALUES ('next'); SELECT setval('landing.orders_id_seq', 3000000000); \
                         INSERT INTO landing.orders (note) VALUES ('far')",
        );
        assert_eq!(
            case.pg.column("SELECT id FROM landing.orders ORDER BY id DESC LIMIT 2"),
            ["3000000001", "301"],
            "{major}"
        );
        let key = case.pg.value("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'orders_pkey'");
        assert_eq!(key, "PRIMARY KEY (id)", "{major}");
        assert_eq!(case.ours(), Vec::<String>::new(), "{major}");
    }
}

#[test]
fn an_identity_goes_on_where_it_was() {
    let table = "CREATE TABLE landing.orders (id integer GENERATED ALWAYS AS IDENTITY (INCREMENT BY 5) PRIMARY KEY, note text); \
                 INSERT INTO landing.orders (note) SELECT 'n' FROM generate_series(1, 3)";
    let source = r#"[{"name": "id", "dtype": "bigint", "nullable": false}, {"name": "note", "dtype": "text"}]"#;
    let case = Case::new(Pg::new(), table, source);
    case.plan(&[]).ok();
    case.all();
    case.pg.execute("INSERT INTO landing.orders (note) VALUES ('x')");
    assert_eq!(case.pg.value("SELECT max(id) FROM landing.orders"), "16");
    case.apply("contract", &["--rollback"]).ok();
    case.pg.execute("INSERT INTO landing.orders (note) VALUES ('x')");
    assert_eq!(case.pg.value("SELECT max(id) FROM landing.orders"), "21");
    assert_eq!(
        case.pg.value(
            "SELECT attidentity FROM pg_attribute WHERE attrelid = 'landing.orders'::regclass AND attname = 'id'"
        ),
        "a"
    );
}

#[test]
fn values_that_do_not_convert_are_counted_and_stop_no_writer() {
    // No primary key: along the blocks of the table.
    for major in [11, 13, 18] {
        let case = Case::new(
            Pg::major(major),
            "CREATE TABLE landing.orders (id integer, code text); \
             INSERT INTO landing.orders SELECT i, CASE i % 500 WHEN 0 THEN 'bad ' || i ELSE (i % 77)::text END \
             FROM generate_series(1, 5000) i",
            r#"[{"name": "id", "dtype": "integer"}, {"name": "code", "dtype": "integer"}]"#,
        );
        case.plan(&[]).ok();
        case.apply("expand", &[]).ok();
        case.pg.execute("INSERT INTO landing.orders VALUES (0, 'also bad'), (0, ' 12 '), (0, NULL)");
        case.apply("backfill", &["--batch-rows", "300"]).ok();
        let outcome = case.apply("validate", &[]);
        assert_eq!(outcome.code(), Some(1));
        let message = outcome.json()["error"].to_string();
        assert!(message.contains("11 values") && message.contains("data_quality"), "{major}: {message}");
        assert!(!message.contains("also bad"), "{message}");
        case.apply("contract", &[]).says("--phase validate");
        case.pg.execute("UPDATE landing.orders SET code = '-1' WHERE code LIKE '%bad%'");
        case.apply("validate", &[]).ok();
        // One more comes after it was validated: the cut-over sees it.
        case.pg.execute("INSERT INTO landing.orders VALUES (9, 'late')");
        case.apply("contract", &[]).says("no integer");
        case.pg.execute("INSERT INTO landing.orders VALUES (10, 'still going')");
        case.pg.execute("DELETE FROM landing.orders WHERE id IN (9, 10)");
        case.apply("validate", &[]).ok();
        case.apply("contract", &[]).ok();
        assert_eq!(case.columns(), ["__dpone__old__code: text", "code: integer", "id: integer"]);
        assert_eq!(case.pg.value("SELECT count(*) FROM landing.orders WHERE code = 12 AND id = 0"), "1");
        // After the cut-over writers of the new type keep the old column in step.
        case.pg.execute("INSERT INTO landing.orders (id, code) VALUES (99999, 4711)");
        assert_eq!(case.pg.value("SELECT __dpone__old__code FROM landing.orders WHERE id = 99999"), "4711");
    }
}

#[test]
fn a_narrower_type_takes_no_value_that_it_would_cut() {
    let case = Case::new(
        Pg::new(),
        "CREATE TABLE landing.orders (id integer PRIMARY KEY, name varchar(20), price numeric(12,4)); \
         INSERT INTO landing.orders VALUES (1, 'short', 1.5), (2, 'much too long', 2), (3, 'ok', 3.1234)",
        r#"[{"name": "id", "dtype": "integer", "nullable": false}, {"name": "name", "dtype": "varchar(5)"},
            {"name": "price", "dtype": "numeric(10,2)"}]"#,
    );
    case.plan(&["--mode", "strict"]).ok();
    case.apply("expand", &[]).ok();
    case.apply("backfill", &[]).ok();
    case.apply("validate", &[]).says("1 values of \\\"name\\\"");
    case.pg.execute("UPDATE landing.orders SET name = 'long' WHERE id = 2");
    case.apply("validate", &[]).says("1 values of \\\"price\\\"");
    case.pg.execute("UPDATE landing.orders SET price = 3.12 WHERE id = 3");
    case.apply("validate", &[]).ok();
    case.apply("contract", &[]).ok();
    assert_eq!(
        case.pg.rows("(SELECT id, name, price FROM landing.orders ORDER BY id)"),
        ["(1,short,1.50)", "(2,long,2.00)", "(3,ok,3.12)"]
    );
}

#[test]
fn both_names_take_values_while_a_column_is_renamed() {
    let case = Case::new(
        Pg::new(),
        "CREATE TABLE landing.orders (id integer PRIMARY KEY, old_name text NOT NULL DEFAULT 'd' UNIQUE); \
         CREATE VIEW landing.v AS SELECT old_name FROM landing.orders; \
         INSERT INTO landing.orders SELECT i, 'n' || i FROM generate_series(1, 300) i",
        r#"[{"name": "id", "dtype": "integer", "nullable": false}, {"name": "new_name", "dtype": "text", "nullable": false}]"#,
    );
    case.plan(&["--rename", "old_name=new_name"]).ok();
    for phase in ["expand", "backfill", "validate"] {
        case.apply(phase, &[]).ok();
    }
    let both =
        |id: u32| case.pg.rows(&format!("(SELECT old_name, new_name FROM landing.orders WHERE id = {id})")).remove(0);
    let write = |sql: &str| case.pg.execute(sql);
    let try_names = || {
        write(
            "UPDATE landing.orders SET old_name = 'a' WHERE id = 1; UPDATE landing.orders SET new_name = 'b' WHERE id = 2",
        );
        write(
            "INSERT INTO landing.orders (id, new_name) VALUES (1001, 'x'); INSERT INTO landing.orders (id, old_name) VALUES (1002, 'y')",
        );
        assert_eq!([both(1), both(2), both(1001), both(1002)], ["(a,a)", "(b,b)", "(x,x)", "(y,y)"]);
        write(
            "DELETE FROM landing.orders WHERE id > 1000; UPDATE landing.orders SET old_name = 'n' || id WHERE id < 3",
        );
        assert_eq!([both(1), both(2)], ["(n1,n1)", "(n2,n2)"]);
    };
    try_names();
    case.apply("contract", &[]).ok();
    try_names();
    case.apply("contract", &["--rollback"]).ok();
    try_names();
    case.apply("validate", &[]).ok();
    case.apply("contract", &[]).ok();
    case.apply("contract", &["--drop-old"]).ok();
    assert_eq!(case.columns(), ["id: integer not null", "new_name: text not null 'd'::text"]);
    assert_eq!(case.pg.count("landing.v"), 300);
    assert_eq!(case.ours(), Vec::<String>::new());
}

#[test]
fn null_is_forbidden_and_columns_go_away_step_by_step() {
    let case = Case::new(
        Pg::new(),
        "CREATE TABLE landing.orders (id integer PRIMARY KEY, note text, gone text NOT NULL); \
         INSERT INTO landing.orders SELECT i, CASE WHEN i % 10 > 0 THEN 'n' END, 'g' FROM generate_series(1, 300) i",
        r#"[{"name": "id", "dtype": "integer", "nullable": false}, {"name": "note", "dtype": "text", "nullable": false, "default": "'none'"}]"#,
    );
    case.plan(&["--strict-nullability", "--allow-drop"]).ok();
    case.all();
    assert_eq!(case.columns(), ["__dpone__old__gone: text", "id: integer not null", "note: text not null"]);
    assert_eq!(case.pg.value("SELECT count(*) FROM landing.orders WHERE note = 'none'"), "30");
    case.apply("contract", &["--rollback"]).ok();
    assert_eq!(case.columns(), ["gone: text", "id: integer not null", "note: text"]);
}

#[test]
fn a_phase_that_was_killed_goes_on() {
    for key in ["PRIMARY KEY", ""] {
        let case = Case::new(
            Pg::new(),
            &format!(
                "CREATE TABLE landing.orders (id integer {key}, qty integer NOT NULL); CREATE UNIQUE INDEX orders_u ON landing.orders (qty, id); \
                 INSERT INTO landing.orders SELECT i, i FROM generate_series(1, 3000) i"
            ),
            r#"[{"name": "id", "dtype": "integer", "nullable": false}, {"name": "qty", "dtype": "bigint"}]"#,
        );
        case.plan(&[]).ok();
        for place in ["migrate.expand.begun", "migrate.expand.applied"] {
            case.killed("expand", &format!("{place}=kill"));
            if place == "migrate.expand.applied" {
                break;
            }
        }
        case.apply("expand", &[]).ok();
        case.killed("backfill", "migrate.backfill.batch@3=kill");
        let done = case.pg.value("SELECT rows_done FROM landing.__dpone__migrations");
        assert_ne!(done, "0");
        let report = case.apply("backfill", &["--batch-rows", "100"]).ok().json();
        let rest = report["steps"][0]["rows"].as_u64().unwrap();
        assert!(rest > 0 && rest <= 3000 - done.parse::<u64>().unwrap(), "{done} rows, then {rest}");
        case.killed("validate", "migrate.validate.counted=kill");
        case.apply("contract", &[]).says("--phase validate");
        case.apply("validate", &[]).ok();
        case.killed("contract", "migrate.contract.prepared=kill");
        // Killed while an index was built: what is left is no index.
        case.pg.execute(
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = (SELECT oid FROM pg_class WHERE relname LIKE '\\_\\_dpone\\_\\_xi%')",
        );
        case.killed("contract", "migrate.contract.swapped=kill");
        case.apply("contract", &[]).ok();
        assert_eq!(
            case.pg.value("SELECT bool_and(indisvalid) FROM pg_index WHERE indrelid = 'landing.orders'::regclass"),
            "t"
        );
        case.pg.execute("UPDATE landing.orders SET qty = qty + 5000000000");
        case.pg.execute("UPDATE landing.orders SET qty = qty - 5000000000");
        let arguments = case.arguments("contract", &["--drop-old"]);
        let output =
            case.project.command(&arguments).env("DPONE_FAILPOINT", "migrate.contract.dropped=kill").output().unwrap();
        Outcome::new(&arguments, output).killed();
        case.apply("contract", &["--drop-old"]).ok();
        assert_eq!(case.ours(), Vec::<String>::new());
    }
}

#[test]
fn what_hangs_on_the_column_is_refused_by_name() {
    let cases = [
        ("CREATE VIEW landing.v AS SELECT qty FROM landing.orders", "view landing.v"),
        ("CREATE INDEX orders_e ON landing.orders ((qty + 1))", "index orders_e"),
        ("CREATE INDEX orders_p ON landing.orders (id) WHERE qty > 0", "index orders_p"),
        (
            "ALTER TABLE landing.orders ADD CONSTRAINT u UNIQUE (qty); CREATE TABLE landing.child (q integer CONSTRAINT child_fk REFERENCES landing.orders (qty))",
            "foreign key child_fk of landing.child",
        ),
        ("ALTER TABLE landing.orders ADD g integer GENERATED ALWAYS AS (qty * 2) STORED", "column g"),
        (
            "CREATE FUNCTION landing.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; CREATE TRIGGER t BEFORE UPDATE OF qty ON landing.orders FOR EACH ROW EXECUTE FUNCTION landing.f()",
            "trigger t",
        ),
        ("CREATE POLICY pol ON landing.orders USING (qty > 0)", "policy pol"),
        ("CREATE STATISTICS landing.st ON id, qty FROM landing.orders", "landing.st"),
        ("GRANT SELECT (qty) ON landing.orders TO PUBLIC", "privileges"),
    ];
    for (ddl, name) in cases {
        let case = Case::new(
            Pg::new(),
            &format!(
                "CREATE TABLE landing.orders (id integer PRIMARY KEY, qty integer); {ddl}; INSERT INTO landing.orders (id, qty) VALUES (1, 1)"
            ),
            WIDE_QTY,
        );
        case.plan(&[]).ok();
        case.apply("expand", &[]).says(name);
        assert_eq!(case.ours(), Vec::<String>::new(), "{name}");
    }
}

const WIDE_QTY: &str = r#"[{"name": "id", "dtype": "integer", "nullable": false}, {"name": "qty", "dtype": "bigint"}]"#;

#[test]
fn keys_to_other_tables_move_along() {
    let case = Case::new(
        Pg::new(),
        "CREATE TABLE landing.parent (id integer PRIMARY KEY); INSERT INTO landing.parent SELECT generate_series(0, 9); \
         CREATE TABLE landing.orders (id integer PRIMARY KEY, qty integer CONSTRAINT to_parent REFERENCES landing.parent ON DELETE CASCADE); \
         INSERT INTO landing.orders SELECT i, i % 10 FROM generate_series(1, 100) i",
        WIDE_QTY,
    );
    case.plan(&[]).ok();
    case.all();
    let key =
        case.pg.table("SELECT pg_get_constraintdef(oid), convalidated FROM pg_constraint WHERE conname = 'to_parent'");
    assert_eq!(key[0][0].as_deref(), Some("FOREIGN KEY (qty) REFERENCES landing.parent(id) ON DELETE CASCADE"));
    assert_eq!(key[0][1].as_deref(), Some("t"));
}

#[test]
fn a_catalog_that_moved_is_refused() {
    let case = Case::new(
        Pg::new(),
        "CREATE TABLE landing.orders (id integer PRIMARY KEY, qty integer); INSERT INTO landing.orders VALUES (1, 1)",
        WIDE_QTY,
    );
    case.plan(&[]).ok();
    case.pg.execute("CREATE INDEX later ON landing.orders (qty)");
    case.apply("expand", &[]).says("catalog moved");
    case.plan(&[]).ok();
    case.apply("expand", &[]).ok();
    case.pg.execute("ALTER TABLE landing.orders ADD COLUMN more text");
    case.apply("backfill", &[]).says("catalog moved");
    case.apply("expand", &["--rollback"]).ok();
    case.plan(&[]).ok();
    let path = case.project.path("out/expand_contract_landing_orders.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("ADD COLUMN", "DROP COLUMN")).unwrap();
    case.apply("expand", &[]).says("the plan was changed");
}

#[test]
fn a_lock_that_is_held_is_waited_for_within_the_budget_alone() {
    let case = Case::new(
        Pg::new(),
        "CREATE TABLE landing.orders (id integer PRIMARY KEY, qty integer); INSERT INTO landing.orders VALUES (1, 1)",
        WIDE_QTY,
    );
    case.plan(&[]).ok();
    let (runtime, reader) = connect(case.pg.url());
    runtime.block_on(reader.batch_execute("BEGIN; SELECT * FROM landing.orders")).unwrap();
    let writers = Writers::start(case.pg.url(), &["UPDATE landing.orders SET qty = qty + 1"]);
    case.apply("expand", &["--lock-attempts", "2"]).says("was not free");
    // Readers and writers that queued behind us were let go.
    assert!(writers.stop() < 1000);
    assert_eq!(case.columns(), ["id: integer not null", "qty: integer"]);
    let releasing = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(1500));
        runtime.block_on(reader.batch_execute("COMMIT")).unwrap();
    });
    case.apply("expand", &[]).ok();
    releasing.join().unwrap();
}

/// Names of letters that mean something to SQL, to a shell of quotes, or to nobody.
fn hostile_name(seed: u64) -> String {
    const PARTS: [&str; 16] =
        ["\"", "'", ";", "--", "$dpone$", "$dpone1$", "/*", "\\", " ", "ü", "select", "%", "🦀", "{0}", "$1", "\n"];
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut name = String::new();
    while name.len() < 3 + (seed as usize % 50) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        name.push_str(PARTS[(state % 16) as usize]);
    }
    while name.len() > 63 {
        name.pop();
    }
    name
}

#[test]
fn hostile_names_are_only_ever_names() {
    let quote = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let mut names: Vec<String> = (1..25).map(hostile_name).collect();
    names.push("x".repeat(63));
    names.push(format!("{}b", "x".repeat(62)));
    names.push("__dpone_not_ours".into());
    for pair in names.chunks(3).filter(|pair| pair.len() == 3) {
        let [table, column, other] = pair else { unreachable!() };
        let (table, column, other) = (quote(table), quote(column), quote(other));
        let pg = Pg::new();
        pg.execute(&format!(
            "CREATE TABLE {table} (id integer PRIMARY KEY, {column} text NOT NULL DEFAULT '1' CHECK ({column} IS NOT NULL), {other} integer); \
             CREATE INDEX ON {table} ({column}, {other}); INSERT INTO {table} SELECT i, i, i FROM generate_series(1, 50) i"
        ));
        let project = Project::new().env("TARGET_URL", pg.url());
        project.write("dpone.sql", "CREATE CONNECTION target TYPE postgres OPTIONS ('url' 'env:TARGET_URL');\n");
        let source = serde_json::json!([
            {"name": "id", "dtype": "integer", "nullable": false},
            {"name": pair[1], "dtype": "integer", "nullable": false},
            {"name": pair[2], "dtype": "bigint"},
        ]);
        project.write("source.json", source.to_string());
        let name = format!("public.{table}");
        let planned = project.dpone(&[
            "schema",
            "expand-contract",
            "--source",
            "source.json",
            "--connection",
            "target",
            "--table",
            &name,
            "--format",
            "json",
        ]);
        let plan = planned.ok().json()["artifact_path"].as_str().unwrap().to_owned();
        for phase in ["expand", "backfill", "validate", "contract"] {
            let arguments =
                ["schema", "expand-contract", "--apply", "--phase", phase, "--connection", "target", "--plan", &plan];
            project.dpone(&arguments).ok();
        }
        let sum = format!("SELECT sum({column} + {other}) FROM {table}");
        assert_eq!(pg.value(&sum), "2550", "{pair:?}");
        project
            .dpone(&[
                "schema",
                "expand-contract",
                "--apply",
                "--phase",
                "contract",
                "--drop-old",
                "--connection",
                "target",
                "--plan",
                &plan,
            ])
            .ok();
        assert_eq!(pg.value("SELECT count(*) FROM pg_attribute WHERE attname LIKE '\\_\\_dpone\\_\\_%' AND attrelid IN (SELECT oid FROM pg_class WHERE relkind = 'r' AND relname NOT LIKE '\\_\\_dpone%')"), "0");
    }
}
