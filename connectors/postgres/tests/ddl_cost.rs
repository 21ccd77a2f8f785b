//! What `cost` says of a change, compared with what servers of every major version do: the statement is run in a
//! transaction, its locks, the files that it wrote and the rows that it read are looked at, and it is rolled back.
//!
//! Nothing may be called safer than it is. What is called costlier stands in a list, with the reason.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

mod ddl_support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::{Field, FieldRef, Schema};
use ddl_support::{Lock, Measured, Place};
use dpone_engine::TargetTable;
use dpone_planner::dialect::Dialect;
use dpone_planner::schema::{COLLATION, COMMENT, Cost, DEFAULT, Risk, SchemaChange, TableFacts};
use dpone_postgres::dialect::PostgresDialect;
use dpone_postgres::schema::{DomainKind, Inline, MAJORS, NewColumn, NewDefault, Operation, TypeChange, cost_of};

// ---- Cases ------------------------------------------------------------------------------------------------------

/// One change of a table `t`, which has 2,000 rows unless the case says otherwise.
struct Case {
    name: String,
    since: u32,
    /// After the table was made.
    setup: String,
    zone: &'static str,
    what: What,
}

enum What {
    /// A change of a plan, made from the columns of the table.
    Change(Box<dyn Fn(&Schema) -> SchemaChange + Send + Sync>),
    /// What plans have no change for, with its SQL.
    Statement(Box<dyn Fn(&Schema) -> Operation + Send + Sync>, String),
}

fn change(name: &str, setup: &str, change: impl Fn(&Schema) -> SchemaChange + Send + Sync + 'static) -> Case {
    Case {
        name: name.to_owned(),
        since: 11,
        setup: setup.to_owned(),
        zone: "UTC",
        what: What::Change(Box::new(change)),
    }
}

fn statement(name: &str, setup: &str, operation: Operation, sql: &str) -> Case {
    let what = What::Statement(Box::new(move |_: &Schema| operation.clone()), sql.to_owned());
    Case { what, ..change(name, setup, |_| unreachable!()) }
}

impl Case {
    fn since(self, major: u32) -> Self {
        Self { since: major, ..self }
    }

    fn empty(self) -> Self {
        Self { name: format!("{}, empty table", self.name), ..self }
    }

    fn zone(self, zone: &'static str) -> Self {
        Self { zone, name: format!("{}, TimeZone {zone}", self.name), ..self }
    }
}

fn of(schema: &Schema, name: &str) -> FieldRef {
    Arc::new(schema.field_with_name(name).unwrap().clone())
}

fn typed(name: &str, native: &str) -> Field {
    PostgresDialect.parse_type(name, native).unwrap()
}

fn with(field: Field, metadata: &[(&str, &str)]) -> Field {
    let mut all = field.metadata().clone();
    all.extend(metadata.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())));
    field.with_metadata(all)
}

/// The column `c` gets another type, and keeps its collation, as a comparison has it.
fn retype(column: &'static str, native: &'static str) -> impl Fn(&Schema) -> SchemaChange + Send + Sync + 'static {
    move |schema| {
        let from = of(schema, column);
        let kept: Vec<(&str, &str)> =
            from.metadata().get(COLLATION).map(|c| (COLLATION, c.as_str())).into_iter().collect();
        SchemaChange::AlterType { to: Arc::new(with(typed(column, native), &kept)), from }
    }
}

fn add(
    native: &'static str,
    nullable: bool,
    metadata: &'static [(&'static str, &'static str)],
) -> impl Fn(&Schema) -> SchemaChange + Send + Sync {
    move |_| SchemaChange::AddColumn { column: Arc::new(with(typed("x", native), metadata).with_nullable(nullable)) }
}

