//! What a statement costs: the lock that it takes, times what it does under that lock. Both depend on the server's version,
//! on the session's time zone, and on what hangs on the column.

use std::ops::RangeInclusive;

use dpone_planner::Relation;
use dpone_planner::schema::{Cost, Dependent, DependentKind, Risk, TableFacts, Work};

use super::conversion::{Conversion, Setting, conversion};
use super::operation::{DomainKind, Inline, NewColumn, NewDefault, Operation, TypeChange};
use super::path::online_path;

/// The major versions that the costs were measured on.
pub const MAJORS: RangeInclusive<u32> = 11..=18;

/// The strongest lock on the table, from the weakest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lock {
    None,
    ShareUpdateExclusive,
    Share,
    ShareRowExclusive,
    AccessExclusive,
}

impl Lock {
    fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::None => return None,
            Self::ShareUpdateExclusive => "SHARE UPDATE EXCLUSIVE",
            Self::Share => "SHARE",
            Self::ShareRowExclusive => "SHARE ROW EXCLUSIVE",
            Self::AccessExclusive => "ACCESS EXCLUSIVE",
        })
    }
}

/// What a statement does to the table.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Effect {
    pub(super) lock: Lock,
    pub(super) work: Work,
    pub(super) refused: bool,
    pub(super) reason: String,
}

impl Effect {
    fn new(lock: Lock, work: Work, reason: impl Into<String>) -> Self {
        Self { lock, work, refused: false, reason: reason.into() }
    }

    /// Nothing that grows with the table.
    fn brief(lock: Lock, reason: impl Into<String>) -> Self {
        Self::new(lock, Work::None, reason)
    }

    fn refused(reason: impl Into<String>) -> Self {
        Self { refused: true, ..Self::new(Lock::None, Work::None, reason) }
    }

    pub(super) fn risk(&self) -> Risk {
        match (self.lock, self.work) {
            _ if self.refused => Risk::Unsupported,
            (_, Work::None) => Risk::MetadataOnly,
            (Lock::None | Lock::ShareUpdateExclusive, _) => Risk::LowLock,
            _ => Risk::Blocking,
        }
    }
}

/// What decides, beside the statement.
pub(super) struct Scene<'a> {
    facts: &'a TableFacts,
    major: u32,
}

impl<'a> Scene<'a> {
    fn setting(&self) -> Setting {
        Setting { major: self.major, utc: zone(self.facts).is_some_and(is_utc) }
    }

    fn on<'b>(&'b self, column: &'b str) -> impl Iterator<Item = &'b Dependent> + use<'a, 'b> {
        self.facts.dependents_of(column)
    }

    /// Inherited columns belong to the parent.
    fn inherits(&self, column: &str) -> bool {
        self.on(column).any(|d| d.kind == DependentKind::Inheritance { child: true })
    }

    /// A column of another table that has the type of this one's rows.
    fn row_user(&self) -> Option<&'a Dependent> {
        self.facts.dependents.iter().find(|dependent| dependent.kind == DependentKind::RowType)
    }

    fn is_partition(&self) -> bool {
        self.facts.kind.as_deref() == Some("partition")
    }
}

/// What a statement costs on a table; of several versions that it may be, the costliest.
pub fn cost_of(table: &Relation, facts: &TableFacts, operation: &Operation) -> Cost {
    let majors = match facts.version.map(|version| version / 10_000) {
        Some(major) => major.clamp(*MAJORS.start(), *MAJORS.end())..=major.clamp(*MAJORS.start(), *MAJORS.end()),
        None => MAJORS,
    };
    let effects = majors.clone().map(|major| (effect(operation, &Scene { facts, major }), major));
    let (mut worst, mut major) = (Effect::refused(String::new()), *majors.end());
    for (at, (effect, version)) in effects.enumerate() {
        let weight = |e: &Effect| (e.risk(), e.work, e.lock);
        if at == 0 || weight(&effect) >= weight(&worst) {
            (worst, major) = (effect, version);
        }
    }
    // A table without rows is read and written at once, whatever is done.
    let idle = facts.is_empty() && !worst.refused && worst.work != Work::None;
    let reason = if idle { format!("{}; the table is empty", worst.reason) } else { worst.reason.clone() };
    let risk = if idle { Risk::MetadataOnly } else { worst.risk() };
    let mut cost = Cost::new(risk, worst.lock.name(), worst.work, reason);
    cost.assumptions = assumptions(operation, facts);
    if risk.is_online() { cost } else { cost.online_path(online_path(table, facts, major, operation, &worst)) }
}

