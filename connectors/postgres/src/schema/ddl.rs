//! The statements of a change, and the transaction with its budget for locks and time around them.

use arrow::datatypes::Field;
use dpone_planner::schema::{COLLATION, COMMENT, DEFAULT, DefaultValue, LockBudget, SchemaChange};
use dpone_planner::types::native_of;
use dpone_planner::{Error, Relation, Result};

use super::conversion::{Conversion, Setting, Using, conversion};
use super::native::NativeType;
use super::operation::TypeChange;
use super::types::{labels, native_type};
use crate::SYSTEM;
use crate::dialect::{created_type, is_type_name};
use crate::write::names::{check, literal, quote, relation};

/// The statements of a change of a table that is there. Names that PostgreSQL would cut are refused.
pub(crate) fn render(table: &Relation, change: &SchemaChange) -> Result<Vec<String>> {
    check("schema", &table.schema)?;
    check("table", &table.name)?;
    if let Some(column) = change.column() {
        check("column", column)?;
    }
    let name = relation(table);
    let alter =
        |column: &Field, what: &str| vec![format!("ALTER TABLE {name} ALTER COLUMN {} {what}", quote(column.name()))];
    Ok(match change {
        SchemaChange::CreateTable { .. } => return Err(Error::internal("a table is created elsewhere")),
        SchemaChange::AddColumn { column } => add_column(&name, column)?,
        SchemaChange::AlterType { from, to } => match (labels(from), labels(to)) {
            (Some(old), Some(new)) => add_labels(from, &old, &new)?,
            _ => alter_type(&name, from, to)?,
        },
        SchemaChange::SetCollation { column, collation } => {
            // The column's own type, which may be a domain.
            let native = match native_of(column, SYSTEM).filter(|native| is_type_name(native)) {
                Some(native) => native.to_owned(),
                None => native_type(column)?.name(),
            };
            let clause = format!("TYPE {native} COLLATE {}", collation_name(column, collation)?);
            retyped(&name, column, alter(column, &clause))
        }
        SchemaChange::DropNotNull { column } => alter(column, "DROP NOT NULL"),
        SchemaChange::SetNotNull { column } => alter(column, "SET NOT NULL"),
        SchemaChange::SetDefault { column, default } => {
            alter(column, &format!("SET DEFAULT {}", default_value(column, default)?))
        }
        SchemaChange::DropDefault { column } => alter(column, "DROP DEFAULT"),
        SchemaChange::SetComment { column, comment } => vec![comment_on(&name, column, comment.as_deref())?],
        SchemaChange::RenameColumn { from, to } => {
            check("column", to)?;
            vec![format!("ALTER TABLE {name} RENAME COLUMN {} TO {}", quote(from.name()), quote(to))]
        }
        SchemaChange::DropColumn { column } => vec![format!("ALTER TABLE {name} DROP COLUMN {}", quote(column.name()))],
    })
}

fn add_column(table: &str, column: &Field) -> Result<Vec<String>> {
    let text = |key: &str| column.metadata().get(key).filter(|text| !text.is_empty());
    let mut sql = format!("ALTER TABLE {table} ADD COLUMN {} {}", quote(column.name()), created_type(column)?);
    if let Some(collation) = text(COLLATION) {
        sql.push_str(&format!(" COLLATE {}", collation_name(column, collation)?));
    }
    if let Some(default) = text(DEFAULT) {
        sql.push_str(&format!(" DEFAULT {}", default_value(column, default)?));
    }
    if !column.is_nullable() {
        sql.push_str(" NOT NULL");
    }
    let mut statements = vec![sql];
    if let Some(comment) = text(COMMENT) {
        statements.push(comment_on(table, column, Some(comment))?);
    }
    Ok(statements)
}