/// What may hang on the column `c`, a `varchar(20)`.
const DEPENDENTS: &[(&str, u32, &str)] = &[
    ("nothing", 11, ""),
    ("plain index", 11, "CREATE INDEX t_c ON $S.t (c)"),
    ("unique index", 11, "CREATE UNIQUE INDEX t_c ON $S.t (c, id)"),
    ("hash index", 11, "CREATE INDEX t_c ON $S.t USING hash (c)"),
    ("brin index", 11, "CREATE INDEX t_c ON $S.t USING brin (c)"),
    ("index with varchar_pattern_ops", 11, "CREATE INDEX t_c ON $S.t (c varchar_pattern_ops)"),
    ("index with bpchar_pattern_ops", 11, "CREATE INDEX t_c ON $S.t ((c::char(5)) bpchar_pattern_ops)"),
    ("index with a collation", 11, "CREATE INDEX t_c ON $S.t (c COLLATE \"POSIX\")"),
    ("index that includes it", 11, "CREATE INDEX t_c ON $S.t (id) INCLUDE (c)"),
    ("expression index", 11, "CREATE INDEX t_c ON $S.t (lower(c))"),
    ("partial index", 11, "CREATE INDEX t_c ON $S.t (id) WHERE c <> 'x'"),
    ("index on another column", 11, "CREATE INDEX t_d ON $S.t (d)"),
    ("unique constraint", 11, "ALTER TABLE $S.t ADD UNIQUE (c, id)"),
    ("primary key", 11, "ALTER TABLE $S.t ADD PRIMARY KEY (c, id)"),
    ("exclusion constraint", 11, "ALTER TABLE $S.t ADD EXCLUDE USING btree (c WITH =, id WITH =)"),
    (
        "index that is not valid",
        11,
        "CREATE INDEX t_c ON $S.t (c); UPDATE pg_index SET indisvalid = false WHERE indexrelid = '$S.t_c'::regclass",
    ),
    ("check", 11, "ALTER TABLE $S.t ADD CHECK (c <> 'zz')"),
    ("check of two columns", 11, "ALTER TABLE $S.t ADD CHECK (c <> 'zz' OR d > 5)"),
    ("check that is not valid", 11, "ALTER TABLE $S.t ADD CHECK (c <> 'zz') NOT VALID"),
    ("check without inheritance", 11, "ALTER TABLE $S.t ADD CHECK (c <> 'zz') NO INHERIT"),
    ("check of NOT NULL", 11, "ALTER TABLE $S.t ADD CHECK (c IS NOT NULL)"),
    ("check of NOT NULL that is not valid", 11, "ALTER TABLE $S.t ADD CHECK (c IS NOT NULL) NOT VALID"),
    ("check of two NOT NULLs", 11, "ALTER TABLE $S.t ADD CHECK (c IS NOT NULL AND d IS NOT NULL)"),
    ("check on another column", 11, "ALTER TABLE $S.t ADD CHECK (d > 0)"),
    ("not null", 11, "ALTER TABLE $S.t ALTER c SET NOT NULL"),
    ("not null that is not valid", 18, "ALTER TABLE $S.t ADD CONSTRAINT nn NOT NULL c NOT VALID"),
    ("default", 11, "ALTER TABLE $S.t ALTER c SET DEFAULT 'new'"),
    ("view", 11, "CREATE VIEW $S.v AS SELECT c FROM $S.t"),
    ("view of other columns", 11, "CREATE VIEW $S.v AS SELECT id, d FROM $S.t"),
    ("view that filters by it", 11, "CREATE VIEW $S.v AS SELECT id FROM $S.t WHERE c = 'x'"),
    ("view of whole rows", 11, "CREATE VIEW $S.v AS SELECT t FROM $S.t"),
    ("materialized view", 11, "CREATE MATERIALIZED VIEW $S.v AS SELECT c FROM $S.t"),
    ("rule", 11, "CREATE RULE r AS ON INSERT TO $S.t DO ALSO UPDATE $S.t SET d = 1 WHERE c = new.c"),
    ("generated column", 12, "ALTER TABLE $S.t ADD COLUMN g text GENERATED ALWAYS AS (c || 'x') STORED"),
    ("virtual generated column", 18, "ALTER TABLE $S.t ADD COLUMN g text GENERATED ALWAYS AS (c || 'x') VIRTUAL"),
    ("generated column of another", 12, "ALTER TABLE $S.t ADD COLUMN g int GENERATED ALWAYS AS (d + 1) STORED"),
    ("policy", 11, "CREATE POLICY p ON $S.t USING (c <> 'x')"),
    ("policy on another column", 11, "CREATE POLICY p ON $S.t USING (d > 0)"),
    (
        "trigger on its updates",
        11,
        "CREATE FUNCTION $S.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'; \
      CREATE TRIGGER g BEFORE UPDATE OF c ON $S.t FOR EACH ROW EXECUTE PROCEDURE $S.f()",
    ),
    (
        "trigger that looks at it",
        11,
        "CREATE FUNCTION $S.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'; \
      CREATE TRIGGER g BEFORE UPDATE ON $S.t FOR EACH ROW WHEN (old.c <> new.c) EXECUTE PROCEDURE $S.f()",
    ),
    (
        "trigger on rows",
        11,
        "CREATE FUNCTION $S.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'; \
      CREATE TRIGGER g BEFORE UPDATE ON $S.t FOR EACH ROW EXECUTE PROCEDURE $S.f()",
    ),
    ("publication", 11, "CREATE PUBLICATION $S FOR TABLE $S.t"),
    ("publication of columns", 15, "CREATE PUBLICATION $S FOR TABLE $S.t (id, c)"),
    ("publication with a filter", 15, "CREATE PUBLICATION $S FOR TABLE $S.t WHERE (c <> 'x')"),
    ("statistics", 11, "CREATE STATISTICS $S.s ON c, d FROM $S.t"),
    ("statistics of an expression", 14, "CREATE STATISTICS $S.s ON (lower(c)) FROM $S.t"),
    ("function", 11, "CREATE FUNCTION $S.f() RETURNS bigint LANGUAGE sql AS 'SELECT count(c) FROM $S.t'"),
    (
        "function that is tracked",
        14,
        "CREATE FUNCTION $S.f() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(c) FROM $S.t; END",
    ),
    (
        "foreign key to it",
        11,
        "CREATE UNIQUE INDEX t_c ON $S.t (c); CREATE TABLE $S.p (r varchar(20) REFERENCES $S.t (c)); \
      INSERT INTO $S.p SELECT c FROM $S.t",
    ),
    (
        "foreign key of it",
        11,
        "CREATE TABLE $S.p (r varchar(20) PRIMARY KEY); INSERT INTO $S.p SELECT DISTINCT c FROM $S.t; \
      ALTER TABLE $S.t ADD FOREIGN KEY (c) REFERENCES $S.p",
    ),
    (
        "foreign key of it that is not valid",
        11,
        "CREATE TABLE $S.p (r varchar(20) PRIMARY KEY); \
      ALTER TABLE $S.t ADD FOREIGN KEY (c) REFERENCES $S.p NOT VALID",
    ),
    ("collation", 11, "ALTER TABLE $S.t ALTER c TYPE varchar(20) COLLATE \"POSIX\""),
    (
        "collation and an index",
        11,
        "ALTER TABLE $S.t ALTER c TYPE varchar(20) COLLATE \"POSIX\"; CREATE INDEX t_c ON $S.t (c)",
    ),
    ("child", 11, "CREATE TABLE $S.t_child () INHERITS ($S.t); INSERT INTO $S.t_child SELECT * FROM $S.t"),
    (
        "child with an expression index",
        11,
        "CREATE TABLE $S.t_child () INHERITS ($S.t); INSERT INTO $S.t_child SELECT * FROM $S.t; \
      CREATE INDEX t_child_c ON $S.t_child (lower(c))",
    ),
    (
        "child with a check",
        11,
        "CREATE TABLE $S.t_child (CHECK (c <> 'zz')) INHERITS ($S.t); \
      INSERT INTO $S.t_child SELECT * FROM $S.t",
    ),
    (
        "check of NOT NULL and a child",
        11,
        "ALTER TABLE $S.t ADD CHECK (c IS NOT NULL); CREATE TABLE $S.t_child () INHERITS ($S.t); \
      INSERT INTO $S.t_child SELECT * FROM $S.t",
    ),
    ("column of its row type", 11, "CREATE TABLE $S.u (r $S.t)"),
];