fn effect(operation: &Operation, scene: &Scene<'_>) -> Effect {
    use Lock::{AccessExclusive, Share, ShareRowExclusive, ShareUpdateExclusive};
    let brief = Effect::brief;
    let catalog = |reason: &str| Effect::brief(AccessExclusive, reason);
    let scan = |lock, reason: &str| Effect::new(lock, Work::Scan, reason);
    let build = |lock, reason: &str| Effect::new(lock, Work::IndexBuild, reason);
    match operation {
        Operation::CreateTable => brief(Lock::None, "nobody uses a table that is only made"),
        Operation::AddColumn(column) => add_column(column, scene),
        Operation::AlterType(change) => alter_type(change, scene),
        Operation::AddLabel => brief(Lock::None, "a label is added to the type, and no table is touched"),
        Operation::SetNotNull { column, has_null } => set_not_null(column, *has_null, scene),
        Operation::AddNotNullNotValid { .. } if scene.major < 18 => {
            Effect::refused("PostgreSQL has NOT NULL constraints that are not valid since version 18")
        }
        Operation::AddNotNullNotValid { .. } => catalog("rows that are there are not checked"),
        Operation::DropNotNull { column, filled } => drop_not_null(column, *filled, scene),
        Operation::SetDefault { filled: true, .. } | Operation::DropDefault { filled: true, .. } => {
            Effect::refused("the table fills the column by itself: it has no default")
        }
        Operation::SetDefault { .. } | Operation::DropDefault { .. } => {
            catalog("the default counts for rows to come; those that are there stay as they are")
        }
        Operation::Comment | Operation::SetStatistics | Operation::SetStorageParameters => {
            brief(ShareUpdateExclusive, "only the catalog changes, beside readers and writers")
        }
        Operation::AddToPublication => {
            brief(ShareUpdateExclusive, "only the catalog changes, beside readers and writers")
        }
        Operation::RenameColumn { column } if scene.inherits(column) => {
            Effect::refused("the column comes from a parent table, and has its name from there")
        }
        Operation::RenameColumn { .. } | Operation::RenameTable => {
            catalog("only the name changes; statements that still use the old one fail")
        }
        Operation::DropColumn { column } => drop_column(column, scene),
        Operation::AddCheck { valid: true } => scan(AccessExclusive, "every row is checked"),
        Operation::AddCheck { valid: false } => catalog("rows that are there are not checked"),
        Operation::ValidateCheck => scan(ShareUpdateExclusive, "rows are checked beside readers and writers"),
        Operation::DropCheck => catalog("only the catalog changes"),
        Operation::AddForeignKey { valid: true } => {
            scan(ShareRowExclusive, "every row is looked up, while both tables take no writes")
        }
        Operation::AddForeignKey { valid: false } => {
            brief(ShareRowExclusive, "rows that are there are not looked up; both tables are locked for a moment")
        }
        Operation::ValidateForeignKey => scan(ShareUpdateExclusive, "rows are looked up beside readers and writers"),
        Operation::DropForeignKey => catalog("only the catalog changes; the other table is locked as well"),
        Operation::AddPrimaryKey { using_index: true, nullable: false }
        | Operation::AddUnique { using_index: true } => catalog("the index is there already"),
        Operation::AddPrimaryKey { using_index: true, nullable: true } => {
            scan(AccessExclusive, "a column of the key takes NULL: every row is checked")
        }
        Operation::AddPrimaryKey { .. } | Operation::AddUnique { .. } => {
            build(AccessExclusive, "its index is built while nobody reads or writes")
        }
        Operation::CreateIndex { concurrently: true } => {
            build(ShareUpdateExclusive, "the index is built beside readers and writers")
        }
        Operation::CreateIndex { concurrently: false } => build(Share, "the index is built while nobody writes"),
        Operation::DropIndex { concurrently: true } => {
            brief(ShareUpdateExclusive, "only the catalog and a file change")
        }
        Operation::DropIndex { concurrently: false } => catalog("only the catalog and a file change"),
        Operation::CreateTrigger => brief(ShareRowExclusive, "only the catalog changes"),
        Operation::AttachPartition { proven } => attach(*proven),
        Operation::DetachPartition => catalog("only the catalog changes"),
        Operation::SetUnlogged | Operation::Cluster => {
            Effect::new(AccessExclusive, Work::Rewrite, "every row is written again")
        }
    }
}