fn alter_type(table: &str, from: &Field, to: &Field) -> Result<Vec<String>> {
    let change = TypeChange::new(from, to)?;
    let column = quote(from.name());
    let mut kind = format!("ALTER COLUMN {column} TYPE {}", created_type(to)?);
    // Without it the column would fall back to the collation of its new type.
    if let Some(collation) =
        to.metadata().get(COLLATION).filter(|c| !c.is_empty()).filter(|_| has_collation(&change.to))
    {
        kind.push_str(&format!(" COLLATE {}", collation_name(from, collation)?));
    }
    // A type that is not known is not cast by itself; of the settings, none decides about that.
    let using = match conversion(&change.from, &change.to, Setting { major: 18, utc: true }) {
        Conversion::Rewrite { using: Using::Cast } => Some(format!("{column}::{}", change.to.unmodified())),
        Conversion::Rewrite { using: Using::Text } => Some(format!("{column}::text::{}", change.to.unmodified())),
        _ => None,
    };
    let mut parts = vec![kind];
    if let Some(using) = using {
        parts[0].push_str(&format!(" USING {using}"));
        // A default is never cast by the expression: it goes, and comes back as one of the new type.
        if let Some(default) = from.metadata().get(DEFAULT).filter(|text| !text.is_empty()) {
            parts.insert(0, format!("ALTER COLUMN {column} DROP DEFAULT"));
            parts.push(format!("ALTER COLUMN {column} SET DEFAULT {}", default_value(from, default)?));
        }
    }
    Ok(retyped(table, from, vec![format!("ALTER TABLE {table} {}", parts.join(", "))]))
}

/// A change of the type drops what the planner knows of the column's values.
fn retyped(table: &str, column: &Field, mut statements: Vec<String>) -> Vec<String> {
    statements.push(format!("ANALYZE {table} ({})", quote(column.name())));
    statements
}

/// Labels that the target's enum lacks, each where the source has it.
fn add_labels(from: &Field, old: &[String], new: &[String]) -> Result<Vec<String>> {
    let name = created_type(from)?;
    let mut statements = Vec::new();
    for (at, label) in new.iter().enumerate().filter(|(_, label)| !old.contains(label)) {
        check("label", label)?;
        let place = match (at.checked_sub(1).and_then(|before| new.get(before)), old.first()) {
            (Some(before), _) => format!(" AFTER {}", literal(before)),
            (None, Some(first)) => format!(" BEFORE {}", literal(first)),
            (None, None) => String::new(),
        };
        statements.push(format!("ALTER TYPE {name} ADD VALUE {}{place}", literal(label)));
    }
    Ok(statements)
}

fn comment_on(table: &str, column: &Field, comment: Option<&str>) -> Result<String> {
    let text = match comment {
        Some(text) => literal(&without_nul(column, "comment", text)?),
        None => "NULL".to_owned(),
    };
    Ok(format!("COMMENT ON COLUMN {table}.{} IS {text}", quote(column.name())))
}

/// A default of which nothing but a value or a call is left.
fn default_value(column: &Field, text: &str) -> Result<String> {
    Ok(match DefaultValue::parse(column.name(), text)? {
        DefaultValue::Text(text) => literal(&without_nul(column, "default", &text)?),
        // A name that the grammar keeps for itself would be read as something else.
        DefaultValue::Call(name) if name.split('.').any(is_keyword) => {
            format!("{}()", name.split('.').map(quote).collect::<Vec<_>>().join("."))
        }
        other => other.sql(),
    })
}

fn without_nul(column: &Field, what: &str, text: &str) -> Result<String> {
    if text.contains('\0') {
        return Err(Error::configuration(format!("the {what} of the column {:?} holds a NUL byte", column.name()))
            .with("column", column.name()));
    }
    Ok(text.to_owned())
}

/// A collation as it stands in SQL. What looks like a schema and a name is one only where it is quoted: names of
/// collations have dots, as in `de_DE.utf8`.
fn collation_name(column: &Field, name: &str) -> Result<String> {
    if name.starts_with('"') && is_type_name(name) && !name.ends_with(']') {
        return Ok(name.to_owned());
    }
    if let Some(bare) = name.strip_prefix("pg_catalog.") {
        check("collation", bare)?;
        return Ok(format!("pg_catalog.{}", quote(bare.trim_matches('"'))));
    }
    check("collation", name).map_err(|error| error.with("column", column.name()))?;
    Ok(quote(name))
}

fn has_collation(native: &NativeType) -> bool {
    native.is_own() || matches!(native.base.as_str(), "text" | "character varying" | "character" | "name")
}