/// Tables that are no plain ones; each replaces `t`.
const KINDS: &[(&str, u32, &str)] = &[
    (
        "partitioned",
        11,
        "CREATE TABLE $S.t (id int NOT NULL, c varchar(20), d int) PARTITION BY RANGE (id); \
      CREATE TABLE $S.t_1 PARTITION OF $S.t FOR VALUES FROM (0) TO (1000); CREATE TABLE $S.t_2 PARTITION OF $S.t DEFAULT",
    ),
    (
        "partitioned, indexed",
        11,
        "CREATE TABLE $S.t (id int NOT NULL, c varchar(20), d int) PARTITION BY RANGE (id); \
      CREATE TABLE $S.t_1 PARTITION OF $S.t FOR VALUES FROM (0) TO (1000); CREATE TABLE $S.t_2 PARTITION OF $S.t DEFAULT; \
      CREATE INDEX t_c ON $S.t (c)",
    ),
    (
        "partitioned, a partition indexed",
        11,
        "CREATE TABLE $S.t (id int NOT NULL, c varchar(20), d int) PARTITION BY RANGE (id); \
      CREATE TABLE $S.t_1 PARTITION OF $S.t FOR VALUES FROM (0) TO (1000); CREATE TABLE $S.t_2 PARTITION OF $S.t DEFAULT; \
      CREATE INDEX t_1_c ON $S.t_1 (c)",
    ),
    (
        "partitioned, a partition indexed by an expression",
        11,
        "CREATE TABLE $S.t (id int NOT NULL, c varchar(20), d int) \
      PARTITION BY RANGE (id); CREATE TABLE $S.t_1 PARTITION OF $S.t FOR VALUES FROM (0) TO (1000); \
      CREATE TABLE $S.t_2 PARTITION OF $S.t DEFAULT; CREATE INDEX t_1_c ON $S.t_1 (lower(c))",
    ),
    (
        "partitioned by the column",
        11,
        "CREATE TABLE $S.t (id int NOT NULL, c varchar(20), d int) PARTITION BY LIST (c); \
      CREATE TABLE $S.t_1 PARTITION OF $S.t FOR VALUES IN ('1'); CREATE TABLE $S.t_2 PARTITION OF $S.t DEFAULT",
    ),
    (
        "partitioned by an expression",
        11,
        "CREATE TABLE $S.t (id int NOT NULL, c varchar(20), d int) PARTITION BY LIST (lower(c)); \
      CREATE TABLE $S.t_1 PARTITION OF $S.t FOR VALUES IN ('1'); CREATE TABLE $S.t_2 PARTITION OF $S.t DEFAULT",
    ),
    (
        "partition",
        11,
        "CREATE TABLE $S.a (id int NOT NULL, c varchar(20), d int) PARTITION BY RANGE (id); \
      CREATE TABLE $S.t PARTITION OF $S.a DEFAULT",
    ),
    (
        "partition whose parent is NOT NULL",
        11,
        "CREATE TABLE $S.a (id int NOT NULL, c varchar(20) NOT NULL, d int) \
      PARTITION BY RANGE (id); CREATE TABLE $S.t PARTITION OF $S.a DEFAULT",
    ),
    (
        "child of another",
        11,
        "CREATE TABLE $S.a (c varchar(20)); CREATE TABLE $S.t (id int NOT NULL, d int) INHERITS ($S.a)",
    ),
];

const TABLE: &str = "CREATE TABLE $S.t (id int NOT NULL, c varchar(20), d int)";
const ROWS: &str = "INSERT INTO $S.t (id, c, d) SELECT n, n::text, n FROM generate_series(1, 2000) n";

type MakeChange = fn() -> What;

/// Each change of a column, by what hangs on it.
fn column_changes() -> Vec<(&'static str, MakeChange)> {
    fn boxed(change: impl Fn(&Schema) -> SchemaChange + Send + Sync + 'static) -> What {
        What::Change(Box::new(change))
    }
    vec![
        ("varchar(20) -> varchar(50)", || boxed(retype("c", "varchar(50)"))),
        ("varchar(20) -> text", || boxed(retype("c", "text"))),
        ("varchar(20) -> varchar(10)", || boxed(retype("c", "varchar(10)"))),
        ("other collation", || {
            boxed(|schema| SchemaChange::SetCollation { column: of(schema, "c"), collation: "C".into() })
        }),
        ("SET NOT NULL", || boxed(|schema| SchemaChange::SetNotNull { column: of(schema, "c") })),
        ("DROP NOT NULL", || boxed(|schema| SchemaChange::DropNotNull { column: of(schema, "c") })),
        ("SET DEFAULT", || boxed(|schema| SchemaChange::SetDefault { column: of(schema, "c"), default: "'x'".into() })),
        ("DROP DEFAULT", || boxed(|schema| SchemaChange::DropDefault { column: of(schema, "c") })),
        ("COMMENT", || {
            boxed(|schema| SchemaChange::SetComment { column: of(schema, "c"), comment: Some("it's".into()) })
        }),
        ("RENAME COLUMN", || boxed(|schema| SchemaChange::RenameColumn { from: of(schema, "c"), to: "e".into() })),
        ("DROP COLUMN", || boxed(|schema| SchemaChange::DropColumn { column: of(schema, "c") })),
        ("ADD COLUMN", || boxed(add("text", true, &[]))),
        ("ADD COLUMN NOT NULL with a constant", || boxed(add("integer", false, &[(DEFAULT, "7")]))),
        ("ADD COLUMN with random()", || boxed(add("double precision", true, &[(DEFAULT, "random()")]))),
    ]
}

