//! The statements of a migration, from its names alone: what a plan shows is what is executed.
//!
//! Whatever a name holds, it is only ever a name: identifiers are quoted, function bodies stand between dollar quotes
//! that they do not hold, and types are names of types and nothing else.

use dpone_engine::{Error, Relation, Result};
use dpone_planner::plan::RESERVED_PREFIX;
use dpone_planner::schema::expand_contract::{Migration, MigrationKind, MigrationStep, Phase, StepDecision};

use crate::dialect::is_type_name;
use crate::write::names::{check, quote, relation};

/// Where the progress of migrations is kept, in the schema of the table.
pub(super) const STATE_TABLE: &str = "__dpone__migrations";
/// Raised by the cut-over where a value does not convert.
pub(super) const BAD_ROWS: &str = "DP001";

/// Names of everything that a migration makes.
#[derive(Debug, Clone)]
pub(super) struct Names {
    schema: String,
    id: String,
}

impl Names {
    pub(super) fn new(table: &Relation, migration: &Migration) -> Self {
        // The id is of the table, the change and both types: no two migrations share one.
        let id: String = migration.schema_change_id.chars().filter(char::is_ascii_hexdigit).take(24).collect();
        Self { schema: table.schema.clone(), id }
    }

    fn named(&self, part: &str) -> String {
        format!("{RESERVED_PREFIX}{part}_{}", self.id)
    }

    /// Converts into the type of the column that is kept in step: the new type before the cut-over, the old one after.
    pub(super) fn convert(&self, back: bool) -> Relation {
        Relation::new(&self.schema, self.named(if back { "xr" } else { "xc" }))
    }

    pub(super) fn sync(&self, back: bool) -> Relation {
        Relation::new(&self.schema, self.named(if back { "xt" } else { "xs" }))
    }

    /// Triggers fire in the order of their names: this one comes after those that change the value.
    pub(super) fn trigger(&self, back: bool) -> String {
        format!("~{}", self.sync(back).name)
    }

    /// CHECK that stands in for NOT NULL until the cut-over.
    pub(super) fn not_null(&self) -> String {
        self.named("xn")
    }

    /// Index of the rows whose value does not convert.
    pub(super) fn bad_rows(&self) -> Relation {
        Relation::new(&self.schema, self.named("xb"))
    }

    /// What an index is called while it waits to take the name of another one, or after it gave it away.
    pub(super) fn parked_index(&self, index: &str) -> Relation {
        use sha2::{Digest, Sha256};
        let digest = Sha256::digest(format!("{}:{index}", self.id).as_bytes());
        Relation::new(&self.schema, format!("{RESERVED_PREFIX}xi_{}", dpone_planner::state::hex(&digest[..12])))
    }

    pub(super) fn prefix() -> String {
        format!("{RESERVED_PREFIX}x")
    }
}

/// Two columns of which one is kept in step with the other.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    /// The column that writers fill.
    pub(super) live: String,
    pub(super) mirror: String,
    pub(super) live_type: String,
    pub(super) mirror_type: String,
    /// Every value of the live column is one of the mirror's type.
    pub(super) exact: bool,
    pub(super) rename: bool,
    /// After the cut-over.
    pub(super) back: bool,
}

impl Pair {
    pub(super) fn before(migration: &Migration) -> Self {
        Self {
            live: migration.column.clone(),
            mirror: migration.shadow.clone(),
            live_type: migration.from_type.clone(),
            mirror_type: migration.to_type.clone(),
            exact: migration.exact,
            rename: migration.kind == MigrationKind::Rename,
            back: false,
        }
    }

    pub(super) fn after(migration: &Migration) -> Self {
        let rename = migration.kind == MigrationKind::Rename;
        let (live, mirror) = if rename {
            (migration.shadow.clone(), migration.column.clone())
        } else {
            (migration.column.clone(), migration.retired.clone())
        };
        Self {
            live,
            mirror,
            live_type: migration.to_type.clone(),
            mirror_type: migration.from_type.clone(),
            exact: rename,
            rename,
            back: true,
        }
    }