/// The parent goes on since version 12; the new partition does not.
fn attach(proven: bool) -> Effect {
    let lock = Lock::AccessExclusive;
    if proven {
        return Effect::brief(
            lock,
            "a CHECK of the new partition, which is locked, says already that its rows belong there",
        );
    }
    Effect::new(lock, Work::Scan, "every row of the new partition is checked, while nobody uses it")
}

fn add_column(column: &NewColumn, scene: &Scene<'_>) -> Effect {
    let effect = added(column, scene);
    let touches = effect.work == Work::Rewrite || column.default == NewDefault::Constant;
    match scene.row_user().filter(|_| touches && !effect.refused) {
        Some(user) => Effect::refused(format!(
            "{} has the type of the table's rows: a column is added there without a value alone",
            named(user)
        )),
        None => effect,
    }
}

fn added(column: &NewColumn, scene: &Scene<'_>) -> Effect {
    let lock = Lock::AccessExclusive;
    let rewrite = |reason: &str| Effect::new(lock, Work::Rewrite, reason);
    if scene.is_partition() {
        return Effect::refused("a partition has the columns of its parent: the column is added there");
    }
    match column.domain {
        DomainKind::Checked => {
            return rewrite("the domain's constraints are checked for every row, with or without a value");
        }
        DomainKind::Unknown => return rewrite("the type may be a domain, whose constraints are checked for every row"),
        DomainKind::No | DomainKind::Free => {}
    }
    match column.default {
        NewDefault::Virtual if scene.major < 18 => {
            return Effect::refused("PostgreSQL has virtual generated columns since version 18");
        }
        NewDefault::Stored if scene.major < 12 => {
            return Effect::refused("PostgreSQL has generated columns since version 12");
        }
        NewDefault::Stored => return rewrite("the column is computed for every row"),
        NewDefault::Identity => return rewrite("every row gets its number"),
        NewDefault::Volatile { known: true } => return rewrite("the default gives each row another value"),
        NewDefault::Volatile { known: false } => return rewrite("the default may give each row another value"),
        NewDefault::None if column.not_null && !scene.facts.is_empty() => {
            return Effect::refused("the column takes no NULL, and rows that are there have no value for it");
        }
        NewDefault::None | NewDefault::Constant | NewDefault::Virtual => {}
    }
    match column.inline {
        Some(Inline::Check) => Effect::new(lock, Work::Scan, "every row is checked"),
        Some(Inline::Unique) => Effect::new(lock, Work::IndexBuild, "the index of the constraint is built"),
        Some(Inline::References) if column.default == NewDefault::None => {
            Effect::brief(lock, "no row refers to anything yet; the other table is locked as well")
        }
        Some(Inline::References) => Effect::new(lock, Work::Scan, "every row's value is looked up"),
        None if column.default == NewDefault::Constant => {
            Effect::brief(lock, "the value for rows that are there is kept once, in the catalog")
        }
        None => Effect::brief(lock, "rows that are there are not touched"),
    }
}