/// By what hangs on the column: the cases of one table follow each other.
fn dependents() -> Vec<Case> {
    let with = |(name, since, setup): &(&'static str, u32, &'static str)| {
        ((*name).to_owned(), *since, format!("{TABLE}; {ROWS}; {setup}"))
    };
    let kind = |(name, since, table): &(&'static str, u32, &'static str)| {
        ((*name).to_owned(), *since, format!("{table}; {ROWS}"))
    };
    let empty = [("nothing", ""), ("check", "ALTER TABLE $S.t ADD CHECK (c <> 'zz')")]
        .map(|(name, setup)| (format!("{name}, empty table"), 11, format!("{TABLE}; {setup}")));
    let tables = DEPENDENTS.iter().map(with).chain(KINDS.iter().map(kind)).chain(empty);
    let mut cases = Vec::new();
    for (name, since, setup) in tables {
        for (change, what) in column_changes() {
            cases.push(Case {
                name: format!("{change}: {name}"),
                since,
                setup: setup.clone(),
                zone: "UTC",
                what: what(),
            });
        }
    }
    cases
}

/// Tables for the cases below: rows, and the domains and types that they name.
const MORE: &str = "CREATE TABLE $S.t (id int NOT NULL, c varchar(20), d int, ts timestamp, tz timestamptz, n numeric(10,2)); \
    INSERT INTO $S.t SELECT n, n::text, n, now(), now(), n FROM generate_series(1, 2000) n; \
    CREATE DOMAIN $S.free AS varchar(50); CREATE DOMAIN $S.checked AS varchar(50) CHECK (length(value) < 60); \
    CREATE DOMAIN $S.filled AS text NOT NULL; CREATE TYPE $S.mood AS ENUM ('sad', 'glad'); \
    CREATE TABLE $S.p (id int PRIMARY KEY); INSERT INTO $S.p SELECT n FROM generate_series(1, 2000) n";

fn more(setup: &str) -> String {
    format!("{MORE}; {setup}")
}

fn new_columns() -> Vec<Case> {
    let own = |native: &'static str| {
        move |schema: &Schema| {
            let _ = schema;
            SchemaChange::AddColumn { column: Arc::new(typed("x", native)) }
        }
    };
    let new = |column: NewColumn| Operation::AddColumn(column);
    let nothing = NewColumn::default;
    let add = |sql: &str| format!("ALTER TABLE $S.t ADD COLUMN x {sql}");
    let inline = |inline| new(NewColumn { inline: Some(inline), ..nothing() });
    let default = |default| new(NewColumn { default, ..nothing() });
    let domain = |domain| new(NewColumn { domain, ..nothing() });
    vec![
        change("ADD COLUMN collated", &more(""), self::add("text", true, &[(COLLATION, "C"), (COMMENT, "a\\b'c")])),
        change("ADD COLUMN constant", &more(""), self::add("text", true, &[(DEFAULT, "'it''s'")])),
        change("ADD COLUMN now()", &more(""), self::add("timestamptz", false, &[(DEFAULT, "now()")])),
        change("ADD COLUMN CURRENT_DATE", &more(""), self::add("date", false, &[(DEFAULT, "CURRENT_DATE")])),
        change(
            "ADD COLUMN clock_timestamp()",
            &more(""),
            self::add("timestamptz", true, &[(DEFAULT, "clock_timestamp()")]),
        ),
        change("ADD COLUMN gen_random_uuid()", &more(""), self::add("uuid", true, &[(DEFAULT, "gen_random_uuid()")]))
            .since(13),
        change("ADD COLUMN uuidv7()", &more(""), self::add("uuid", true, &[(DEFAULT, "uuidv7()")])).since(18),
        change("ADD COLUMN a stable function", &more(""), self::add("text", true, &[(DEFAULT, "current_schema()")])),
        change(
            "ADD COLUMN an unknown stable function",
            &more(""),
            self::add("text", true, &[(DEFAULT, "pg_my_temp_schema()")]),
        ),
        change("ADD COLUMN NOT NULL", &more(""), self::add("text", false, &[])),
        change("ADD COLUMN NOT NULL", TABLE, self::add("text", false, &[])).empty(),
        change("ADD COLUMN random()", TABLE, self::add("double precision", true, &[(DEFAULT, "random()")])).empty(),
        change("ADD COLUMN of a type of one's own", &more("SET search_path = $S"), own("\"mood\"")),
        statement("ADD COLUMN free domain", &more(""), domain(DomainKind::Free), &add("$S.free")),
        statement("ADD COLUMN checked domain", &more(""), domain(DomainKind::Checked), &add("$S.checked")),
        statement(
            "ADD COLUMN filled domain",
            &more(""),
            new(NewColumn { domain: DomainKind::Checked, default: NewDefault::Constant, ..nothing() }),
            &add("$S.filled DEFAULT 'x'"),
        ),
        statement("ADD COLUMN serial", &more(""), default(NewDefault::Volatile { known: true }), &add("serial")),
        statement(
            "ADD COLUMN identity",
            &more(""),
            default(NewDefault::Identity),
            &add("int GENERATED ALWAYS AS IDENTITY"),
        ),
        statement(
            "ADD COLUMN stored",
            &more(""),
            default(NewDefault::Stored),
            &add("int GENERATED ALWAYS AS (d + 1) STORED"),
        ),
        statement(
            "ADD COLUMN virtual",
            &more(""),
            default(NewDefault::Virtual),
            &add("int GENERATED ALWAYS AS (d + 1) VIRTUAL"),
        ),
        statement("ADD COLUMN with a check", &more(""), inline(Inline::Check), &add("int CHECK (x > 0)")),
        statement("ADD COLUMN unique", &more(""), inline(Inline::Unique), &add("int UNIQUE")),
        statement("ADD COLUMN references", &more(""), inline(Inline::References), &add("int REFERENCES $S.p")),
        statement(
            "ADD COLUMN constant references",
            &more(""),
            new(NewColumn { inline: Some(Inline::References), default: NewDefault::Constant, ..nothing() }),
            &add("int DEFAULT 1 REFERENCES $S.p"),
        ),
    ]
}