    fn same_type(&self) -> bool {
        self.live_type == self.mirror_type
    }

    /// The live value as the mirror's type, NULL where it is none. `row`: how the row is called, with its dot.
    pub(super) fn converted(&self, names: &Names, row: &str) -> String {
        let value = format!("{row}{}", quote(&self.live));
        match () {
            () if self.same_type() => value,
            () if self.exact => format!("CAST({value} AS {})", self.mirror_type),
            () => format!("{}({value})", relation(&names.convert(self.back))),
        }
    }

    /// Whether the mirror is not what it should be. Types without equality are compared by their text.
    pub(super) fn differs(&self, names: &Names, row: &str) -> String {
        let (mirror, converted) = (format!("{row}{}", quote(&self.mirror)), self.converted(names, row));
        if comparable(&self.mirror_type) {
            format!("{mirror} IS DISTINCT FROM {converted}")
        } else {
            format!("CAST({mirror} AS text) IS DISTINCT FROM CAST({converted} AS text)")
        }
    }

    /// Whether the live value is none of the mirror's type.
    pub(super) fn fails(&self, row: &str) -> String {
        format!("{row}{} IS NULL AND {row}{} IS NOT NULL", quote(&self.mirror), quote(&self.live))
    }

    /// The functions and the trigger that keep the mirror in step.
    pub(super) fn install(&self, table: &Relation, names: &Names) -> Vec<String> {
        let mut statements = Vec::new();
        if !self.exact && !self.same_type() {
            statements.push(self.convert_function(names));
        }
        statements.push(format!(
            "CREATE OR REPLACE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS {}",
            relation(&names.sync(self.back)),
            body(&self.sync_body(names))
        ));
        statements.push(format!("DROP TRIGGER IF EXISTS {} ON {}", quote(&names.trigger(self.back)), relation(table)));
        statements.push(format!(
            "CREATE TRIGGER {} BEFORE INSERT OR UPDATE ON {} FOR EACH ROW EXECUTE PROCEDURE {}()",
            quote(&names.trigger(self.back)),
            relation(table),
            relation(&names.sync(self.back))
        ));
        statements
    }

    pub(super) fn uninstall(&self, table: &Relation, names: &Names) -> Vec<String> {
        vec![
            format!("DROP TRIGGER IF EXISTS {} ON {}", quote(&names.trigger(self.back)), relation(table)),
            format!("DROP FUNCTION IF EXISTS {}()", relation(&names.sync(self.back))),
        ]
    }

    /// Never fails, so that no writer is stopped: what does not convert, or would come back as another value, is NULL.
    fn convert_function(&self, names: &Names) -> String {
        let mut text = format!("DECLARE\n  r {};\nBEGIN\n  r := CAST(v AS {});\n", self.mirror_type, self.mirror_type);
        if comes_back(&self.live_type, &self.mirror_type) {
            text.push_str(&format!(
                "  IF CAST(r AS {}) IS DISTINCT FROM v THEN\n    RETURN NULL;\n  END IF;\n",
                self.live_type
            ));
        }
        text.push_str("  RETURN r;\nEXCEPTION WHEN OTHERS THEN\n  RETURN NULL;\nEND");
        format!(
            "CREATE OR REPLACE FUNCTION {}(v {}) RETURNS {} LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, \
             pg_temp SET timezone = 'UTC' SET datestyle = 'ISO, YMD' SET intervalstyle = 'postgres' SET \
             extra_float_digits = 1 AS {}",
            relation(&names.convert(self.back)),
            self.live_type,
            self.mirror_type,
            body(&text)
        )
    }