fn set_not_null(column: &str, has_null: bool, scene: &Scene<'_>) -> Effect {
    let lock = Lock::AccessExclusive;
    let unproven = |kind: &DependentKind| matches!(kind, DependentKind::Check { validated: false, not_null: Some(c) } if c == column);
    if scene.on(column).any(|d| unproven(&d.kind) && d.definition.starts_with("NOT NULL")) {
        return Effect::new(lock, Work::Scan, "the constraint NOT NULL is not valid yet: every row is checked");
    }
    if !has_null {
        return Effect::brief(lock, "the column takes no NULL already");
    }
    let proven = scene.on(column).any(|dependent| {
        matches!(&dependent.kind, DependentKind::Check { validated: true, not_null: Some(c) } if c == column)
    });
    match (proven, scene.major) {
        (true, 12..) => Effect::brief(lock, "a validated CHECK says already that no row has NULL there"),
        (true, _) => Effect::new(lock, Work::Scan, "every row is checked: PostgreSQL 11 does not look at the CHECK"),
        (false, _) => Effect::new(lock, Work::Scan, "every row is checked"),
    }
}

fn drop_not_null(column: &str, filled: bool, scene: &Scene<'_>) -> Effect {
    let key = scene.on(column).any(|d| matches!(d.kind, DependentKind::Index { primary: true, .. }));
    if key {
        return Effect::refused("the column is part of the primary key");
    }
    if filled {
        return Effect::refused("an identity takes no NULL");
    }
    if scene.inherits(column) {
        return Effect::refused("the column comes from a parent table, whose NOT NULL it has");
    }
    Effect::brief(Lock::AccessExclusive, "only the catalog changes")
}

fn drop_column(column: &str, scene: &Scene<'_>) -> Effect {
    if scene.inherits(column) {
        return Effect::refused("the column comes from a parent table: it is dropped there");
    }
    let holder = scene.on(column).find(|dependent| match &dependent.kind {
        DependentKind::View
        | DependentKind::MaterializedView
        | DependentKind::Rule
        | DependentKind::Policy
        | DependentKind::Trigger
        | DependentKind::Function
        | DependentKind::PartitionKey => true,
        DependentKind::GeneratedColumn => true,
        DependentKind::Publication => true,
        DependentKind::ForeignKey { inbound, .. } => *inbound,
        _ => false,
    });
    if let Some(holder) = holder {
        return Effect::refused(format!("{} needs the column", named(holder)));
    }
    let gone: Vec<String> = scene
        .on(column)
        .filter(|dependent| {
            matches!(
                dependent.kind,
                DependentKind::Index { .. }
                    | DependentKind::Check { .. }
                    | DependentKind::ForeignKey { .. }
                    | DependentKind::Exclusion
                    | DependentKind::Statistics
            )
        })
        .map(named)
        .collect();
    let mut reason =
        "the values stay in the rows until these are written again, and the column keeps counting to the 1,600 \
                      that a table may have"
            .to_owned();
    if !gone.is_empty() {
        reason.push_str(&format!("; with it go {}", gone.join(", ")));
    }
    Effect::brief(Lock::AccessExclusive, reason)
}

fn alter_type(change: &TypeChange, scene: &Scene<'_>) -> Effect {
    let column = change.column.as_str();
    if let Some(obstacle) = obstacle(column, scene) {
        return Effect::refused(obstacle);
    }
    let (from, to) = (change.from.name(), change.to.name());
    let lock = Lock::AccessExclusive;
    let rewrite = |reason: String| Effect::new(lock, Work::Rewrite, reason);
    if change.computed {
        return rewrite("the expression is computed for every row, and every index is built again".to_owned());
    }
    match change.domain {
        DomainKind::Checked => return rewrite("the domain's constraints are checked for every row".to_owned()),
        DomainKind::Unknown => return rewrite(format!("{to} may be a domain with constraints of its own")),
        DomainKind::No | DomainKind::Free => {}
    }
    match conversion(&change.from, &change.to, scene.setting()) {
        Conversion::None => Effect::refused(format!("PostgreSQL has no cast from {from} to {to}")),
        Conversion::Rewrite { .. } => {
            let mut reason = format!(
                "{to} is stored otherwise than {from}, or checked: every row is written again, and every index built"
            );
            if let Some(key) = scene.on(column).find(|d| matches!(d.kind, DependentKind::ForeignKey { .. })) {
                reason.push_str(&format!("; the other table of {} is locked as well", named(key)));
            }
            rewrite(reason)
        }
        Conversion::Relabel { index_kept } => relabel(column, index_kept && !change.collates, scene),
    }
}