fn type_changes() -> Vec<Case> {
    let to_domain = |domain: DomainKind, native: &'static str, sql: &'static str, name: &str| {
        let what = What::Statement(
            Box::new(move |schema: &Schema| {
                Operation::AlterType(TypeChange::new(&of(schema, "c"), &typed("c", native)).unwrap().to_domain(domain))
            }),
            format!("ALTER TABLE $S.t ALTER c TYPE $S.{sql}"),
        );
        Case { what, ..change(name, &more(""), |_| unreachable!()) }
    };
    let computed = {
        let what = What::Statement(
            Box::new(|schema: &Schema| {
                Operation::AlterType(
                    TypeChange::new(&of(schema, "ts"), &typed("ts", "timestamptz")).unwrap().computed(),
                )
            }),
            "ALTER TABLE $S.t ALTER ts TYPE timestamptz USING ts AT TIME ZONE 'UTC'".to_owned(),
        );
        Case { what, ..change("timestamp -> timestamptz USING", &more(""), |_| unreachable!()) }
    };
    let indexed = |column: &str| more(&format!("CREATE INDEX t_i ON $S.t ({column})"));
    let labels = |schema: &Schema| {
        let from = of(schema, "m");
        let to = with(from.as_ref().clone(), &[("dpone:labels", "[\"sad\",\"so so\",\"glad\"]")]);
        SchemaChange::AlterType { from, to: Arc::new(to) }
    };
    vec![
        change("timestamp -> timestamptz", &more(""), retype("ts", "timestamptz")),
        change("timestamptz -> timestamp", &more(""), retype("tz", "timestamp")),
        change("timestamp -> timestamptz, indexed", &indexed("ts"), retype("ts", "timestamptz")),
        change("timestamp -> timestamptz", &more(""), retype("ts", "timestamptz")).zone("Europe/Berlin"),
        change("timestamptz -> timestamp", &more(""), retype("tz", "timestamp")).zone("America/New_York"),
        change("timestamp -> timestamptz", &more(""), retype("ts", "timestamptz")).zone("Etc/Greenwich"),
        change("timestamp -> timestamptz", &more(""), retype("ts", "timestamptz")).zone("Africa/Abidjan"),
        computed,
        to_domain(DomainKind::Free, "varchar(50)", "free", "varchar(20) -> free domain"),
        to_domain(DomainKind::Checked, "varchar(50)", "checked", "varchar(20) -> checked domain"),
        change("domain -> its base", &more("ALTER TABLE $S.t ALTER c TYPE $S.free"), retype("c", "varchar(50)")),
        change("domain -> text", &more("ALTER TABLE $S.t ALTER c TYPE $S.free"), retype("c", "text")),
        change("checked domain -> text", &more("ALTER TABLE $S.t ALTER c TYPE $S.checked"), retype("c", "text")),
        change("integer -> bigint, indexed", &indexed("d"), retype("d", "bigint")),
        change("integer -> bigint, foreign key", &more("ALTER TABLE $S.t ADD FOREIGN KEY (d) REFERENCES $S.p"), retype("d", "bigint")),
        change("numeric(10,2) -> numeric(12,2), indexed", &indexed("n"), retype("n", "numeric(12,2)")),
        change("numeric(10,2) -> numeric(12,4), indexed", &indexed("n"), retype("n", "numeric(12,4)")),
        change("enum gets a label", &more("ALTER TABLE $S.t ADD m $S.mood"), labels).since(12),
        change("enum -> text", &more("ALTER TABLE $S.t ADD m $S.mood; UPDATE $S.t SET m = 'sad'"), retype("m", "text")),
        change("identity, integer -> bigint",
            "CREATE TABLE $S.t (id int GENERATED BY DEFAULT AS IDENTITY, c varchar(20), d int); INSERT INTO $S.t (c) SELECT 'x' FROM generate_series(1, 2000)",
            retype("id", "bigint")),
        change("identity, DROP NOT NULL", "CREATE TABLE $S.t (id int GENERATED BY DEFAULT AS IDENTITY, c varchar(20))",
            |schema| SchemaChange::DropNotNull { column: of(schema, "id") }),
        change("identity, SET DEFAULT", "CREATE TABLE $S.t (id int GENERATED BY DEFAULT AS IDENTITY, c varchar(20))",
            |schema| SchemaChange::SetDefault { column: of(schema, "id"), default: "1".into() }),
        change("stored column, SET DEFAULT", "CREATE TABLE $S.t (id int, g int GENERATED ALWAYS AS (id + 1) STORED)",
            |schema| SchemaChange::SetDefault { column: of(schema, "g"), default: "1".into() }).since(12),
        change("stored column, integer -> bigint",
            "CREATE TABLE $S.t (id int, g int GENERATED ALWAYS AS (id + 1) STORED); INSERT INTO $S.t SELECT generate_series(1, 2000)",
            retype("g", "bigint")).since(12),
        change("stored column, varchar(20) -> text",
            "CREATE TABLE $S.t (id int, c varchar(20), g varchar(20) GENERATED ALWAYS AS (c) STORED); INSERT INTO $S.t SELECT generate_series(1, 2000)",
            retype("g", "text")).since(12),
        change("virtual column, varchar(20) -> text",
            "CREATE TABLE $S.t (id int, c varchar(20), g varchar(20) GENERATED ALWAYS AS (c) VIRTUAL); INSERT INTO $S.t SELECT generate_series(1, 2000)",
            retype("g", "text")).since(18),
    ]
}