/// Words that do not name a function without quotes.
fn is_keyword(word: &str) -> bool {
    const RESERVED: &str = " all analyse analyze and any array as asc asymmetric authorization between bigint binary bit \
        boolean both case cast char character check coalesce collate collation column concurrently constraint create cross \
        current_catalog current_date current_role current_schema current_time current_timestamp current_user dec decimal \
        default deferrable desc distinct do else end except exists extract false fetch float for foreign freeze from full \
        grant greatest group grouping having ilike in initially inner inout int integer intersect interval into is isnull \
        join json json_array json_arrayagg json_exists json_object json_objectagg json_query json_scalar json_serialize \
        json_table json_value lateral leading least left like limit localtime localtimestamp merge_action national \
        natural nchar none normalize not notnull null nullif numeric offset on only or order out outer overlaps overlay \
        placing position precision primary real references returning right row select session_user setof similar \
        smallint some substring symmetric system_user table tablesample then time timestamp to trailing treat trim true \
        union unique user using values varchar variadic verbose when where window with xmlattributes xmlconcat \
        xmlelement xmlexists xmlforest xmlnamespaces xmlparse xmlpi xmlroot xmlserialize xmltable ";
    RESERVED.contains(&format!(" {word} "))
}

/// One transaction with the budget around what may run in one. What may not, and what must not hold the locks of the
/// statements before it, stands alone.
pub(crate) fn within_budget(statements: Vec<String>, budget: &LockBudget) -> Vec<String> {
    let limits = [("lock_timeout", budget.lock_timeout_ms), ("statement_timeout", budget.statement_timeout_ms)];
    let limits: Vec<String> = limits
        .iter()
        .filter_map(|(name, limit)| Some(format!("SET LOCAL {name} = '{}'", duration((*limit)?))))
        .collect();
    if limits.is_empty() {
        return statements;
    }
    let (mut out, mut open) = (Vec::new(), false);
    let close = |out: &mut Vec<String>, open: &mut bool| {
        if std::mem::take(open) {
            out.push("COMMIT".to_owned());
        }
    };
    for statement in statements {
        let place = place(&statement);
        if place != Place::Transaction {
            close(&mut out, &mut open);
        }
        if place == Place::Alone {
            out.push(statement);
            continue;
        }
        if !std::mem::replace(&mut open, true) {
            out.push("BEGIN".to_owned());
            out.extend(limits.iter().cloned());
        }
        out.push(statement);
        if place == Place::OwnTransaction {
            close(&mut out, &mut open);
        }
    }
    close(&mut out, &mut open);
    out
}

fn duration(milliseconds: u64) -> String {
    if milliseconds.is_multiple_of(1000) { format!("{}s", milliseconds / 1000) } else { format!("{milliseconds}ms") }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// With the statements before it.
    Transaction,
    /// It would hold the locks of statements before it while it reads the table.
    OwnTransaction,
    /// Outside of any transaction block.
    Alone,
}

fn place(statement: &str) -> Place {
    let words = bare_words(statement);
    let has = |word: &str| words.iter().any(|w| w == word);
    let starts = |with: &[&str]| words.len() >= with.len() && words.iter().zip(with).all(|(a, b)| a == b);
    let alone = starts(&["ANALYZE"]) || starts(&["VACUUM"]) || starts(&["ALTER", "TYPE"]) && has("VALUE");
    if alone || has("CONCURRENTLY") {
        Place::Alone
    } else if has("VALIDATE") {
        Place::OwnTransaction
    } else {
        Place::Transaction
    }
}

