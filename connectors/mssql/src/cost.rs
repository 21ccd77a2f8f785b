//! What each change of a table costs on SQL Server 2016 to 2022, as its documentation says; nothing of it was measured.
//!
//! `TableFacts` of this system: `version` is the product's year. `settings` has `edition` (`enterprise`, `developer`,
//! `azure`, `standard`, `web`, `express`), `data_compression` (`row` or `page` where every index and partition has it,
//! else `none`) and `change_tracking` (`on`). `kind` is `table`, `temporal`, `memory_optimized`, `columnstore`.

use arrow::datatypes::Field;
use dpone_planner::schema::{
    COLLATION, Cost, DefaultValue, Dependent, DependentKind, Risk, SchemaChange, TableFacts, Work,
};

use crate::dialect::{default_of, type_of};
use crate::types::{Length, MsType};

/// The lock under which every change of a table's definition is made.
const SCH_M: Option<&str> = Some("Sch-M");
const NO_DEPENDENTS: &str =
    "no index, constraint, computed column or statistics of their own use the column: with one of them it is refused";

pub(crate) fn cost(facts: &TableFacts, change: &SchemaChange) -> Cost {
    if facts.kind.as_deref() == Some("memory_optimized") && !is_about_words(change) {
        return Cost::new(
            Risk::Blocking,
            SCH_M,
            Work::Rewrite,
            "a memory-optimized table is copied by each ALTER TABLE",
        )
        .online_path(["make the change in a maintenance window"]);
    }
    match change {
        SchemaChange::CreateTable { .. } => metadata("a new table is empty"),
        SchemaChange::AddColumn { column } => add_column(facts, column),
        SchemaChange::AlterType { from, to } => alter_type(facts, from, to),
        SchemaChange::DropNotNull { column } => drop_not_null(facts, column),
        SchemaChange::SetNotNull { column } => set_not_null(facts, column),
        SchemaChange::SetDefault { .. } => metadata("a default is a constraint in the catalog; rows are not looked at"),
        SchemaChange::DropDefault { .. } => metadata("the default's constraint leaves the catalog"),
        SchemaChange::SetComment { .. } => {
            Cost::new(Risk::MetadataOnly, None, Work::None, "a comment is an extended property beside the table")
        }
        SchemaChange::SetCollation { column, .. } => set_collation(facts, column),
        SchemaChange::RenameColumn { from, .. } => rename(facts, from),
        SchemaChange::DropColumn { column } => drop_column(facts, column),
    }
}

fn is_about_words(change: &SchemaChange) -> bool {
    matches!(change, SchemaChange::SetComment { .. } | SchemaChange::CreateTable { .. })
}

fn metadata(reason: &str) -> Cost {
    Cost::new(Risk::MetadataOnly, SCH_M, Work::None, reason)
}

fn rewrite(reason: impl Into<String>) -> Cost {
    Cost::new(Risk::Blocking, SCH_M, Work::Rewrite, reason)
}

fn add_column(facts: &TableFacts, column: &Field) -> Cost {
    let Ok(native) = type_of(column) else { return metadata("the column is new") };
    if native == MsType::RowVersion {
        return rewrite("every row gets a number of its own").online_path(["make the change in a maintenance window"]);
    }
    match default_of(column) {
        None if column.is_nullable() => metadata("a nullable column without default is in the catalog alone"),
        None if facts.is_empty() => metadata("the table holds no row that would lack a value"),
        None => {
            Cost::unsupported("rows that are there would have no value: SQL Server refuses NOT NULL without a default")
                .online_path([
                    "add the column NULL".to_owned(),
                    "fill it in batches of some thousand rows".to_owned(),
                    "then ALTER COLUMN … NOT NULL, which scans the table".to_owned(),
                ])
        }
        Some(default) => add_default(facts, column, &native, default),
    }
}