    fn sync_body(&self, names: &Names) -> String {
        let (live, mirror) = (quote(&self.live), quote(&self.mirror));
        if !self.rename {
            return format!("BEGIN\n  NEW.{mirror} := {};\n  RETURN NEW;\nEND", self.converted(names, "NEW."));
        }
        // Both names take values: who writes only one of them fills both.
        let changed = |column: &str| {
            let text = |row: &str| match comparable(&self.live_type) {
                true => format!("{row}.{column}"),
                false => format!("CAST({row}.{column} AS text)"),
            };
            format!("{} IS DISTINCT FROM {}", text("NEW"), text("OLD"))
        };
        format!(
            "BEGIN\n  IF TG_OP = 'INSERT' THEN\n    IF NEW.{mirror} IS NOT NULL THEN\n      NEW.{live} := NEW.{mirror};\n    \
             ELSE\n      NEW.{mirror} := NEW.{live};\n    END IF;\n  ELSIF {} AND NOT ({}) THEN\n    NEW.{live} := \
             NEW.{mirror};\n  ELSE\n    NEW.{mirror} := NEW.{live};\n  END IF;\n  RETURN NEW;\nEND",
            changed(&mirror),
            changed(&live)
        )
    }
}

/// A text between dollar quotes that it does not hold.
fn body(text: &str) -> String {
    let tag = (0..).map(|n| if n == 0 { "$dpone$".to_owned() } else { format!("$dpone{n}$") });
    let tag = tag.into_iter().find(|tag| !text.contains(tag.as_str())).unwrap_or_default();
    format!("{tag}\n{text}\n{tag}")
}

/// The type's name without its modifier and brackets.
fn base(name: &str) -> String {
    let mut out = String::new();
    let mut depth = 0;
    for c in name.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            c if depth == 0 => out.push(c),
            _ => {}
        }
    }
    out.split_whitespace().collect::<Vec<_>>().join(" ")
}

pub(super) fn family(name: &str) -> Option<u8> {
    Some(match base(name).as_str() {
        "smallint" | "integer" | "bigint" | "numeric" | "real" | "double precision" | "int2" | "int4" | "int8"
        | "int" | "decimal" | "float4" | "float8" => 0,
        "character varying" | "character" | "text" | "varchar" | "char" | "bpchar" => 1,
        "date" | "timestamp" | "timestamptz" | "timestamp without time zone" | "timestamp with time zone" => 2,
        "time" | "timetz" | "time without time zone" | "time with time zone" => 3,
        "bit" | "bit varying" | "varbit" => 4,
        "interval" => 5,
        _ => return None,
    })
}

/// Whether a value that was converted can be compared with itself after the way back: `10.5` is no integer, and a text
/// that is cut is another text. Texts of numbers and dates have many spellings, so they are not.
fn comes_back(from: &str, to: &str) -> bool {
    matches!((family(from), family(to)), (Some(from), Some(to)) if from == to)
}

fn comparable(name: &str) -> bool {
    let base = base(name);
    let element = base.trim_end_matches("[]");
    !matches!(element, "json" | "xml" | "point" | "line" | "lseg" | "box" | "path" | "polygon" | "circle")
}