/// The words outside of quotes, in upper case. A doubled quote closes and opens again.
fn bare_words(statement: &str) -> Vec<String> {
    let mut open = None;
    let outside = |c: char| match open {
        Some(quote) => {
            if c == quote {
                open = None;
            }
            ' '
        }
        None if c == '"' || c == '\'' => {
            open = Some(c);
            ' '
        }
        None => c,
    };
    let bare: String = statement.chars().map(outside).collect();
    bare.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
        .map(str::to_ascii_uppercase)
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use arrow::datatypes::FieldRef;

    use super::super::types::parse_type;
    use super::*;
    use crate::types::LABELS;

    fn column(name: &str, native: &str, metadata: &[(&str, &str)]) -> FieldRef {
        let field = parse_type(name, native).unwrap();
        let mut all = field.metadata().clone();
        all.extend(metadata.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())));
        Arc::new(field.with_metadata(all))
    }

    fn rendered(change: SchemaChange) -> Vec<String> {
        render(&Relation::new("s", "t"), &change).unwrap()
    }

    #[test]
    fn a_column_comes_with_all_that_is_declared_of_it() {
        let metadata = [(DEFAULT, "'it''s'"), (COLLATION, "de_DE.utf8"), (COMMENT, "a\\b")];
        let field = column("c\"x", "varchar(20)", &metadata).as_ref().clone().with_nullable(false);
        assert_eq!(
            rendered(SchemaChange::AddColumn { column: Arc::new(field) }),
            [
                "ALTER TABLE \"s\".\"t\" ADD COLUMN \"c\"\"x\" character varying(20) COLLATE \"de_DE.utf8\" DEFAULT 'it''s' \
                 NOT NULL",
                "COMMENT ON COLUMN \"s\".\"t\".\"c\"\"x\" IS E'a\\\\b'",
            ]
        );
    }

    #[test]
    fn a_cast_is_spelled_where_an_assignment_is_not_enough_and_never_cuts() {
        let alter = |from: &str, to: &str, metadata: &[(&str, &str)]| {
            rendered(SchemaChange::AlterType { from: column("c", from, metadata), to: column("c", to, metadata) })
                .remove(0)
        };
        let head = "ALTER TABLE \"s\".\"t\" ALTER COLUMN \"c\"";
        assert_eq!(alter("varchar(20)", "varchar(50)", &[]), format!("{head} TYPE character varying(50)"));
        assert_eq!(alter("text", "bit(3)", &[]), format!("{head} TYPE bit(3) USING \"c\"::\"bit\""));
        assert_eq!(alter("varchar(9)", "text", &[(COLLATION, "C")]), format!("{head} TYPE text COLLATE \"C\""));
        assert_eq!(
            alter("text", "integer", &[(DEFAULT, "'0'")]),
            format!(
                "{head} DROP DEFAULT, ALTER COLUMN \"c\" TYPE integer USING \"c\"::integer, ALTER COLUMN \"c\" SET DEFAULT '0'"
            )
        );
    }

    #[test]
    fn labels_are_added_where_the_source_has_them() {
        let mood = |labels: &str| column("c", "public.mood", &[(LABELS, labels)]);
        let change = SchemaChange::AlterType { from: mood(r#"["b"]"#), to: mood(r#"["a","b","c'd"]"#) };
        assert_eq!(
            rendered(change),
            ["ALTER TYPE public.mood ADD VALUE 'a' BEFORE 'b'", "ALTER TYPE public.mood ADD VALUE 'c''d' AFTER 'b'"]
        );
    }

    #[test]
    fn the_budget_ends_with_the_transaction() {
        let budget = LockBudget { lock_timeout_ms: Some(5000), statement_timeout_ms: Some(1500) };
        let statements = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let wrapped = within_budget(
            statements(&[
                "ALTER TABLE \"validate\" ADD CONSTRAINT x CHECK ('VALIDATE' <> '') NOT VALID",
                "ALTER TABLE t VALIDATE CONSTRAINT x",
                "ALTER TABLE t DROP CONSTRAINT x",
                "CREATE INDEX CONCURRENTLY i ON t (c)",
                "ANALYZE t (c)",
            ]),
            &budget,
        );
        let begin = ["BEGIN", "SET LOCAL lock_timeout = '5s'", "SET LOCAL statement_timeout = '1500ms'"];
        let mut want = Vec::new();
        for statement in [
            "ALTER TABLE \"validate\" ADD CONSTRAINT x CHECK ('VALIDATE' <> '') NOT VALID",
            "ALTER TABLE t VALIDATE CONSTRAINT x",
            "ALTER TABLE t DROP CONSTRAINT x",
        ] {
            want.extend(begin);
            want.extend([statement, "COMMIT"]);
        }
        want.extend(["CREATE INDEX CONCURRENTLY i ON t (c)", "ANALYZE t (c)"]);
        assert_eq!(wrapped, want);
        assert_eq!(within_budget(statements(&["X"]), &LockBudget::default()), ["X"]);
    }

    #[test]
    fn names_that_the_server_would_cut_are_refused() {
        let long = "ü".repeat(32);
        let table = Relation::new("s", "t");
        let text = || column("c", "text", &[]);
        assert!(render(&table, &SchemaChange::RenameColumn { from: text(), to: long.clone() }).is_err());
        assert!(render(&table, &SchemaChange::AddColumn { column: column(&long, "text", &[]) }).is_err());
        assert!(render(&Relation::new("s", &long), &SchemaChange::DropColumn { column: text() }).is_err());
        let default = SchemaChange::SetDefault { column: text(), default: "0; DROP TABLE t".into() };
        assert!(render(&table, &default).is_err());
        let comment = SchemaChange::SetComment { column: text(), comment: Some("a\0b".into()) };
        assert!(render(&table, &comment).is_err());
    }
}