/// The rows stay. Indexes and checks on the column may have to be built, or made, again.
fn relabel(column: &str, index_kept: bool, scene: &Scene<'_>) -> Effect {
    let lock = Lock::AccessExclusive;
    let rebuilt = scene.on(column).find(|dependent| is_rebuilt(dependent, index_kept));
    if let Some(index) = rebuilt {
        return Effect::new(
            lock,
            Work::IndexBuild,
            format!("the rows stay as they are, and {} is built again", named(index)),
        );
    }
    let checked = scene.on(column).find(|d| matches!(d.kind, DependentKind::Check { validated: true, .. }));
    if let Some(check) = checked {
        return Effect::new(
            lock,
            Work::Scan,
            format!("the rows stay as they are, and {} is checked again", named(check)),
        );
    }
    Effect::brief(lock, "the rows and the indexes stay as they are")
}

/// Whether an index is built again although the rows stay. `index_kept`: the new type sorts as the old one.
pub(super) fn is_rebuilt(dependent: &Dependent, index_kept: bool) -> bool {
    match dependent.kind {
        DependentKind::Index { plain, valid, .. } => !(index_kept && plain && valid) || is_partitioned(dependent),
        DependentKind::Exclusion => !index_kept,
        _ => false,
    }
}

/// An index of a partitioned table, which has no file to keep: the server builds those of the partitions again.
fn is_partitioned(index: &Dependent) -> bool {
    index.definition.contains(" ON ONLY ")
}

/// What makes the server refuse another type for the column.
fn obstacle(column: &str, scene: &Scene<'_>) -> Option<String> {
    if scene.inherits(column) {
        return Some("the column comes from a parent table: its type is changed there".to_owned());
    }
    if let Some(user) = scene.row_user() {
        return Some(format!("{} has the type of the table's rows", named(user)));
    }
    let holder = scene.on(column).find(|dependent| {
        matches!(
            dependent.kind,
            DependentKind::View
                | DependentKind::MaterializedView
                | DependentKind::Rule
                | DependentKind::GeneratedColumn
                | DependentKind::Policy
                | DependentKind::Trigger
                | DependentKind::Function
                | DependentKind::Publication
                | DependentKind::PartitionKey
        )
    })?;
    Some(format!("{} looks at the column: PostgreSQL refuses to change its type", named(holder)))
}

/// A dependent as a reason names it.
pub(super) fn named(dependent: &Dependent) -> String {
    let what = match &dependent.kind {
        DependentKind::Index { primary: true, .. } => "the primary key",
        DependentKind::Index { .. } => "the index",
        DependentKind::Check { .. } => "the CHECK",
        DependentKind::ForeignKey { .. } => "the foreign key",
        DependentKind::Exclusion => "the exclusion constraint",
        DependentKind::View => "the view",
        DependentKind::MaterializedView => "the materialized view",
        DependentKind::GeneratedColumn => "the generated column",
        DependentKind::Policy => "the policy",
        DependentKind::Trigger => "the trigger",
        DependentKind::Rule => "the rule",
        DependentKind::Publication => "the publication",
        DependentKind::Statistics => "the statistics object",
        DependentKind::Domain => "the domain",
        DependentKind::PartitionKey => return "the partition key".to_owned(),
        DependentKind::Function => "the function",
        DependentKind::RowType => "the column",
        DependentKind::Inheritance { .. } => "the table",
        DependentKind::SortingKey | DependentKind::Engine { .. } | DependentKind::Projection => "the object",
    };
    format!("{what} {}", dependent.name)
}