/// The rest of what people do to tables.
fn statements() -> Vec<Case> {
    let s = |name: &str, setup: &str, operation: Operation, sql: &str| statement(name, &more(setup), operation, sql);
    let parent = "CREATE TABLE $S.tp (id int NOT NULL, c varchar(20), d int, ts timestamp, tz timestamptz, n numeric(10,2)) \
                  PARTITION BY RANGE (id)";
    let attach = "ALTER TABLE $S.tp ATTACH PARTITION $S.t FOR VALUES FROM (0) TO (5000)";
    let attached = format!("{parent}; {attach}");
    let c = || "c".to_owned();
    vec![
        s("ADD CHECK", "", Operation::AddCheck { valid: true }, "ALTER TABLE $S.t ADD CHECK (d > 0)"),
        s(
            "ADD CHECK NOT VALID",
            "",
            Operation::AddCheck { valid: false },
            "ALTER TABLE $S.t ADD CHECK (d > 0) NOT VALID",
        ),
        s(
            "VALIDATE CHECK",
            "ALTER TABLE $S.t ADD CONSTRAINT k CHECK (d > 0) NOT VALID",
            Operation::ValidateCheck,
            "ALTER TABLE $S.t VALIDATE CONSTRAINT k",
        ),
        s(
            "DROP CHECK",
            "ALTER TABLE $S.t ADD CONSTRAINT k CHECK (d > 0)",
            Operation::DropCheck,
            "ALTER TABLE $S.t DROP CONSTRAINT k",
        ),
        s(
            "ADD NOT NULL NOT VALID",
            "",
            Operation::AddNotNullNotValid { column: c() },
            "ALTER TABLE $S.t ADD CONSTRAINT k NOT NULL c NOT VALID",
        ),
        s(
            "VALIDATE NOT NULL",
            "ALTER TABLE $S.t ADD CONSTRAINT k NOT NULL c NOT VALID",
            Operation::ValidateCheck,
            "ALTER TABLE $S.t VALIDATE CONSTRAINT k",
        )
        .since(18),
        s(
            "ADD FOREIGN KEY",
            "",
            Operation::AddForeignKey { valid: true },
            "ALTER TABLE $S.t ADD FOREIGN KEY (d) REFERENCES $S.p",
        ),
        s(
            "ADD FOREIGN KEY NOT VALID",
            "",
            Operation::AddForeignKey { valid: false },
            "ALTER TABLE $S.t ADD FOREIGN KEY (d) REFERENCES $S.p NOT VALID",
        ),
        s(
            "VALIDATE FOREIGN KEY",
            "ALTER TABLE $S.t ADD CONSTRAINT k FOREIGN KEY (d) REFERENCES $S.p NOT VALID",
            Operation::ValidateForeignKey,
            "ALTER TABLE $S.t VALIDATE CONSTRAINT k",
        ),
        s(
            "DROP FOREIGN KEY",
            "ALTER TABLE $S.t ADD CONSTRAINT k FOREIGN KEY (d) REFERENCES $S.p",
            Operation::DropForeignKey,
            "ALTER TABLE $S.t DROP CONSTRAINT k",
        ),
        s(
            "ADD PRIMARY KEY",
            "",
            Operation::AddPrimaryKey { using_index: false, nullable: false },
            "ALTER TABLE $S.t ADD PRIMARY KEY (id)",
        ),
        s(
            "ADD PRIMARY KEY USING INDEX",
            "CREATE UNIQUE INDEX t_k ON $S.t (id)",
            Operation::AddPrimaryKey { using_index: true, nullable: false },
            "ALTER TABLE $S.t ADD CONSTRAINT t_k PRIMARY KEY USING INDEX t_k",
        ),
        s(
            "ADD PRIMARY KEY USING INDEX, column takes NULL",
            "CREATE UNIQUE INDEX t_k ON $S.t (d)",
            Operation::AddPrimaryKey { using_index: true, nullable: true },
            "ALTER TABLE $S.t ADD CONSTRAINT t_k PRIMARY KEY USING INDEX t_k",
        ),
        s("ADD UNIQUE", "", Operation::AddUnique { using_index: false }, "ALTER TABLE $S.t ADD UNIQUE (d)"),
        s(
            "ADD UNIQUE USING INDEX",
            "CREATE UNIQUE INDEX t_k ON $S.t (d)",
            Operation::AddUnique { using_index: true },
            "ALTER TABLE $S.t ADD CONSTRAINT t_k UNIQUE USING INDEX t_k",
        ),
        s("CREATE INDEX", "", Operation::CreateIndex { concurrently: false }, "CREATE INDEX t_i ON $S.t (d)"),
        s(
            "DROP INDEX",
            "CREATE INDEX t_i ON $S.t (d)",
            Operation::DropIndex { concurrently: false },
            "DROP INDEX $S.t_i",
        ),
        s("SET STATISTICS", "", Operation::SetStatistics, "ALTER TABLE $S.t ALTER c SET STATISTICS 500"),
        s("SET fillfactor", "", Operation::SetStorageParameters, "ALTER TABLE $S.t SET (fillfactor = 70)"),
        s(
            "SET autovacuum",
            "",
            Operation::SetStorageParameters,
            "ALTER TABLE $S.t SET (autovacuum_vacuum_threshold = 70)",
        ),
        s(
            "ADD TO PUBLICATION",
            "CREATE PUBLICATION $S",
            Operation::AddToPublication,
            "ALTER PUBLICATION $S ADD TABLE $S.t",
        ),
        s(
            "CREATE TRIGGER",
            "CREATE FUNCTION $S.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'",
            Operation::CreateTrigger,
            "CREATE TRIGGER g BEFORE UPDATE ON $S.t FOR EACH ROW EXECUTE PROCEDURE $S.f()",
        ),
        s("RENAME TABLE", "", Operation::RenameTable, "ALTER TABLE $S.t RENAME TO t_other"),
        s("ATTACH PARTITION", parent, Operation::AttachPartition { proven: false }, attach),
        s(
            "ATTACH PARTITION, proven",
            &format!("{parent}; ALTER TABLE $S.t ADD CHECK (id >= 0 AND id < 5000)"),
            Operation::AttachPartition { proven: true },
            attach,
        ),
        s("DETACH PARTITION", &attached, Operation::DetachPartition, "ALTER TABLE $S.tp DETACH PARTITION $S.t"),
        s("SET UNLOGGED", "", Operation::SetUnlogged, "ALTER TABLE $S.t SET UNLOGGED"),
        s("CLUSTER", "CREATE INDEX t_i ON $S.t (d)", Operation::Cluster, "CLUSTER $S.t USING t_i"),
        s("ALTER TYPE ADD VALUE", "", Operation::AddLabel, "ALTER TYPE $S.mood ADD VALUE 'bad'").since(12),
    ]
}

