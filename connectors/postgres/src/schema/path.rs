//! The way around a statement that would stop readers or writers: SQL where it can be said in SQL, step by step.

use dpone_planner::Relation;
use dpone_planner::schema::{Dependent, DependentKind, TableFacts};

use super::conversion::{Conversion, Setting, conversion};
use super::cost::{Effect, MAJORS, is_rebuilt, named};
use super::operation::{Inline, NewColumn, NewDefault, Operation, TypeChange};
use crate::write::names::{MAX_NAME, quote, relation};

const APART: &str = "each of these statements in a transaction of its own, with a lock_timeout";

const INVALID: &str = "look at pg_index.indisvalid afterwards: a build that was stopped leaves an index that is not valid, to be \
                       dropped";

pub(super) fn online_path(
    table: &Relation,
    facts: &TableFacts,
    major: u32,
    operation: &Operation,
    effect: &Effect,
) -> Vec<String> {
    let name = relation(table);
    match operation {
        Operation::SetNotNull { column, .. } => not_null(&name, column, major),
        Operation::AddColumn(column) => new_column(column),
        Operation::AlterType(change) if effect.refused => without_obstacles(&name, facts, change),
        Operation::AlterType(change) => other_type(&name, facts, change, effect),
        Operation::DropColumn { .. } if effect.refused => {
            vec!["drop what needs the column first, or take the column out of it".to_owned()]
        }
        Operation::AddCheck { .. } => two_steps(&name, "CHECK (…)"),
        Operation::AddForeignKey { .. } => two_steps(&name, "FOREIGN KEY (…) REFERENCES … (…)"),
        Operation::AddPrimaryKey { .. } => vec![
            APART.to_owned(),
            "the columns of the key NOT NULL first, by way of a validated CHECK".to_owned(),
            format!("CREATE UNIQUE INDEX CONCURRENTLY … ON {name} (…)"),
            format!("ALTER TABLE {name} ADD CONSTRAINT … PRIMARY KEY USING INDEX …"),
        ],
        Operation::AddUnique { .. } => vec![
            APART.to_owned(),
            format!("CREATE UNIQUE INDEX CONCURRENTLY … ON {name} (…)"),
            format!("ALTER TABLE {name} ADD CONSTRAINT … UNIQUE USING INDEX …"),
        ],
        Operation::CreateIndex { .. } => concurrently(format!("CREATE INDEX CONCURRENTLY … ON {name} (…)")),
        Operation::AttachPartition { .. } => {
            let steps = two_steps("the new partition", "CHECK (what the bounds say)");
            [steps, vec![format!("ALTER TABLE {name} ATTACH PARTITION …")]].concat()
        }
        Operation::Cluster => vec!["a tool that copies the table beside its users, such as pg_repack".to_owned()],
        _ => Vec::new(),
    }
}

/// NOT VALID and VALIDATE in one transaction would hold the lock of the first through the scan of the second.
fn two_steps(table: &str, constraint: &str) -> Vec<String> {
    vec![
        APART.to_owned(),
        format!("ALTER TABLE {table} ADD CONSTRAINT … {constraint} NOT VALID"),
        format!("ALTER TABLE {table} VALIDATE CONSTRAINT …"),
    ]
}

fn concurrently(statement: String) -> Vec<String> {
    vec![format!("{statement}, outside of a transaction and without a timeout"), INVALID.to_owned()]
}

fn not_null(table: &str, column: &str, major: u32) -> Vec<String> {
    let (constraint, quoted) = (quote(&helper(column, "not_null")), quote(column));
    if major >= 18 {
        return vec![
            APART.to_owned(),
            format!("ALTER TABLE {table} ADD CONSTRAINT {constraint} NOT NULL {quoted} NOT VALID"),
            format!("ALTER TABLE {table} VALIDATE CONSTRAINT {constraint}"),
        ];
    }
    let mut steps = vec![
        APART.to_owned(),
        format!("ALTER TABLE {table} ADD CONSTRAINT {constraint} CHECK ({quoted} IS NOT NULL) NOT VALID"),
        format!("ALTER TABLE {table} VALIDATE CONSTRAINT {constraint}"),
    ];
    if major >= 12 {
        steps.push(format!("ALTER TABLE {table} ALTER COLUMN {quoted} SET NOT NULL"));
        steps.push(format!("ALTER TABLE {table} DROP CONSTRAINT {constraint}"));
    } else {
        steps.push(
            "leave the CHECK in place: before PostgreSQL 12, SET NOT NULL reads the table whatever the CHECK says"
                .to_owned(),
        );
    }
    steps
}

fn new_column(column: &NewColumn) -> Vec<String> {
    let mut steps = vec!["add the column without NOT NULL, default and constraints".to_owned()];
    match column.default {
        NewDefault::None | NewDefault::Virtual => {}
        NewDefault::Stored => steps.push("fill it by a trigger instead of GENERATED".to_owned()),
        NewDefault::Identity => steps.push("create the sequence, and set the default to nextval('…')".to_owned()),
        NewDefault::Constant | NewDefault::Volatile { .. } => {
            steps.push("ALTER COLUMN … SET DEFAULT …, which counts for rows to come".to_owned());
        }
    }
    steps.push("fill it in batches of rows, each in a transaction of its own".to_owned());
    if column.not_null {
        steps.push("then NOT NULL by way of a CHECK that is NOT VALID, and validated after it".to_owned());
    }
    match column.inline {
        Some(Inline::Check | Inline::References) => {
            steps.push("then the constraint, NOT VALID and validated after it".to_owned())
        }
        Some(Inline::Unique) => {
            steps.push("then a unique index CONCURRENTLY, and the constraint USING INDEX".to_owned())
        }
        None => {}
    }
    steps
}