fn add_default(facts: &TableFacts, column: &Field, native: &MsType, default: &str) -> Cost {
    let batches = ["add the column NULL without default", "set the default", "fill the rows that are there in batches"];
    if facts.is_empty() {
        return metadata("the table holds no row that would get the default");
    }
    if is_volatile(column, default) {
        return rewrite("the default gives another value for each row, so every row is written under the lock")
            .online_path(batches);
    }
    if native.is_large() {
        return rewrite(format!("a default of {native} is written into every row")).online_path(batches);
    }
    if column.is_nullable() {
        return rewrite(
            "WITH VALUES writes the default into every row; that it stands in the catalog alone is documented for NOT NULL",
        )
        .online_path(["declare the column NOT NULL: on Enterprise the default is then in the catalog alone"])
        .online_path(batches);
    }
    match edition(facts) {
        Some(true) => metadata("a constant default of a NOT NULL column is in the catalog alone on this edition")
            .assuming("the row stays under 8,060 bytes: a longer one is written again"),
        Some(false) => rewrite("only Enterprise keeps the default in the catalog: this edition writes every row")
            .online_path(batches),
        None => {
            rewrite("only Enterprise and Azure SQL keep the default in the catalog: other editions write every row")
                .online_path(batches)
                .assuming("the edition is not known: one that writes every row is assumed")
        }
    }
}

/// Whether the server's edition does what Enterprise does; `None`: not known.
fn edition(facts: &TableFacts) -> Option<bool> {
    let edition = facts.settings.get("edition")?.to_ascii_lowercase();
    Some(["enterprise", "developer", "evaluation", "azure"].iter().any(|name| edition.starts_with(name)))
}

/// Whether each row gets another value. What asks for the time is asked once for the statement.
fn is_volatile(column: &Field, default: &str) -> bool {
    const CONSTANT: &[&str] = &[
        "now",
        "getdate",
        "getutcdate",
        "sysdatetime",
        "sysutcdatetime",
        "sysdatetimeoffset",
        "suser_sname",
        "user_name",
    ];
    match DefaultValue::parse(column.name(), default) {
        Ok(DefaultValue::Call(name)) => !CONSTANT.contains(&name.as_str()),
        Ok(_) => false,
        Err(_) => true,
    }
}