/// Refuses what a plan may not say: the names stand in statements, and the plan is a file.
pub(super) fn check_migration(table: &Relation, migration: &Migration) -> Result<()> {
    check("schema", &table.schema)?;
    check("table", &table.name)?;
    let names = [&migration.column, &migration.shadow, &migration.retired];
    for (place, name) in names.into_iter().enumerate() {
        if place == 0 || !name.is_empty() {
            check("column", name)?;
        }
    }
    let needs = match migration.kind {
        MigrationKind::Retype => [true, true],
        MigrationKind::Rename => [true, false],
        MigrationKind::Drop => [false, true],
        MigrationKind::NotNull => [false, false],
    };
    if (needs[0] && migration.shadow.is_empty()) || (needs[1] && migration.retired.is_empty()) {
        return Err(Error::configuration(format!("the migration of {:?} lacks a name", migration.column)));
    }
    for name in [&migration.from_type, &migration.to_type] {
        if !is_type_name(name) {
            let message = format!("column {:?}: {name:?} is not the name of a PostgreSQL type", migration.column);
            return Err(Error::configuration(message).with("column", &migration.column));
        }
    }
    let id = migration.schema_change_id.strip_prefix("sch_").unwrap_or_default();
    if id.len() != 24 || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Error::configuration(format!(
            "the migration of {:?} has the id {:?}; expected sch_ and 24 hexadecimal digits",
            migration.column, migration.schema_change_id
        )));
    }
    if let Some(default) = &migration.default {
        let understood = dpone_planner::schema::DefaultValue::parse(&migration.column, default)?;
        if understood.sql() != *default {
            return Err(Error::configuration(format!("the default of {:?} is not a plain default", migration.column)));
        }
    }
    Ok(())
}

/// The phases as a plan shows them.
pub(crate) fn steps(table: &Relation, migration: &Migration) -> Result<Vec<MigrationStep>> {
    check_migration(table, migration)?;
    let names = Names::new(table, migration);
    let apply = |phase, ddl, guidance: &str| MigrationStep::new(phase, StepDecision::Apply, ddl, guidance);
    let manual = |phase, ddl, guidance: &str| MigrationStep::new(phase, StepDecision::Manual, ddl, guidance);
    Ok(match migration.kind {
        MigrationKind::Retype | MigrationKind::Rename => {
            let (before, after) = (Pair::before(migration), Pair::after(migration));
            vec![
                apply(
                    Phase::Expand,
                    expand(table, migration, &names),
                    "one short transaction under the lock budget: the new column and a trigger that keeps it in step. A \
                     value that does not convert leaves the new column NULL, and stops no writer",
                ),
                apply(
                    Phase::Backfill,
                    vec![backfill(table, &before, &names)],
                    "--apply goes along the primary key, or without one along the table's blocks, and commits each batch with the place that \
                     it reached, so that it goes on where it was killed; by hand, repeat the statement until it changes no row",
                ),
                apply(
                    Phase::Validate,
                    vec![validate(table, &before, &names)],
                    "one scan that blocks nobody: differing and failing rows must both be 0 before the cut-over",
                ),
                apply(
                    Phase::Contract,
                    cut_over(table, migration, &before, &after, &names),
                    "the cut-over: indexes are built CONCURRENTLY before it, then one short transaction under the lock \
                     budget swaps the names, moves defaults, NOT NULL, constraints and indexes (as the catalog has them \
                     then), and turns the trigger around, so that the old column stays in step for a rollback",
                ),
                manual(
                    Phase::Contract,
                    drop_old(table, migration, &after, &names),
                    "when nobody reads the old column any more: --apply --phase contract --drop-old. There is no way back",
                ),
                apply(
                    Phase::Rollback,
                    roll_back(table, migration, &before, &after, &names),
                    "--apply --phase contract --rollback: the names are swapped back, and the new column is kept in step \
                     again",
                ),
                apply(
                    Phase::Rollback,
                    abandon(table, migration, &before, &names),
                    "--apply --phase expand --rollback: the new column goes, with its trigger",
                ),
            ]
        }
        MigrationKind::NotNull => {
            let (name, column) = (relation(table), quote(&migration.column));
            let fill = migration.default.as_ref().map(|default| {
                format!(
                    "UPDATE {name} AS t SET {column} = {default} WHERE {}",
                    some(table, &format!("k.{column} IS NULL"))
                )
            });
            let mut steps = Vec::new();
            match fill {
                Some(fill) => steps.push(apply(
                    Phase::Backfill,
                    vec![fill],
                    "rows without a value get the declared default, in batches",
                )),
                None => steps.push(manual(
                    Phase::Backfill,
                    Vec::new(),
                    "give the rows without a value one: the source declares no default for them",
                )),
            }
            steps.push(apply(
                Phase::Validate,
                vec![format!("SELECT count(*) AS failing FROM {name} AS t WHERE t.{column} IS NULL")],
                "the count must be 0",
            ));
            steps.push(apply(
                Phase::Contract,
                not_null(table, &migration.column, &names),
                "a CHECK that is validated while writers go on makes SET NOT NULL a matter of the catalog (PostgreSQL 12 \
                 and newer)",
            ));
            steps.push(apply(
                Phase::Rollback,
                vec![format!("ALTER TABLE {name} ALTER COLUMN {column} DROP NOT NULL")],
                "--apply --phase contract --rollback",
            ));
            steps
        }
        MigrationKind::Drop => {
            let (name, column, retired) = (relation(table), quote(&migration.column), quote(&migration.retired));
            vec![
                apply(
                    Phase::Expand,
                    vec![format!("ALTER TABLE {name} ALTER COLUMN {column} DROP NOT NULL")],
                    "writers may leave the column out from here on; left out where it takes NULL already",
                ),
                manual(Phase::Validate, Vec::new(), "see that nobody reads or writes the column"),
                apply(
                    Phase::Contract,
                    vec![format!("ALTER TABLE {name} RENAME COLUMN {column} TO {retired}")],
                    "the column is renamed away: whoever still uses it finds out, and it can be brought back",
                ),
                manual(
                    Phase::Contract,
                    vec![format!("ALTER TABLE {name} DROP COLUMN {retired}")],
                    "--apply --phase contract --drop-old. There is no way back",
                ),
                apply(
                    Phase::Rollback,
                    vec![format!("ALTER TABLE {name} RENAME COLUMN {retired} TO {column}")],
                    "--apply --phase contract --rollback",
                ),
            ]
        }
    })
}