// ---- Comparing --------------------------------------------------------------------------------------------------

/// What was found, over all versions: names with the versions.
#[derive(Debug, Default)]
struct Found {
    /// Called safer than it is. There must be none.
    unsafe_: BTreeMap<String, BTreeSet<u32>>,
    /// Called costlier than it is.
    careful: BTreeMap<String, BTreeSet<u32>>,
    compared: usize,
}

impl Found {
    fn compare(&mut self, name: &str, major: u32, cost: &Cost, measured: &Measured) {
        self.compared += 1;
        let said = (cost.risk, Lock::of_cost(cost.lock.as_deref()), cost.work);
        let safer = said.0 < measured.risk
            || said.0 != Risk::Unsupported
                && measured.refusal.is_none()
                && (said.1 < measured.lock || said.2 < measured.work);
        if safer {
            let text = format!("{name}: said {said:?} ({}), did {measured:?}", cost.reason);
            self.unsafe_.entry(text).or_default().insert(major);
        } else if said.0 > measured.risk {
            let text = format!("{name}: said {}, is {}", said.0.as_str(), measured.risk.as_str());
            self.careful.entry(text).or_default().insert(major);
        }
    }

    fn merge(&mut self, other: Self) {
        for (mine, theirs) in [(&mut self.unsafe_, other.unsafe_), (&mut self.careful, other.careful)] {
            for (name, majors) in theirs {
                mine.entry(name).or_default().extend(majors);
            }
        }
        self.compared += other.compared;
    }

    /// Fails where something was called safer than it is, or where the list of what is called costlier has changed.
    fn check(&self, at_least: usize, reviewed: &[(&str, &str)]) {
        assert!(self.compared >= at_least, "{} comparisons were made", self.compared);
        let listed = |found: &BTreeMap<String, BTreeSet<u32>>| {
            found.iter().map(|(name, majors)| format!("  {name} {majors:?}\n")).collect::<String>()
        };
        assert!(self.unsafe_.is_empty(), "called safer than it is:\n{}", listed(&self.unsafe_));
        let careful: BTreeSet<&str> = self.careful.keys().map(String::as_str).collect();
        let known: BTreeSet<&str> = reviewed.iter().map(|(name, _)| *name).collect();
        let new: Vec<_> = careful.difference(&known).collect();
        let gone: Vec<_> = known.difference(&careful).collect();
        assert!(
            new.is_empty() && gone.is_empty(),
            "what is called costlier than it is has changed; not in the list: {new:#?}; only in the list: {gone:#?}; all:\n{}",
            listed(&self.careful)
        );
    }
}

async fn compare(cases: impl Fn() -> Vec<Case>, place: &str) -> Found {
    let mut found = Found::default();
    let mut running = tokio::task::JoinSet::new();
    for major in MAJORS {
        let (cases, place) = (cases(), place.to_owned());
        running.spawn(async move {
            let mut place = Place::new(major, &place).await;
            let mut found = Found::default();
            let mut standing: Option<(&str, TargetTable)> = None;
            for case in cases.iter().filter(|case| case.since <= major) {
                // What is measured is rolled back: the next case may have the same table.
                let described = match standing.take().filter(|(setup, _)| *setup == case.setup) {
                    Some((_, described)) => described,
                    None => {
                        place.fresh().await;
                        place.run(&case.setup).await;
                        place.describe("t").await
                    }
                };
                compare_one(&place, case, &described, &mut found).await;
                standing = Some((&case.setup, described));
            }
            place.drop().await;
            found
        });
    }
    while let Some(one) = running.join_next().await {
        found.merge(one.unwrap());
    }
    found
}

async fn compare_one(place: &Place, case: &Case, described: &TargetTable, found: &mut Found) {
    let table = place.table("t");
    let mut facts = described.facts.clone();
    facts.settings.insert("timezone".into(), case.zone.into());
    assert_eq!(facts.is_empty(), !described.has_rows, "{}: {facts:?}", case.name);
    let (cost, statements) = match &case.what {
        What::Change(change) => {
            let change = change(&described.schema);
            let statements = PostgresDialect.render(&table, &change).unwrap();
            (PostgresDialect.cost(&table, &facts, &change), statements)
        }
        What::Statement(operation, sql) => (cost_of(&table, &facts, &operation(&described.schema)), vec![sql.clone()]),
    };
    // What follows a change of the type, outside of its transaction.
    let inside = statements.into_iter().filter(|statement| !statement.starts_with("ANALYZE"));
    let zone = format!("SET LOCAL timezone = '{}'", case.zone);
    let inside: Vec<String> = std::iter::once(zone).chain(inside).collect();
    let measured = place.measure(&inside, facts.is_empty()).await;
    found.compare(&case.name, place.major, &cost, &measured);
}

fn run(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(future);
}

// ---- Tests ------------------------------------------------------------------------------------------------------

