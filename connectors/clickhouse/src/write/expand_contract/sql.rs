//! The statements of expand-contract migrations.
//!
//! ClickHouse has no triggers, and has computed columns: the new column is `MATERIALIZED` from the old one, so that the
//! server itself keeps it in step for whoever inserts, and after the cut-over the old one is so from the new one. A
//! rename needs no second column: the other name is an `ALIAS`.

use dpone_engine::{Error, Relation, Result};
use dpone_planner::schema::DefaultValue;
use dpone_planner::schema::expand_contract::{Migration, MigrationKind, MigrationStep, Phase, StepDecision};

use crate::dialect::default_value;
use crate::types::{ChType, literal, quote};
use crate::write::names::{check, relation};

/// One migration of one table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sql<'a> {
    pub(super) table: &'a Relation,
    pub(super) migration: &'a Migration,
}

/// A type that a plan names: it is written into statements, so it has to be one.
fn type_named(name: &str) -> Result<ChType> {
    match ChType::native(name) {
        Some(native) if native.to_string() == name => Ok(native),
        _ => Err(Error::configuration(format!("{name:?} is no type of ClickHouse as dpone writes it"))
            .with_hint("write the plan again")),
    }
}

/// Types in which nothing can be told to be a value: their columns are migrated by hand.
fn is_nested(native: &ChType) -> bool {
    match native {
        ChType::Nullable(of) | ChType::LowCardinality(of) => is_nested(of),
        other => matches!(
            other,
            ChType::Array(_)
                | ChType::Map(..)
                | ChType::Tuple(_)
                | ChType::Json
                | ChType::Aggregate { .. }
                | ChType::Plain(_)
        ),
    }
}

fn without_wrapping(native: &ChType) -> &ChType {
    match native {
        ChType::Nullable(of) | ChType::LowCardinality(of) => without_wrapping(of),
        other => other,
    }
}

/// The text as a number, a time and so on: as many spellings as it likes.
fn is_text(native: &ChType) -> bool {
    matches!(without_wrapping(native), ChType::String | ChType::FixedString(_) | ChType::Enum { .. })
}

impl<'a> Sql<'a> {
    /// `None`: nothing that the server could carry out by itself.
    pub(super) fn new(table: &'a Relation, migration: &'a Migration) -> Result<Option<Self>> {
        for name in
            [&migration.column, &migration.shadow, &migration.retired].into_iter().filter(|name| !name.is_empty())
        {
            check("column", name)?;
        }
        check("database", &table.schema)?;
        check("table", &table.name)?;
        let (from, to) = (type_named(&migration.from_type)?, type_named(&migration.to_type)?);
        if let Some(default) = &migration.default {
            DefaultValue::parse(&migration.column, default)?;
        }
        let by_hand = migration.kind == MigrationKind::Retype && (is_nested(&from) || is_nested(&to));
        Ok((!by_hand).then_some(Self { table, migration }))
    }

    fn alter(&self, what: &str) -> String {
        format!("ALTER TABLE {} {what}", relation(self.table))
    }

    fn rename(&self, from: &str, to: &str) -> String {
        format!("RENAME COLUMN {} TO {}", quote(from), quote(to))
    }

    /// The value of a column as another type: NULL, or the type's own zero, where it is none.
    fn converted(column: &str, to: &str) -> String {
        let native = ChType::native(to);
        let takes_null = native.as_ref().is_some_and(ChType::is_nullable);
        let inner = native.as_ref().map_or_else(|| to.to_owned(), |native| without_wrapping(native).to_string());
        let how = if takes_null { "accurateCastOrNull" } else { "accurateCastOrDefault" };
        format!("{how}({}, {})", quote(column), literal(&inner))
    }

    /// True for rows whose value is none of the new type as what it is.
    pub(super) fn fails(&self) -> String {
        let (column, m) = (quote(&self.migration.column), self.migration);
        let (from, to) = (ChType::native(&m.from_type), ChType::native(&m.to_type));
        let inner =
            |native: &Option<ChType>| native.as_ref().map(|n| without_wrapping(n).to_string()).unwrap_or_default();
        let cast = format!("accurateCastOrNull({column}, {})", literal(&inner(&to)));
        let mut none = format!("isNull({cast})");
        // A number or a time has to come back as what it was; a text has many spellings.
        if !from.as_ref().is_some_and(is_text) && !to.as_ref().is_some_and(is_text) {
            let back = format!("accurateCastOrNull({cast}, {})", literal(&inner(&from)));
            none = format!("({none} OR ifNull(toString({back}) != toString({column}), 1))");
        }
        match to.as_ref().is_some_and(ChType::is_nullable) {
            true => format!("(isNotNull({column}) AND {none})"),
            false => none,
        }
    }