fn without_obstacles(table: &str, facts: &TableFacts, change: &TypeChange) -> Vec<String> {
    let holders: Vec<String> = facts
        .dependents_of(&change.column)
        .filter(|d| {
            matches!(
                d.kind,
                DependentKind::View
                    | DependentKind::MaterializedView
                    | DependentKind::Rule
                    | DependentKind::GeneratedColumn
                    | DependentKind::Policy
                    | DependentKind::Trigger
                    | DependentKind::Function
                    | DependentKind::Publication
            )
        })
        .map(named)
        .collect();
    if holders.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "in one transaction: drop {}, ALTER TABLE {table} ALTER COLUMN {} TYPE {}, create what was dropped again",
        holders.join(", "),
        quote(&change.column),
        change.to.name()
    )]
}

fn other_type(table: &str, facts: &TableFacts, change: &TypeChange, effect: &Effect) -> Vec<String> {
    use dpone_planner::schema::Work;
    match effect.work {
        Work::IndexBuild => around_indexes(table, facts, change),
        Work::Scan => {
            let mut steps = vec![APART.to_owned()];
            let checks: Vec<_> = facts
                .dependents_of(&change.column)
                .filter(|d| matches!(d.kind, DependentKind::Check { validated: true, .. }))
                .collect();
            for check in &checks {
                steps.push(format!("ALTER TABLE {table} DROP CONSTRAINT {}", quote(&check.name)));
            }
            steps.push(alter(table, change));
            for check in &checks {
                let (name, definition) = (quote(&check.name), &check.definition);
                steps.push(format!("ALTER TABLE {table} ADD CONSTRAINT {name} {definition} NOT VALID"));
                steps.push(format!("ALTER TABLE {table} VALIDATE CONSTRAINT {name}"));
            }
            steps
        }
        _ => shadow_column(table, change),
    }
}

/// The indexes that would be built again go before the change, and come back after it.
fn around_indexes(table: &str, facts: &TableFacts, change: &TypeChange) -> Vec<String> {
    let best = Setting { major: *MAJORS.end(), utc: true };
    let kept =
        conversion(&change.from, &change.to, best) == Conversion::Relabel { index_kept: true } && !change.collates;
    let rebuilt: Vec<_> = facts.dependents_of(&change.column).filter(|d| is_rebuilt(d, kept)).collect();
    let holds = |d: &&Dependent| matches!(d.kind, DependentKind::Index { primary: false, .. });
    if !rebuilt.iter().all(holds) {
        return shadow_column(table, change);
    }
    let mut steps =
        vec!["without these indexes for a while; each statement by itself, outside of a transaction:".to_owned()];
    steps.extend(rebuilt.iter().map(|index| format!("DROP INDEX CONCURRENTLY {}", index.name)));
    steps.push(alter(table, change));
    steps.extend(rebuilt.iter().map(|index| index.definition.replacen(" INDEX ", " INDEX CONCURRENTLY ", 1)));
    steps.push(INVALID.to_owned());
    steps
}

fn alter(table: &str, change: &TypeChange) -> String {
    format!("ALTER TABLE {table} ALTER COLUMN {} TYPE {}", quote(&change.column), change.to.name())
}

/// Another column beside the first, which takes its name when it has its values.
fn shadow_column(table: &str, change: &TypeChange) -> Vec<String> {
    let (old, to) = (quote(&change.column), change.to.name());
    let (new, kept) = (quote(&helper(&change.column, "new")), quote(&helper(&change.column, "old")));
    let mut steps = Vec::new();
    if change.needs_zone() {
        steps.push(format!(
            "where the values are in UTC, from PostgreSQL 12 on and without an index on the column: BEGIN; SET LOCAL timezone = \
             'UTC'; {}; COMMIT",
            alter(table, change)
        ));
        steps.push("else:".to_owned());
    }
    steps.extend([
        format!("ALTER TABLE {table} ADD COLUMN {new} {to}"),
        format!("a trigger BEFORE INSERT OR UPDATE that sets {new} to {old}::{to}"),
        format!("in batches of rows: UPDATE {table} SET {new} = {old}::{to} WHERE {new} IS DISTINCT FROM {old}::{to} AND …"),
        format!("the indexes of {old} on {new}, CONCURRENTLY; its constraints NOT VALID, and validated after it"),
        format!(
            "in one transaction: drop the trigger; ALTER TABLE {table} RENAME COLUMN {old} TO {kept}; ALTER TABLE {table} RENAME \
             COLUMN {new} TO {old}"
        ),
        format!("when nobody needs it any more: ALTER TABLE {table} DROP COLUMN {kept}"),
    ]);
    steps
}

/// A name made of a column's, no longer than names may be.
fn helper(column: &str, suffix: &str) -> String {
    let mut end = column.len().min(MAX_NAME - suffix.len() - 1);
    while !column.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}_{suffix}", &column[..end])
}