/// Called costlier than it is, and why.
const CAREFUL: &[(&str, &str)] = &[
    (
        "ADD COLUMN an unknown stable function: said blocking, is metadata_only",
        "whether a function gives each row another value stands in the catalog of functions, which is not read",
    ),
    (
        "ADD COLUMN of a type of one's own: said blocking, is metadata_only",
        "of a type that only its name is known of, nobody knows that it is no domain with a CHECK",
    ),
    (
        "DROP COLUMN: generated column: said unsupported, is metadata_only",
        "before version 15 the generated column goes with it, without a word",
    ),
    (
        "DROP NOT NULL: child of another: said unsupported, is metadata_only",
        "whether the parent has the NOT NULL is not read, and its column would differ from that of its child",
    ),
    (
        "DROP NOT NULL: partition: said unsupported, is metadata_only",
        "whether the parent has the NOT NULL is not read, and its column would differ from that of its partition",
    ),
    (
        "SET NOT NULL: check of two NOT NULLs: said blocking, is metadata_only",
        "only a CHECK that says no more than that one column is not NULL is taken for a proof",
    ),
    (
        "other collation: index that includes it: said blocking, is metadata_only",
        "an index does not say of its columns which are keys",
    ),
    (
        "other collation: index with a collation: said blocking, is metadata_only",
        "an index does not say which collation its keys have",
    ),
];

#[test]
fn no_change_is_called_safer_than_it_is() {
    run(async {
        let all = || [dependents(), new_columns(), type_changes(), statements()].into_iter().flatten().collect();
        compare(all, "cases").await.check(7_500, CAREFUL);
    });
}

/// Types of PostgreSQL; each is changed to each.
const TYPES: &[&str] = &[
    "boolean",
    "smallint",
    "integer",
    "bigint",
    "real",
    "double precision",
    "numeric",
    "numeric(10,2)",
    "numeric(12,2)",
    "numeric(12,4)",
    "numeric(20,0)",
    "text",
    "varchar",
    "varchar(20)",
    "varchar(50)",
    "char(5)",
    "char(9)",
    "bpchar",
    "name",
    "bytea",
    "uuid",
    "json",
    "jsonb",
    "xml",
    "date",
    "time",
    "time(3)",
    "timetz",
    "timestamp",
    "timestamp(3)",
    "timestamp(6)",
    "timestamptz",
    "timestamptz(3)",
    "interval",
    "interval(3)",
    "interval day",
    "interval day to second",
    "interval hour to second(3)",
    "interval year to month",
    "bit(3)",
    "bit(8)",
    "\"bit\"",
    "varbit",
    "varbit(8)",
    "varbit(16)",
    "inet",
    "cidr",
    "macaddr",
    "macaddr8",
    "oid",
    "regclass",
    "money",
    "\"char\"",
    "point",
    "box",
    "int4range",
    "integer[]",
    "bigint[]",
    "varchar(20)[]",
    "varchar(50)[]",
    "varchar[]",
    "text[]",
    "jsonb[]",
];

/// None: each pair is judged as it is.
const CAREFUL_PAIRS: &[(&str, &str)] = &[];

#[test]
fn no_pair_of_types_is_called_safer_than_it_is() {
    run(async {
        let mut found = Found::default();
        let mut running = tokio::task::JoinSet::new();
        for major in MAJORS {
            running.spawn(async move {
                let mut place = Place::new(major, "pairs").await;
                let mut found = Found::default();
                for from in TYPES {
                    place.fresh().await;
                    compare_pairs(&place, from, &mut found).await;
                }
                place.drop().await;
                found
            });
        }
        while let Some(one) = running.join_next().await {
            found.merge(one.unwrap());
        }
        found.check(50_000, CAREFUL_PAIRS);
    });
}

/// From one type to all others: a column with nothing on it, and an indexed one, of rows that hold NULL there.
async fn compare_pairs(place: &Place, from: &str, found: &mut Found) {
    place
        .run(&format!(
            "CREATE TABLE $S.t (id int, c {from}, i {from}); INSERT INTO $S.t SELECT generate_series(1, 100)"
        ))
        .await;
    let unsortable =
        ["json", "xml", "point", "box"].iter().any(|name| from.starts_with(name) && !from.starts_with("jsonb"));
    if !unsortable {
        place.run("CREATE INDEX t_i ON $S.t (i)").await;
    }
    let table = place.table("t");
    let described = place.describe("t").await;
    for to in TYPES.iter().filter(|to| *to != &from) {
        for (column, indexed) in [("c", ""), ("i", ", indexed")] {
            let change = retype_to(&described.schema, column, to);
            let cost = PostgresDialect.cost(&table, &described.facts, &change);
            if column == "i" && cost.work == dpone_planner::schema::Work::Rewrite {
                continue;
            }
            let mut statements = PostgresDialect.render(&table, &change).unwrap();
            statements.retain(|statement| !statement.starts_with("ANALYZE"));
            let measured = place.measure(&statements, false).await;
            found.compare(&format!("{from} -> {to}{indexed}"), place.major, &cost, &measured);
        }
    }
}

fn retype_to(schema: &Schema, column: &str, native: &str) -> SchemaChange {
    SchemaChange::AlterType { from: of(schema, column), to: Arc::new(typed(column, native)) }
}

/// Nothing is known but the names of the types: as costly as on any server.
#[test]
fn offline_is_never_safer_than_any_version() {
    let table = dpone_planner::Relation::new("s", "t");
    for from in TYPES {
        for to in TYPES.iter().filter(|to| *to != from) {
            let change = SchemaChange::AlterType { from: Arc::new(typed("c", from)), to: Arc::new(typed("c", to)) };
            let offline = PostgresDialect.cost(&table, &TableFacts::default(), &change);
            for major in MAJORS {
                let facts = TableFacts { observed: true, version: Some(major * 10_000), ..TableFacts::default() };
                let known = PostgresDialect.cost(&table, &facts, &change);
                assert!(offline.risk >= known.risk, "{from} -> {to} on {major}");
            }
            assert!(!offline.assumptions.is_empty());
        }
    }
}
