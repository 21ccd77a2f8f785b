//! The table that the matrix loads, how it changes, and what each strategy must make of it.
//!
//! The oracle is a second table in the source's own database, kept by plain SQL that knows nothing of dpone.

use dpone_tests::Pg;

/// Columns: name, PostgreSQL type, definition type, DuckDB type, and how both systems write a value as the same text.
pub(crate) const COLUMNS: &[Column] = &[
    column("order_id", "bigint PRIMARY KEY", "bigint", "BIGINT", "{}::text", "{}::varchar"),
    column("customer", "text NOT NULL", "text", "VARCHAR", "{}", "{}"),
    column("note", "text", "text", "VARCHAR", "{}", "{}"),
    column("amount", "numeric(12,2)", "decimal(12,2)", "DECIMAL(12,2)", "{}::text", "{}::varchar"),
    column("weight", "double precision", "double", "DOUBLE", "{}::text", "{}::varchar"),
    column("paid", "boolean", "boolean", "BOOLEAN", "{}::text", "{}::varchar"),
    column("business_date", "date NOT NULL", "date", "DATE", "{}::text", "{}::varchar"),
    column(
        "updated_at",
        "timestamptz NOT NULL",
        "timestamptz",
        "TIMESTAMPTZ",
        "(extract(epoch from {}) * 1000000)::bigint::text",
        "epoch_us({}::timestamptz)::varchar",
    ),
];

#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) postgres: &'static str,
    pub(crate) logical: &'static str,
    pub(crate) duckdb: &'static str,
    postgres_text: &'static str,
    duckdb_text: &'static str,
}

const fn column(
    name: &'static str,
    postgres: &'static str,
    logical: &'static str,
    duckdb: &'static str,
    postgres_text: &'static str,
    duckdb_text: &'static str,
) -> Column {
    Column { name, postgres, logical, duckdb, postgres_text, duckdb_text }
}

/// One row as text, the same in both systems.
pub(crate) fn postgres_row() -> String {
    row(COLUMNS.iter().map(|c| c.postgres_text.replace("{}", c.name)))
}

pub(crate) fn duckdb_row() -> String {
    row(COLUMNS.iter().map(|c| c.duckdb_text.replace("{}", c.name)))
}

fn row(columns: impl Iterator<Item = String>) -> String {
    let columns: Vec<_> = columns.map(|c| format!("coalesce({c}, 'NULL')")).collect();
    columns.join(" || '|' || ")
}

/// Makes `shop.orders` with 400 rows, and an empty oracle beside it.
pub(crate) fn seed(pg: &Pg) {
    let columns: Vec<_> = COLUMNS.iter().map(|c| format!("{} {}", c.name, c.postgres)).collect();
    pg.execute(&format!("CREATE SCHEMA shop; CREATE TABLE shop.orders ({})", columns.join(", ")));
    pg.execute("CREATE SCHEMA oracle; CREATE TABLE oracle.orders AS SELECT * FROM shop.orders");
    pg.execute(&rows(
        "generate_series(1, 400) i",
        "'2024-01-01 00:00:00.000001Z'::timestamptz + least(i, 398) * interval '1 minute'",
    ));
}

/// A fifth updated, one in twenty deleted, some inserted; one of the new rows ties with the newest row of before.
pub(crate) fn change(pg: &Pg) {
    pg.execute(
        "UPDATE shop.orders SET amount = amount + 1, note = CASE WHEN order_id % 2 = 0 THEN NULL ELSE 'changed' END, \
         updated_at = '2025-01-01Z'::timestamptz + order_id * interval '1 minute' WHERE order_id % 5 = 0",
    );
    pg.execute("DELETE FROM shop.orders WHERE order_id % 20 = 1");
    pg.execute(&rows("generate_series(1001, 1030) i", "'2025-06-01Z'::timestamptz + i * interval '1 second'"));
    pg.execute(&rows(
        "generate_series(2001, 2001) i",
        "'2024-01-01 00:00:00.000001Z'::timestamptz + 398 * interval '1 minute'",
    ));
}

fn rows(from: &str, updated_at: &str) -> String {
    format!(
        "INSERT INTO shop.orders SELECT i, 'customer ' || i % 37 || ' Ünï', \
         CASE i % 4 WHEN 0 THEN NULL WHEN 1 THEN '' WHEN 2 THEN 'a, \"quoted\" note' ELSE 'line' || chr(10) || 'break' END, \
         CASE WHEN i % 11 = 0 THEN NULL ELSE i * 1.37 END, CASE WHEN i % 13 = 0 THEN NULL ELSE i + 0.125 END, \
         CASE WHEN i % 7 = 0 THEN NULL ELSE i % 2 = 0 END, DATE '2024-01-01' + (i % 90)::int, {updated_at} FROM {from}"
    )
}