fn zone(facts: &TableFacts) -> Option<&str> {
    facts.settings.get("timezone").map(String::as_str)
}

/// Zones that have no offset, at any time.
pub(super) fn is_utc(zone: &str) -> bool {
    const ZONES: &[&str] = &[
        "utc",
        "etc/utc",
        "uct",
        "etc/uct",
        "gmt",
        "etc/gmt",
        "gmt0",
        "etc/gmt0",
        "gmt+0",
        "etc/gmt+0",
        "gmt-0",
        "etc/gmt-0",
        "zulu",
        "etc/zulu",
        "universal",
        "etc/universal",
        "greenwich",
        "etc/greenwich",
    ];
    ZONES.contains(&zone.to_ascii_lowercase().as_str())
}

/// What was taken for granted, and would make the change costlier if it were otherwise; or what was taken to be at its
/// worst.
fn assumptions(operation: &Operation, facts: &TableFacts) -> Vec<String> {
    let mut said = Vec::new();
    match facts.version.map(|version| version / 10_000) {
        None => said.push(format!(
            "the server's version is not known: the costliest of PostgreSQL {} to {} counts",
            MAJORS.start(),
            MAJORS.end()
        )),
        Some(major) if major > *MAJORS.end() => {
            said.push(format!("PostgreSQL {major} is newer than what was measured: it counts as {}", MAJORS.end()));
        }
        Some(_) => {}
    }
    if let Operation::AlterType(change) = operation
        && change.needs_zone()
        && zone(facts).is_none()
    {
        said.push("the session's TimeZone is not known: it counts as another than UTC".to_owned());
    }
    if let Operation::AddColumn(NewColumn { default: NewDefault::Volatile { known: false }, .. }) = operation {
        said.push(
            "the function of the default is not known: it counts as one that gives each row another value".to_owned(),
        );
    }
    if let Operation::AddColumn(NewColumn { domain: DomainKind::Unknown, .. }) = operation {
        said.push("only the name of the type is known: it counts as a domain with a CHECK".to_owned());
    }
    if !facts.observed {
        said.extend(unread(operation).iter().map(|sentence| format!("no catalog was read: {sentence}")));
    }
    said
}

impl TypeChange {
    pub(super) fn needs_zone(&self) -> bool {
        let zoned = |base: &str| base == "timestamp with time zone";
        let plain = |base: &str| base == "timestamp without time zone";
        let (from, to) = (self.from.base.as_str(), self.to.base.as_str());
        !self.computed && (zoned(from) && plain(to) || plain(from) && zoned(to))
    }
}