    /// How many rows there are, how many are not in step, and how many fail.
    pub(super) fn validate(&self) -> String {
        let table = relation(self.table);
        if self.migration.kind == MigrationKind::NotNull {
            return format!(
                "SELECT toString(countIf(isNull({}))) AS failing FROM {table}",
                quote(&self.migration.column)
            );
        }
        let shadow = quote(&self.migration.shadow);
        let wanted = Self::converted(&self.migration.column, &self.migration.to_type);
        let differs =
            format!("isNull({shadow}) != isNull({wanted}) OR ifNull(toString({shadow}) != toString({wanted}), 0)");
        format!(
            "SELECT toString(count()) AS rows, toString(countIf({differs})) AS differing, toString(countIf({})) AS failing \
             FROM {table}",
            self.fails()
        )
    }

    pub(super) fn expand(&self) -> Vec<String> {
        let m = self.migration;
        match m.kind {
            MigrationKind::Retype => vec![self.alter(&format!(
                "ADD COLUMN {} {} MATERIALIZED {} AFTER {}",
                quote(&m.shadow),
                m.to_type,
                Self::converted(&m.column, &m.to_type),
                quote(&m.column)
            ))],
            MigrationKind::Rename => vec![self.alter(&format!(
                "ADD COLUMN {} {} ALIAS {} AFTER {}",
                quote(&m.shadow),
                m.from_type,
                quote(&m.column),
                quote(&m.column)
            ))],
            MigrationKind::NotNull | MigrationKind::Drop => Vec::new(),
        }
    }

    pub(super) fn backfill(&self) -> Result<Vec<String>> {
        let m = self.migration;
        Ok(match m.kind {
            MigrationKind::Retype => {
                vec![self.alter(&format!("MATERIALIZE COLUMN {} SETTINGS mutations_sync = 2", quote(&m.shadow)))]
            }
            MigrationKind::NotNull => self
                .default()?
                .map(|default| {
                    let column = quote(&m.column);
                    self.alter(&format!(
                        "UPDATE {column} = {default} WHERE isNull({column}) SETTINGS mutations_sync = 2"
                    ))
                })
                .into_iter()
                .collect(),
            MigrationKind::Rename | MigrationKind::Drop => Vec::new(),
        })
    }

    /// The declared default, as ClickHouse says it.
    fn default(&self) -> Result<Option<String>> {
        let Some(default) = &self.migration.default else { return Ok(None) };
        let column = type_named(&self.migration.to_type)?.field(&self.migration.column);
        default_value(&column, default).map(Some)
    }

    /// The names are swapped by the first statement; the second one turns around which column is computed from which.
    pub(super) fn cut_over(&self) -> Result<Vec<String>> {
        let m = self.migration;
        Ok(match m.kind {
            MigrationKind::Retype => vec![
                self.alter(&format!("{}, {}", self.rename(&m.column, &m.retired), self.rename(&m.shadow, &m.column))),
                self.turn(&m.column, &m.retired, &m.from_type),
            ],
            MigrationKind::Rename => vec![
                self.alter(&format!("DROP COLUMN {}", quote(&m.shadow))),
                self.alter(&format!(
                    "{}, ADD COLUMN {} {} ALIAS {} AFTER {}",
                    self.rename(&m.column, &m.shadow),
                    quote(&m.column),
                    m.from_type,
                    quote(&m.shadow),
                    quote(&m.shadow)
                )),
            ],
            MigrationKind::NotNull => {
                let native = type_named(&m.to_type)?.with_nullable(false);
                let zero = format!("defaultValueOfTypeName({})", literal(&native.to_string()));
                let default = self.default()?;
                let column = quote(&m.column);
                let modify = |rest: String| self.alter(&format!("MODIFY COLUMN {column} {rest}"));
                let declared = default.is_some();
                let mut statements = vec![modify(format!("{native} DEFAULT {}", default.unwrap_or(zero)))];
                if !declared {
                    // The server asks for a default only for rows without a value, and there are none.
                    statements.push(modify("REMOVE DEFAULT".to_owned()));
                }
                statements
            }
            MigrationKind::Drop => vec![self.alter(&self.rename(&m.column, &m.retired))],
        })
    }