/// A strategy as a manifest writes it, and the SQL that does to the oracle what it must do to the target.
pub(crate) struct Strategy {
    pub(crate) name: &'static str,
    pub(crate) yaml: &'static str,
    pub(crate) source_options: &'static str,
    pub(crate) oracle: &'static str,
}

impl std::fmt::Debug for Strategy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

pub(crate) const STRATEGIES: &[Strategy] = &[
    Strategy {
        name: "full_refresh (exchange)",
        yaml: "{mode: full_refresh, overwrite_type: exchange}",
        source_options: "{}",
        oracle: "TRUNCATE oracle.orders; INSERT INTO oracle.orders SELECT * FROM shop.orders",
    },
    Strategy {
        name: "full_refresh (truncate_insert)",
        yaml: "{mode: full_refresh, overwrite_type: truncate_insert}",
        source_options: "{}",
        oracle: "TRUNCATE oracle.orders; INSERT INTO oracle.orders SELECT * FROM shop.orders",
    },
    Strategy {
        name: "replace",
        yaml: "{mode: replace, custom_predicate: \"business_date >= DATE '2024-02-01' AND business_date < DATE '2024-03-01'\"}",
        source_options: "{}",
        oracle: "DELETE FROM oracle.orders WHERE business_date >= DATE '2024-02-01' AND business_date < DATE '2024-03-01'; \
                 INSERT INTO oracle.orders SELECT * FROM shop.orders \
                 WHERE business_date >= DATE '2024-02-01' AND business_date < DATE '2024-03-01'",
    },
    Strategy {
        name: "incremental_append",
        yaml: "{mode: incremental_append}",
        source_options: "{incremental_column: updated_at}",
        oracle: "INSERT INTO oracle.orders SELECT * FROM shop.orders WHERE updated_at >= \
                 coalesce((SELECT max(updated_at) FROM oracle.orders), '-infinity') EXCEPT ALL SELECT * FROM oracle.orders",
    },
    Strategy {
        name: "incremental_merge",
        yaml: "{mode: incremental_merge, unique_key: [order_id]}",
        source_options: "{incremental_column: updated_at}",
        oracle: "DELETE FROM oracle.orders o USING shop.orders s WHERE o.order_id = s.order_id; \
                 INSERT INTO oracle.orders SELECT * FROM shop.orders",
    },
    Strategy {
        name: "snapshot_diff",
        yaml: "{mode: snapshot_diff, unique_key: [order_id]}",
        source_options: "{}",
        oracle: "TRUNCATE oracle.orders; INSERT INTO oracle.orders SELECT * FROM shop.orders",
    },
    Strategy {
        name: "partition_replace",
        yaml: "{mode: partition_replace, partition: {column: business_date, max_partitions_per_run: 90}}",
        source_options: "{}",
        oracle: "DELETE FROM oracle.orders WHERE business_date IN (SELECT business_date FROM shop.orders); \
                 INSERT INTO oracle.orders SELECT * FROM shop.orders",
    },
];

/// The oracle is worth nothing if its two ways of writing a row as text differ by themselves.
#[test]
fn both_ways_of_reading_a_row_agree() {
    use dpone_tests::{Lake, Project, assert_same_rows};

    use crate::matrix::{From, export};

    let (pg, project) = (Pg::new(), Project::new());
    seed(&pg);
    change(&pg);
    export(&pg, &project, From::Delta);
    let rows = pg.column(&format!("SELECT {} FROM shop.orders", postgres_row()));
    assert_same_rows("same rows", rows, Lake::Delta.rows(&project.path("source/shop/orders"), &duckdb_row()));
    for strategy in STRATEGIES {
        pg.execute(&format!("TRUNCATE oracle.orders; {}", strategy.oracle));
        assert!(pg.count("oracle.orders") > 100, "{strategy:?}");
    }
    // An empty table is a table too.
    pg.execute("TRUNCATE shop.orders");
    export(&pg, &project, From::Delta);
    assert_eq!(Lake::Delta.rows(&project.path("source/shop/orders"), &duckdb_row()), Vec::<String>::new());
}