/// What becomes of the rows when a column gets another type.
enum Rows {
    Untouched(&'static str),
    Scanned(&'static str),
    Written(String),
    Refused(&'static str),
}

fn rows(from: &MsType, to: &MsType) -> Rows {
    use MsType::{Bytes, Opaque, RowVersion, Text};
    match (from, to) {
        (a, b) if a == b => Rows::Untouched("the type stays"),
        (RowVersion, _) | (_, RowVersion) => Rows::Refused("a rowversion column has its type for good"),
        (Opaque("text"), Text { unicode: false, length: Length::Max, .. })
        | (Opaque("ntext"), Text { unicode: true, length: Length::Max, .. })
        | (Opaque("image"), Bytes { length: Length::Max, .. }) => {
            Rows::Written("the large values of every row are touched".into())
        }
        (Opaque(_), _) => Rows::Refused("a column of this type can only get its (max) counterpart"),
        (Text { unicode: a, fixed: false, length: m }, Text { unicode: b, fixed: false, length: n }) if a == b => {
            longer(*m, *n)
        }
        (Bytes { fixed: false, length: m }, Bytes { fixed: false, length: n }) => longer(*m, *n),
        _ => Rows::Written(format!("a value of {from} is not stored as one of {to} is: every row is written again")),
    }
}

fn longer(from: Length, to: Length) -> Rows {
    match (from, to) {
        (Length::Units(a), Length::Units(b)) if a <= b => {
            Rows::Untouched("a varying length may grow: the rows stay as they are")
        }
        (Length::Units(_), Length::Max) => {
            Rows::Written("(max) is stored in another way: the whole table is touched".into())
        }
        _ => Rows::Scanned("every row is checked, and a value that is too long stops the statement"),
    }
}

fn alter_type(facts: &TableFacts, from: &Field, to: &Field) -> Cost {
    let (Ok(old), Ok(new)) = (type_of(from), type_of(to)) else {
        return Cost::unsupported("SQL Server has no type for one of the two");
    };
    let rows = rows(&old, &new);
    if let Rows::Refused(reason) = rows {
        return Cost::unsupported(format!("{old} to {new}: {reason}")).online_path(shadow());
    }
    let grows = matches!(rows, Rows::Untouched(_));
    if let Some(refusal) = held_by(facts, from, grows, "its type changes") {
        return refusal;
    }
    if default_of(from).is_some() && std::mem::discriminant(&old) != std::mem::discriminant(&new) {
        return Cost::unsupported("the column's default is a constraint that keeps its type").online_path([
            "drop the default",
            "change the type",
            "set the default again",
        ]);
    }
    let mut cost = match rows {
        Rows::Untouched(reason) => metadata(reason),
        Rows::Scanned(reason) => Cost::new(Risk::Blocking, SCH_M, Work::Scan, reason)
            .online_path(["find the values that are too long first, and decide about them"])
            .online_path(shadow()),
        Rows::Written(_) if widens_compressed(facts, &old, &new) => {
            metadata("the rows are compressed: a whole number is stored in as few bytes as it needs")
        }
        Rows::Written(reason) => written(facts, &old, &new, reason),
        Rows::Refused(_) => return Cost::unsupported("refused"),
    };
    if !facts.observed {
        cost = cost.assuming(NO_DEPENDENTS);
    }
    if new.is_text() && ![from, to].iter().any(|field| field.metadata().contains_key(COLLATION)) {
        cost = cost.assuming("the column has the database's collation: ALTER COLUMN without COLLATE sets it");
    }
    cost
}

/// Since 2016 whole numbers widen in the catalog alone where every index and partition is compressed.
fn widens_compressed(facts: &TableFacts, from: &MsType, to: &MsType) -> bool {
    const WHOLE: [MsType; 4] = [MsType::TinyInt, MsType::SmallInt, MsType::Int, MsType::BigInt];
    let place = |native: &MsType| WHOLE.iter().position(|other| other == native);
    let compressed = facts
        .settings
        .get("data_compression")
        .is_some_and(|c| ["row", "page"].contains(&c.to_ascii_lowercase().as_str()));
    compressed
        && facts.version.is_some_and(|year| year >= 2016)
        && place(from).zip(place(to)).is_some_and(|(from, to)| from < to)
}

fn written(facts: &TableFacts, from: &MsType, to: &MsType, reason: String) -> Cost {
    let mut cost = rewrite(reason).online_path(online(facts)).online_path(shadow());
    let whole = |native: &MsType| matches!(native, MsType::TinyInt | MsType::SmallInt | MsType::Int | MsType::BigInt);
    if whole(from) && whole(to) && !facts.settings.contains_key("data_compression") {
        cost = cost.assuming("an index or partition is not compressed: with ROW or PAGE on all of them, 2016 and later change only the catalog");
    }
    cost
}

fn online(facts: &TableFacts) -> Option<String> {
    let refused = matches!(facts.kind.as_deref(), Some("temporal" | "columnstore"))
        || facts.settings.get("change_tracking").is_some_and(|value| value.eq_ignore_ascii_case("on"));
    if refused || edition(facts) == Some(false) || facts.version.is_some_and(|year| year < 2016) {
        return None;
    }
    Some(
        "on Enterprise and Azure SQL the same statement WITH (ONLINE = ON) lets readers and writers go on; not with \
         change tracking or a columnstore index, and without effect on a temporal table"
            .to_owned(),
    )
}

fn shadow() -> [&'static str; 4] {
    [
        "add a column of the new type",
        "keep it in step with a trigger, and fill it in batches",
        "compare the two columns",
        "rename both in one short transaction, and drop the old one later",
    ]
}

/// The refusal, where something in the catalog holds the column. `grows`: a varying length that becomes longer, which
/// most of them allow.
fn held_by(facts: &TableFacts, column: &Field, grows: bool, what: &str) -> Option<Cost> {
    let holder = facts.dependents_of(column.name()).find(|dependent| holds(dependent, grows))?;
    let kind = kind_name(&holder.kind);
    Some(
        Cost::unsupported(format!("{kind} {:?} uses the column: it is refused while {what}", holder.name)).online_path(
            [
                format!("drop {kind} {:?}", holder.name),
                "make the change".to_owned(),
                format!("create {kind} {:?} again, an index WITH (ONLINE = ON) where the edition has it", holder.name),
            ],
        ),
    )
}

fn holds(dependent: &Dependent, grows: bool) -> bool {
    match &dependent.kind {
        DependentKind::Index { primary: true, .. } | DependentKind::ForeignKey { .. } => true,
        DependentKind::Index { .. } | DependentKind::Check { .. } | DependentKind::Statistics => !grows,
        DependentKind::GeneratedColumn | DependentKind::PartitionKey | DependentKind::MaterializedView => true,
        DependentKind::View | DependentKind::Function => is_bound(dependent),
        _ => false,
    }
}

/// Only views and functions that are bound to the schema keep a column as it is.
fn is_bound(dependent: &Dependent) -> bool {
    dependent.definition.to_ascii_uppercase().contains("SCHEMABINDING")
}

fn kind_name(kind: &DependentKind) -> &'static str {
    match kind {
        DependentKind::Index { primary: true, .. } => "the primary key",
        DependentKind::Index { .. } => "the index",
        DependentKind::ForeignKey { .. } => "the foreign key",
        DependentKind::Check { .. } => "the CHECK",
        DependentKind::Statistics => "the statistics",
        DependentKind::GeneratedColumn => "the computed column",
        DependentKind::PartitionKey => "the partitioning",
        DependentKind::MaterializedView => "the indexed view",
        DependentKind::View => "the view",
        _ => "the object",
    }
}

fn drop_not_null(facts: &TableFacts, column: &Field) -> Cost {
    let key = facts.dependents_of(column.name()).find(|d| matches!(d.kind, DependentKind::Index { primary: true, .. }));
    if let Some(key) = key {
        return Cost::unsupported(format!("the primary key {:?} needs the column NOT NULL", key.name))
            .online_path(["take the column out of the primary key first"]);
    }
    let cost = metadata("that NULL is allowed is in the catalog alone");
    if facts.observed { cost } else { cost.assuming("the column is in no primary key: there it is refused") }
}

fn set_not_null(facts: &TableFacts, column: &Field) -> Cost {
    if facts.is_empty() {
        return metadata("the table holds no row to check");
    }
    // An index holds every type but the varying ones, whose definition may be stated again.
    let varying = matches!(type_of(column), Ok(MsType::Text { fixed: false, .. } | MsType::Bytes { fixed: false, .. }));
    if let Some(refusal) = held_by(facts, column, varying, "NULL is forbidden") {
        return refusal;
    }
    let cost = Cost::new(Risk::Blocking, SCH_M, Work::Scan, "every row is checked under the lock")
        .online_path(["look for NULLs first: one of them stops the statement"])
        .online_path(online(facts));
    if facts.observed { cost } else { cost.assuming(NO_DEPENDENTS) }
}

fn set_collation(facts: &TableFacts, column: &Field) -> Cost {
    if let Some(refusal) = held_by(facts, column, false, "its collation changes") {
        return refusal;
    }
    let cost =
        rewrite("texts of another collation may be stored and are compared in another way").online_path(shadow());
    if facts.observed { cost } else { cost.assuming(NO_DEPENDENTS) }
}

fn rename(facts: &TableFacts, from: &Field) -> Cost {
    let bound = |dependent: &&Dependent| match dependent.kind {
        DependentKind::GeneratedColumn | DependentKind::MaterializedView | DependentKind::Check { .. } => true,
        DependentKind::View | DependentKind::Function => is_bound(dependent),
        _ => false,
    };
    if let Some(holder) = facts.dependents_of(from.name()).find(bound) {
        return Cost::unsupported(format!(
            "{} {:?} names the column and is not rewritten",
            kind_name(&holder.kind),
            holder.name
        ))
        .online_path(["drop it, rename the column, and create it again with the new name"]);
    }
    metadata("the name is in the catalog; views, procedures and triggers that say the old one fail when they run")
        .online_path(["keep the old name for readers: a view that has both, or a computed column"])
}

fn drop_column(facts: &TableFacts, column: &Field) -> Cost {
    if let Some(refusal) = held_by(facts, column, false, "it is dropped") {
        return refusal;
    }
    let cost = metadata("the column leaves the catalog; its space is given back when the table is rebuilt");
    if facts.observed { cost } else { cost.assuming(NO_DEPENDENTS) }
}