pub(super) fn expand(table: &Relation, migration: &Migration, names: &Names) -> Vec<String> {
    let add = format!("ALTER TABLE {} ADD COLUMN {} {}", relation(table), quote(&migration.shadow), migration.to_type);
    std::iter::once(add).chain(Pair::before(migration).install(table, names)).collect()
}

/// Rows of a batch in the statements of a plan.
const BATCH: u32 = 5_000;

/// Some of the rows that are wanted, which nobody else holds. Repeated until none is left.
fn some(table: &Relation, wanted: &str) -> String {
    format!(
        "t.ctid = ANY (ARRAY(SELECT k.ctid FROM {} AS k WHERE {wanted} LIMIT {BATCH} FOR UPDATE SKIP LOCKED))",
        relation(table)
    )
}

fn backfill(table: &Relation, pair: &Pair, names: &Names) -> String {
    format!(
        "UPDATE {} AS t SET {} = {} WHERE {}",
        relation(table),
        quote(&pair.mirror),
        pair.converted(names, "t."),
        some(table, &pair.differs(names, "k."))
    )
}

pub(super) fn validate(table: &Relation, pair: &Pair, names: &Names) -> String {
    format!(
        "SELECT count(*) AS rows, count(*) FILTER (WHERE {}) AS differing, count(*) FILTER (WHERE {}) AS failing FROM {} \
         AS t",
        pair.differs(names, "t."),
        pair.fails("t."),
        relation(table)
    )
}

/// Renames the columns and turns the trigger around.
pub(super) fn swap_names(table: &Relation, from: &Pair, to: &Pair) -> Vec<String> {
    let rename = |from: &str, to: &str| {
        format!("ALTER TABLE {} RENAME COLUMN {} TO {}", relation(table), quote(from), quote(to))
    };
    if from.rename {
        // The physical column keeps its indexes and constraints, and gets the other name.
        let away = format!("{RESERVED_PREFIX}xm");
        return vec![rename(&from.live, &away), rename(&from.mirror, &from.live), rename(&away, &from.mirror)];
    }
    vec![rename(&from.live, &to.mirror), rename(&from.mirror, &to.live)]
}