    /// `live` holds values of its own from here on, and `mirror` is computed from it.
    fn turn(&self, live: &str, mirror: &str, native: &str) -> String {
        self.alter(&format!(
            "MODIFY COLUMN {} REMOVE MATERIALIZED, MODIFY COLUMN {} {native} MATERIALIZED {}",
            quote(live),
            quote(mirror),
            Self::converted(live, native)
        ))
    }

    pub(super) fn drop_old(&self) -> Vec<String> {
        let m = self.migration;
        let old = if m.kind == MigrationKind::Rename { &m.column } else { &m.retired };
        vec![self.alter(&format!("DROP COLUMN {}", quote(old)))]
    }

    pub(super) fn roll_back(&self) -> Result<Vec<String>> {
        let m = self.migration;
        Ok(match m.kind {
            MigrationKind::Retype => vec![
                self.alter(&format!("{}, {}", self.rename(&m.column, &m.shadow), self.rename(&m.retired, &m.column))),
                self.turn(&m.column, &m.shadow, &m.to_type),
            ],
            MigrationKind::Rename => vec![
                self.alter(&format!("DROP COLUMN {}", quote(&m.column))),
                self.alter(&format!(
                    "{}, ADD COLUMN {} {} ALIAS {} AFTER {}",
                    self.rename(&m.shadow, &m.column),
                    quote(&m.shadow),
                    m.from_type,
                    quote(&m.column),
                    quote(&m.column)
                )),
            ],
            MigrationKind::NotNull => {
                let native = type_named(&m.to_type)?.with_nullable(true);
                vec![self.alter(&format!("MODIFY COLUMN {} {native}", quote(&m.column)))]
            }
            MigrationKind::Drop => vec![self.alter(&self.rename(&m.retired, &m.column))],
        })
    }

    pub(super) fn abandon(&self) -> Vec<String> {
        match self.migration.kind {
            MigrationKind::Retype | MigrationKind::Rename => {
                vec![self.alter(&format!("DROP COLUMN IF EXISTS {}", quote(&self.migration.shadow)))]
            }
            MigrationKind::NotNull | MigrationKind::Drop => Vec::new(),
        }
    }
}