/// What a catalog would have told.
fn unread(operation: &Operation) -> &'static [&'static str] {
    match operation {
        Operation::AlterType(_) => &[
            "the table has rows",
            "the table is no partition, and the column is no part of a partition key",
            "no view, rule, generated column, policy, trigger, function or publication looks at the column",
            "no expression or partial index, no index of another operator class, and no CHECK looks at the column",
        ],
        Operation::AddColumn(_) => &["the table has rows", "the table is no partition"],
        Operation::SetNotNull { .. } => &["the table has rows", "no validated CHECK says that the column is not NULL"],
        Operation::DropNotNull { .. } => &["the column is no part of the primary key, and no parent table has it"],
        Operation::DropColumn { .. } => &[
            "no view, policy, trigger, function, publication, partition key or foreign key of another table needs the column",
        ],
        Operation::RenameColumn { .. } => &["no parent table has the column"],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use arrow::datatypes::Field;
    use dpone_planner::schema::SchemaChange;

    use super::super::types::parse_type;
    use super::*;

    fn change(from: &str, to: &str) -> SchemaChange {
        SchemaChange::AlterType {
            from: Arc::new(parse_type("c", from).unwrap()),
            to: Arc::new(parse_type("c", to).unwrap()),
        }
    }

    fn cost(facts: &TableFacts, change: &SchemaChange) -> Cost {
        super::super::cost(&Relation::new("s", "t"), facts, change)
    }

    fn observed(major: u32, zone: &str, dependents: Vec<DependentKind>) -> TableFacts {
        let dependent =
            |kind| Dependent { kind, name: "x".into(), columns: vec!["c".into()], definition: String::new() };
        TableFacts {
            observed: true,
            version: Some(major * 10_000),
            settings: [("timezone".to_owned(), zone.to_owned())].into(),
            rows: Some(1000),
            dependents: dependents.into_iter().map(dependent).collect(),
            ..TableFacts::default()
        }
    }

    #[test]
    fn what_the_reference_page_asks_for() {
        let offline = TableFacts::default();
        for (from, to, risk) in [
            ("varchar(20)", "varchar(50)", Risk::MetadataOnly),
            ("integer", "bigint", Risk::Blocking),
            ("numeric(10,2)", "numeric(12,2)", Risk::MetadataOnly),
            ("numeric(10,2)", "numeric(12,4)", Risk::Blocking),
            ("timestamp", "timestamptz", Risk::Blocking),
            ("uuid", "integer", Risk::Unsupported),
        ] {
            let cost = cost(&offline, &change(from, to));
            assert_eq!(cost.risk, risk, "{from} -> {to}");
            assert!(cost.assumptions.iter().any(|a| a.contains("version")), "{:?}", cost.assumptions);
            assert!(cost.assumptions.iter().any(|a| a.contains("no catalog was read")), "{:?}", cost.assumptions);
        }
        let zoned = change("timestamp", "timestamptz");
        assert_eq!(cost(&observed(12, "UTC", vec![]), &zoned).risk, Risk::MetadataOnly);
        assert_eq!(cost(&observed(12, "Europe/Berlin", vec![]), &zoned).risk, Risk::Blocking);
        assert_eq!(cost(&observed(11, "UTC", vec![]), &zoned).risk, Risk::Blocking);
        assert!(cost(&offline, &zoned).assumptions.iter().any(|a| a.contains("TimeZone")));
    }

    #[test]
    fn what_hangs_on_the_column_decides() {
        let index = |plain| DependentKind::Index { unique: false, primary: false, plain, valid: true };
        let longer = change("varchar(20)", "varchar(50)");
        for (dependent, risk, work) in [
            (index(true), Risk::MetadataOnly, Work::None),
            (index(false), Risk::Blocking, Work::IndexBuild),
            (DependentKind::Check { validated: true, not_null: None }, Risk::Blocking, Work::Scan),
            (DependentKind::View, Risk::Unsupported, Work::None),
            (DependentKind::Policy, Risk::Unsupported, Work::None),
        ] {
            let cost = cost(&observed(15, "UTC", vec![dependent.clone()]), &longer);
            assert_eq!((cost.risk, cost.work), (risk, work), "{dependent:?}");
        }
        let zoned = cost(&observed(15, "UTC", vec![index(true)]), &change("timestamp", "timestamptz"));
        assert_eq!((zoned.risk, zoned.work), (Risk::Blocking, Work::IndexBuild));
    }

    #[test]
    fn not_null_is_online_by_way_of_a_check() {
        let column = Arc::new(Field::new("c", arrow::datatypes::DataType::Int32, true));
        let tighten = SchemaChange::SetNotNull { column };
        let check = DependentKind::Check { validated: true, not_null: Some("c".into()) };
        assert_eq!(cost(&observed(12, "UTC", vec![check.clone()]), &tighten).risk, Risk::MetadataOnly);
        assert_eq!(cost(&observed(11, "UTC", vec![check]), &tighten).risk, Risk::Blocking);
        let plain = cost(&observed(15, "UTC", vec![]), &tighten);
        assert_eq!(plain.risk, Risk::Blocking);
        assert!(plain.online_path[1].ends_with("CHECK (\"c\" IS NOT NULL) NOT VALID"), "{:?}", plain.online_path);
        let empty = TableFacts { rows: Some(0), ..observed(15, "UTC", vec![]) };
        assert_eq!(cost(&empty, &tighten).risk, Risk::MetadataOnly);
    }
}