/// Fails where a row came that does not convert: through the index of such rows, in no time.
pub(super) fn refuse_bad_rows(table: &Relation, pair: &Pair) -> Vec<String> {
    let text = format!(
        "BEGIN\n  IF EXISTS (SELECT FROM {} AS t WHERE {}) THEN\n    RAISE EXCEPTION USING ERRCODE = '{BAD_ROWS}', MESSAGE = \
         'values do not convert';\n  END IF;\nEND",
        relation(table),
        pair.fails("t.")
    );
    vec!["SET LOCAL enable_seqscan = off".to_owned(), format!("DO {}", body(&text))]
}

pub(super) fn bad_rows_index(table: &Relation, pair: &Pair, names: &Names) -> String {
    format!(
        "CREATE INDEX CONCURRENTLY {} ON {} ((1)) WHERE {}",
        quote(&names.bad_rows().name),
        relation(table),
        pair.fails("")
    )
}

fn cut_over(table: &Relation, migration: &Migration, before: &Pair, after: &Pair, names: &Names) -> Vec<String> {
    let mut statements = Vec::new();
    if !before.exact {
        statements.push(bad_rows_index(table, before, names));
    }
    statements.push(format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", relation(table)));
    if !before.exact {
        statements.extend(refuse_bad_rows(table, before));
    }
    statements.extend(before.uninstall(table, names));
    statements.extend(swap_names(table, before, after));
    statements.extend(after.install(table, names));
    if !before.exact {
        statements.push(format!("DROP INDEX {}", relation(&names.bad_rows())));
    }
    if migration.kind == MigrationKind::Retype {
        statements.push(format!("ANALYZE {} ({})", relation(table), quote(&migration.column)));
    }
    statements
}

pub(super) fn drop_old(table: &Relation, _: &Migration, after: &Pair, names: &Names) -> Vec<String> {
    let mut statements = after.uninstall(table, names);
    statements.push(format!("ALTER TABLE {} DROP COLUMN {}", relation(table), quote(&after.mirror)));
    for pair in [Pair { back: false, ..after.clone() }, after.clone()] {
        statements.extend(drop_convert(&pair, names));
    }
    statements
}

/// By its name alone: only one function has it.
fn drop_convert(pair: &Pair, names: &Names) -> Option<String> {
    (!pair.same_type()).then(|| format!("DROP FUNCTION IF EXISTS {}", relation(&names.convert(pair.back))))
}

fn roll_back(table: &Relation, _: &Migration, before: &Pair, after: &Pair, names: &Names) -> Vec<String> {
    let mut statements = vec![format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", relation(table))];
    statements.extend(after.uninstall(table, names));
    statements.extend(swap_names(table, after, before));
    statements.extend(before.install(table, names));
    statements
}

/// Before the cut-over: nothing is left but the old column.
pub(super) fn abandon(table: &Relation, migration: &Migration, before: &Pair, names: &Names) -> Vec<String> {
    let mut statements = before.uninstall(table, names);
    statements.push(format!("ALTER TABLE {} DROP CONSTRAINT IF EXISTS {}", relation(table), quote(&names.not_null())));
    statements.push(format!("DROP INDEX IF EXISTS {}", relation(&names.bad_rows())));
    statements.push(format!("ALTER TABLE {} DROP COLUMN IF EXISTS {}", relation(table), quote(&migration.shadow)));
    for back in [false, true] {
        statements.extend(drop_convert(&Pair { back, ..before.clone() }, names));
    }
    statements
}

/// NOT NULL without a scan under a lock that stops others. Each statement is a transaction of its own.
pub(super) fn not_null(table: &Relation, column: &str, names: &Names) -> Vec<String> {
    let (table, column, name) = (relation(table), quote(column), quote(&names.not_null()));
    vec![
        format!("ALTER TABLE {table} ADD CONSTRAINT {name} CHECK ({column} IS NOT NULL) NOT VALID"),
        format!("ALTER TABLE {table} VALIDATE CONSTRAINT {name}"),
        format!("ALTER TABLE {table} ALTER COLUMN {column} SET NOT NULL"),
        format!("ALTER TABLE {table} DROP CONSTRAINT {name}"),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn migration(kind: MigrationKind, names: [&str; 3], types: [&str; 2]) -> Migration {
        Migration {
            schema_change_id: format!("sch_{}", "a".repeat(24)),
            kind,
            change_type: "type_change".into(),
            column: names[0].into(),
            shadow: names[1].into(),
            retired: names[2].into(),
            from_type: types[0].into(),
            to_type: types[1].into(),
            exact: false,
            default: None,
            target: None,
        }
    }

    /// What of a statement stands outside of quoted identifiers.
    fn outside(sql: &str) -> String {
        let mut out = String::new();
        let mut quoted = false;
        for c in sql.chars() {
            match c {
                '"' => quoted = !quoted,
                c if !quoted => out.push(c),
                _ => {}
            }
        }
        assert!(!quoted, "{sql}");
        out
    }

    proptest! {
        /// Every name holds a letter that no statement of ours does.
        #[test]
        fn names_never_leave_their_quotes(parts in proptest::collection::vec("[\"';$\\\\ a-z\u{416}\n-]{1,20}", 5)) {
            let name = |n: usize| format!("\u{416}{}", parts[n].replace("dpone", ""));
            let (schema, table, column, shadow, retired) = (name(0), name(1), name(2), name(3), name(4));
            for kind in [MigrationKind::Retype, MigrationKind::Rename, MigrationKind::Drop, MigrationKind::NotNull] {
                let migration = migration(kind, [&column, &shadow, &retired], ["text", "integer"]);
                for step in steps(&Relation::new(&schema, &table), &migration).unwrap() {
                    for statement in step.ddl {
                        prop_assert!(!outside(&statement).contains('\u{416}'), "{statement}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_a_plan_may_not_say_is_refused() {
        let table = Relation::new("s", "t");
        let long = "x".repeat(64);
        for (names, types) in [
            (["", "b", "c"], ["text", "integer"]),
            (["a", "", "c"], ["text", "integer"]),
            (["a", "b", ""], ["text", "integer"]),
            (["a\0", "b", "c"], ["text", "integer"]),
            ([long.as_str(), "b", "c"], ["text", "integer"]),
            (["a", "b", "c"], ["text); DROP TABLE t; --", "integer"]),
            (["a", "b", "c"], ["text", "integer DEFAULT 5"]),
        ] {
            assert!(steps(&table, &migration(MigrationKind::Retype, names, types)).is_err(), "{names:?} {types:?}");
        }
        let mut wrong = migration(MigrationKind::Retype, ["a", "b", "c"], ["text", "integer"]);
        wrong.schema_change_id = "sch_x'; DROP TABLE t".into();
        assert!(steps(&table, &wrong).is_err());
        let mut wrong = migration(MigrationKind::NotNull, ["a", "", ""], ["text", "text"]);
        wrong.default = Some("0; DROP TABLE t".into());
        assert!(steps(&table, &wrong).is_err());
    }

    #[test]
    fn a_body_ends_where_its_text_does() {
        assert_eq!(body("a"), "$dpone$\na\n$dpone$");
        assert_eq!(body("$dpone$ $dpone1$"), "$dpone2$\n$dpone$ $dpone1$\n$dpone2$");
    }

    #[test]
    fn values_come_back_within_their_family_alone() {
        assert!(comes_back("character varying(20)", "varchar(5)") && comes_back("bigint", "numeric(4,1)"));
        assert!(comes_back("timestamp(3) without time zone", "date"));
        assert!(!comes_back("text", "integer") && !comes_back("jsonb", "text") && !comes_back("mood", "mood2"));
    }
}