/// What is done in each phase; `None` where the server cannot do it by itself.
pub(crate) fn steps(table: &Relation, migration: &Migration) -> Result<Option<Vec<MigrationStep>>> {
    let Some(sql) = Sql::new(table, migration)? else { return Ok(None) };
    let apply = |phase, ddl, guidance: &str| MigrationStep::new(phase, StepDecision::Apply, ddl, guidance);
    let manual = |phase, ddl, guidance: &str| MigrationStep::new(phase, StepDecision::Manual, ddl, guidance);
    Ok(Some(match migration.kind {
        MigrationKind::Retype => vec![
            apply(
                Phase::Expand,
                sql.expand(),
                "a change of the catalog: the server computes the new column from the old one, for rows of before when they \
                 are read and for new ones when they are written",
            ),
            apply(
                Phase::Backfill,
                sql.backfill()?,
                "one mutation writes the new column into every part; nobody waits for it. The cut-over needs it: after that \
                 nothing is computed any more",
            ),
            apply(
                Phase::Validate,
                vec![sql.validate()],
                "one scan that blocks nobody: differing and failing rows must both be 0 before the cut-over",
            ),
            apply(
                Phase::Contract,
                sql.cut_over()?,
                "the cut-over, while no load is at work on the table: the first statement swaps both names at once, the \
                 second one has the server compute the old column from the new one, for a rollback",
            ),
            manual(
                Phase::Contract,
                sql.drop_old(),
                "when nobody reads the old column any more: --apply --phase contract --drop-old. There is no way back",
            ),
            apply(Phase::Rollback, sql.roll_back()?, "--apply --phase contract --rollback: the names are swapped back"),
            apply(Phase::Rollback, sql.abandon(), "--apply --phase expand --rollback: the new column goes"),
        ],
        MigrationKind::Rename => vec![
            apply(
                Phase::Expand,
                sql.expand(),
                "a change of the catalog: the column can be read by its new name as well",
            ),
            apply(
                Phase::Contract,
                sql.cut_over()?,
                "the cut-over, while no load is at work on the table: the old name becomes the one that can only be read. \
                 Between both statements the new name is not there",
            ),
            manual(
                Phase::Contract,
                sql.drop_old(),
                "when nobody reads the old name any more: --apply --phase contract --drop-old",
            ),
            apply(Phase::Rollback, sql.roll_back()?, "--apply --phase contract --rollback"),
            apply(Phase::Rollback, sql.abandon(), "--apply --phase expand --rollback: the new name goes"),
        ],
        MigrationKind::NotNull => {
            let fill = sql.backfill()?;
            vec![
                match fill.is_empty() {
                    false => {
                        apply(Phase::Backfill, fill, "rows without a value get the declared default, by a mutation")
                    }
                    true => manual(
                        Phase::Backfill,
                        Vec::new(),
                        "give the rows without a value one: the source declares no default for them",
                    ),
                },
                apply(Phase::Validate, vec![sql.validate()], "the count must be 0"),
                apply(
                    Phase::Contract,
                    sql.cut_over()?,
                    "while no load is at work on the table: a mutation that writes the column again",
                ),
                apply(Phase::Rollback, sql.roll_back()?, "--apply --phase contract --rollback"),
            ]
        }
        MigrationKind::Drop => vec![
            manual(Phase::Validate, Vec::new(), "see that nobody reads or writes the column"),
            apply(
                Phase::Contract,
                sql.cut_over()?,
                "the column is renamed away: whoever still uses it finds out, and it can be brought back",
            ),
            manual(Phase::Contract, sql.drop_old(), "--apply --phase contract --drop-old. There is no way back"),
            apply(Phase::Rollback, sql.roll_back()?, "--apply --phase contract --rollback"),
        ],
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn migration(kind: MigrationKind, from: &str, to: &str) -> Migration {
        Migration {
            schema_change_id: "sch_1".into(),
            kind,
            change_type: "type_change".into(),
            column: "c`".into(),
            shadow: "n".into(),
            retired: "o".into(),
            from_type: from.into(),
            to_type: to.into(),
            exact: false,
            default: None,
            target: None,
        }
    }

    #[test]
    fn what_a_plan_may_not_say_is_refused() {
        let table = Relation::new("d", "t");
        for (from, to) in [("String", "Int32) ENGINE = Null --"), ("String DEFAULT 5", "Int32"), ("Int32", "")] {
            assert!(steps(&table, &migration(MigrationKind::Retype, from, to)).is_err(), "{from} {to}");
        }
        let mut wrong = migration(MigrationKind::NotNull, "Nullable(Int32)", "Nullable(Int32)");
        wrong.default = Some("0; DROP TABLE t".into());
        assert!(steps(&table, &wrong).is_err());
        let nested = migration(MigrationKind::Retype, "Array(Int32)", "String");
        assert!(steps(&table, &nested).unwrap().is_none(), "nobody can tell what its values would be");
    }

    #[test]
    fn names_are_quoted_and_numbers_have_to_come_back() {
        let table = Relation::new("d", "t");
        let narrower = migration(MigrationKind::Retype, "Decimal(12, 4)", "Decimal(10, 2)");
        let sql = Sql::new(&table, &narrower).unwrap().unwrap();
        assert!(
            sql.expand()[0].contains("accurateCastOrDefault(`c\\``, 'Decimal(10, 2)') AFTER `c\\``"),
            "{:?}",
            sql.expand()
        );
        assert!(sql.fails().contains("'Decimal(12, 4)'"), "{}", sql.fails());
        let text = migration(MigrationKind::Retype, "String", "Nullable(Int32)");
        let fails = Sql::new(&table, &text).unwrap().unwrap().fails();
        assert_eq!(fails, "(isNotNull(`c\\``) AND isNull(accurateCastOrNull(`c\\``, 'Int32')))");
    }
}
