//! A source whose columns change between runs: what is made of it under each policy, on real servers and lakes.

mod approvals;
mod clickhouse;
mod columns;
mod contract;
mod lakes;
mod locks;
mod types;

use dpone_tests::{Pg, Project};

const DB: &str = "type: postgres, connection_type: env, connection_id: DB";

/// A pipeline from `shop.t` to `landing.t`, with lines of `schema_evolution`.
fn definition(strategy: &str, options: &str, evolution: &str) -> String {
    format!(
        "name: evolving\nsource: {{{DB}, table: {{schema: shop, name: t}}, options: {{{options}}}}}\n\
         sink: {{{DB}, table: {{schema: landing, name: t}}, strategy: {{{strategy}}}, \
         options: {{schema_evolution: {{{evolution}}}}}}}\n"
    )
}

fn evolving(pg: &Pg, strategy: &str, evolution: &str) -> Project {
    let project = Project::new().env("DPONE_CONN_DB_URL", pg.url());
    project.write("load.yaml", definition(strategy, "", evolution));
    project
}

/// Column by column: its name and type, with `not null` where that holds.
fn columns(pg: &Pg, table: &str) -> Vec<String> {
    pg.column(&format!(
        "SELECT attname || ' ' || format_type(atttypid, atttypmod) || CASE WHEN attnotnull THEN ' not null' ELSE '' END \
         FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    ))
}
