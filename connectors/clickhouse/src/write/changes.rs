//! `Changes`: each staged row inserts, updates, patches or deletes the row with its key.
//!
//! What becomes of each key is worked out by one join, with the staged rows as its smaller side. From it come the counts
//! of the receipt, the keys that go, and the rows that come. Rows whose values are the same are not touched.

use dpone_engine::{Error, Result};
use dpone_planner::plan::{DELETE, INSERT_OR_UPDATE, OPERATION_COLUMN, Operation, PATCH, STAMPS};

use super::catalog::{self, Column, TARGET_ALIAS, Table};
use super::commit::{Planned, Work};
use super::create;
use super::journal::{OWN, Step};
use super::names::{list, relation};
use super::options::MergePolicy;
use super::overwrite::exchanging;
use super::scope::copy_without;
use super::session::Session;
use super::version::Version;
use crate::types::{ChType, quote};

/// The target and the staged rows in a join. Columns of people have no such names, nor have parts of them.
const TARGET: &str = TARGET_ALIAS;
const STAGED: &str = "__dpone__s";

/// What becomes of a row whose key is staged: nothing; it gets other values or goes; it was hidden by a mark of deletion
/// and is seen again.
const SAME: u8 = 0;
const CHANGED: u8 = 1;
const BACK: u8 = 2;

/// How the changes reach the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Lightweight,
    Mutation,
    ShadowSwap,
    /// By rows of a newer version.
    Versions,
}

struct Changes<'a> {
    work: &'a Work<'a>,
    table: &'a Table,
    key: &'a [String],
    operation: &'a Operation,
    /// The version and deletion columns of a table whose rows are changed in another way than by newer versions. Rows that
    /// are marked as deleted are matched there as all others: a row that comes in vain would come with every load.
    marks: Option<(String, String)>,
}

pub(crate) async fn apply(work: &Work<'_>, table: &Table, key: &[String], operation: &Operation) -> Result<Planned> {
    if !matches!(table.engine.as_str(), "MergeTree" | "ReplacingMergeTree") {
        return Err(Error::configuration(format!(
            "table {} has the engine {}, which makes one row of several: rows cannot be changed by key",
            table.relation, table.engine
        ))
        .with("table", table.relation.to_string())
        .with_hint("append to it, or load into a table with the engine MergeTree or ReplacingMergeTree"));
    }
    let mut changes = Changes { work, table, key, operation, marks: None };
    let way = changes.way().await?;
    changes.marks = table.versions().filter(|_| way != Way::Versions);
    let content = catalog::content(work.session, &table.relation).await?;
    changes.match_keys().await?;
    let (mut planned, going) = changes.count().await?;
    work.guard(table, planned.deleted).await?;
    if planned.inserted + planned.updated + planned.deleted == 0 {
        return Ok(planned);
    }
    changes.fresh_rows(way).await?;
    let fresh = work.names().fresh();
    match way {
        Way::Versions => planned.steps = work.moves(&fresh).await?,
        Way::Lightweight | Way::Mutation => {
            if going > 0 {
                planned.steps.push(Step::Delete {
                    own: work.names().keys(),
                    condition: changes.goes(&OWN.to_string()),
                    mutation: way == Way::Mutation,
                });
                planned.notes.push(
                    "changed rows were deleted, then added: a reader in between could see them missing \
                     (merge_policy: shadow_swap changes all in one step)"
                        .to_owned(),
                );
            }
            planned.steps.extend(work.moves(&fresh).await?);
        }
        Way::ShadowSwap => {
            let goes = changes.goes(&relation(&work.names().keys()));
            let touched = work
                .session
                .rows(&format!("SELECT DISTINCT _partition_id FROM {} WHERE {goes}", relation(&table.relation)))
                .await?;
            let touched: Vec<String> = touched.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect();
            let next = copy_without(work, table, &goes, &touched).await?;
            for partition in catalog::partitions(work.session, &fresh).await? {
                let sql = format!(
                    "ALTER TABLE {} MOVE PARTITION ID {} TO TABLE {}",
                    relation(&fresh),
                    crate::types::literal(&partition),
                    relation(&next)
                );
                work.session.run_long(&sql, &[]).await?;
            }
            planned.steps = vec![exchanging(work, next).await?];
            planned.content = Some(content);
        }
    }
    Ok(planned)
}

impl Changes<'_> {
    async fn way(&self) -> Result<Way> {
        let versions = self.table.versions().filter(|(version, deleted)| {
            let staged = self.work.columns();
            !staged.contains(&version.as_str()) && !staged.contains(&deleted.as_str())
        });
        let by_key = Table::plain_key(&self.table.sorting_key).is_some_and(|mut sorting| {
            let mut key = self.key.to_vec();
            sorting.sort();
            key.sort();
            sorting == key
        });
        let policy = self.work.layout.options.merge_policy;
        if let Some((version, _)) = versions.as_ref().filter(|_| by_key)
            && matches!(policy, MergePolicy::Auto | MergePolicy::Replacing)
        {
            version_of(self.table, version)?;
        }
        Ok(match policy {
            MergePolicy::ShadowSwap => Way::ShadowSwap,
            MergePolicy::Auto | MergePolicy::Replacing if versions.is_some() && by_key => Way::Versions,
            MergePolicy::Replacing => {
                return Err(Error::configuration(format!(
                    "merge_policy replacing needs a ReplacingMergeTree(version, is_deleted) that is sorted by the key ({}), whose \
                     two columns the source does not give; {} is {}",
                    self.key.join(", "),
                    self.table.relation,
                    self.table.engine_full
                ))
                .with("table", self.table.relation.to_string())
                .with_hint("let dpone create the table, with the sink option engine: ReplacingMergeTree; or merge by another policy"));
            }
            policy if self.work.deletes_by_mutation(self.table, policy).await? => Way::Mutation,
            _ => Way::Lightweight,
        })
    }

    fn column(&self, name: &str) -> Result<&Column> {
        required(self.table, name)
    }

    fn key_list(&self, alias: &str) -> String {
        self.key.iter().map(|name| format!("{alias}.{}", quote(name))).collect::<Vec<_>>().join(", ")
    }

    /// The key's columns, of whichever table they are read from.
    fn bare_key(&self) -> String {
        list(self.key.iter().map(String::as_str))
    }

    /// The operation of a staged row.
    fn op(&self) -> String {
        if self.operation.is_column() {
            format!("{STAGED}.{}", quote(OPERATION_COLUMN))
        } else {
            INSERT_OR_UPDATE.to_string()
        }
    }

    /// `target AS … INNER JOIN staged AS … ON …`
    fn joined(&self) -> String {
        let pairs: Vec<_> = self.key.iter().map(|k| format!("{TARGET}.{0} = {STAGED}.{0}", quote(k))).collect();
        let target = match &self.marks {
            Some((version, _)) => self.last_versions(version),
            None => self.table.read(),
        };
        format!("{target} INNER JOIN {} AS {STAGED} ON {}", relation(&self.work.rows), pairs.join(" AND "))
    }

    /// The target's rows with staged keys as FINAL finds them, and those that it hides: of one version, the row that was
    /// written last.
    fn last_versions(&self, version: &str) -> String {
        let key = self.bare_key();
        format!(
            "(SELECT {columns} FROM {target} WHERE ({key}) IN (SELECT {key} FROM {staged}) ORDER BY {version} DESC, \
             toUInt64OrZero(extract(_part, '_([0-9]+)_[0-9]+_[0-9]+(?:_[0-9]+)?$')) DESC {last}) AS {TARGET}",
            columns = list(self.table.stored().map(|column| column.name.as_str())),
            target = relation(&self.table.relation),
            staged = relation(&self.work.rows),
            version = quote(version),
            last = match self.table.sorting_key.as_slice() {
                [] => "LIMIT 1".to_owned(),
                key => format!("LIMIT 1 BY {}", key.join(", ")),
            },
        )
    }

    /// The mark of deletion that the source leaves to the target.
    fn own_mark(&self) -> Option<&str> {
        let (_, deleted) = self.marks.as_ref()?;
        (!self.work.columns().contains(&deleted.as_str())).then_some(deleted.as_str())
    }

    /// What a staged row does to the row with its key: [`SAME`], [`CHANGED`], or [`BACK`].
    fn differs(&self) -> Result<String> {
        let changes = self.differing()?;
        Ok(match self.own_mark() {
            Some(deleted) => format!(
                "multiIf({TARGET}.{} = 0, {changes}, {} = {INSERT_OR_UPDATE}, {BACK}, {SAME})",
                quote(deleted),
                self.op()
            ),
            None => changes,
        })
    }

    fn differing(&self) -> Result<String> {
        let staged = self.work.columns();
        let value = |names: Vec<&str>| -> Result<String> {
            // What differs with every load is no difference.
            let names = names.into_iter().filter(|name| !STAMPS.contains(name));
            let parts = names.map(|name| Ok(differs(self.column(name)?))).collect::<Result<Vec<_>>>()?;
            Ok(if parts.is_empty() { "0".to_owned() } else { format!("({})", parts.join(" OR ")) })
        };
        let whole = value(staged.iter().copied().filter(|name| !self.key.iter().any(|k| k == name)).collect())?;
        if !self.operation.is_column() {
            return Ok(whole);
        }
        let patch = value(self.operation.patch().iter().map(String::as_str).collect())?;
        let op = self.op();
        Ok(format!("multiIf({op} = {DELETE}, 1, {op} = {PATCH}, {patch}, {whole})"))
    }

    /// One row for each key that is in the target and staged.
    async fn match_keys(&self) -> Result<()> {
        let keys = self.work.names().keys();
        let typed =
            self.key.iter().map(|k| Ok((k.clone(), self.column(k)?.native.clone()))).collect::<Result<Vec<_>>>()?;
        self.work.session.run(&create::keys(&keys, &typed)).await?;
        let sql = format!(
            "INSERT INTO {} SELECT {}, {}, {} FROM {}",
            relation(&keys),
            self.key_list(TARGET),
            self.op(),
            self.differs()?,
            self.joined()
        );
        self.work.session.insert_select(&sql).await
    }

    /// `(key) IN (keys that go)`; over the table of keys.
    fn goes(&self, keys: &str) -> String {
        format!("({0}) IN (SELECT {0} FROM {keys} WHERE `__dpone__differs` != {SAME})", self.bare_key())
    }

    /// Staged rows whose key is not in the target.
    fn is_new(&self) -> String {
        format!(
            "{} = {INSERT_OR_UPDATE} AND ({}) NOT IN (SELECT {} FROM {})",
            self.op(),
            self.key_list(STAGED),
            self.bare_key(),
            relation(&self.work.names().keys())
        )
    }

    /// Also gives how many rows of the target go, those among them that come again with other values.
    async fn count(&self) -> Result<(Planned, u64)> {
        let (session, keys) = (self.work.session, relation(&self.work.names().keys()));
        let deleted =
            session.count(&format!("{keys} WHERE `__dpone__op` = {DELETE} AND `__dpone__differs` = {CHANGED}")).await?;
        let changed = format!("`__dpone__op` != {DELETE} AND `__dpone__differs`");
        let updated = session.count(&format!("{keys} WHERE {changed} = {CHANGED}")).await?;
        let back = match self.own_mark() {
            Some(_) => session.count(&format!("{keys} WHERE {changed} = {BACK}")).await?,
            None => 0,
        };
        let new = session.count(&format!("{} AS {STAGED} WHERE {}", relation(&self.work.rows), self.is_new())).await?;
        let inserted = new + back;
        let unchanged = self.work.staged_rows().saturating_sub(inserted + updated + deleted);
        Ok((Planned { inserted, updated, deleted, unchanged, ..Planned::default() }, updated + deleted + back))
    }

    /// The rows that come into the table: new ones, and changed ones as they will be.
    async fn fresh_rows(&self, way: Way) -> Result<()> {
        let (session, fresh) = (self.work.session, relation(&self.work.names().fresh()));
        session.run(&create::staging_like(&self.work.names().fresh(), self.table)).await?;
        let versions = match way {
            Way::Versions => self.table.versions(),
            _ => None,
        };
        let next = match &versions {
            Some((version, _)) => next_version(session, self.table, version).await?,
            None => String::new(),
        };
        let staged = self.work.columns();
        let (mut names, mut values) =
            (staged.clone(), staged.iter().map(|c| format!("{STAGED}.{}", quote(c))).collect::<Vec<_>>());
        if let Some((version, deleted)) = &versions {
            names.extend([version.as_str(), deleted.as_str()]);
            values.extend([next.clone(), "0".to_owned()]);
        }
        let new = format!(
            "INSERT INTO {fresh} ({}) SELECT {} FROM {} AS {STAGED} WHERE {}",
            list(names),
            values.join(", "),
            relation(&self.work.rows),
            self.is_new()
        );
        session.insert_select(&new).await?;
        let changed = self.insert_joined(&fresh, &versions, &next, false)?;
        session.insert_select(&changed).await?;
        if versions.is_some() && self.operation.is_column() {
            session.insert_select(&self.insert_joined(&fresh, &versions, &next, true)?).await?;
        }
        Ok(())
    }

    /// Rows of the target as they become; `gone`: as they were, marked as deleted.
    fn insert_joined(
        &self,
        fresh: &str,
        versions: &Option<(String, String)>,
        next: &str,
        gone: bool,
    ) -> Result<String> {
        let staged = self.work.columns();
        let mut names = Vec::new();
        let mut values = Vec::new();
        for column in self.table.stored() {
            let name = column.name.as_str();
            let (old, new) = (format!("{TARGET}.{}", quote(name)), format!("{STAGED}.{}", quote(name)));
            names.push(name);
            values.push(match versions {
                Some((version, _)) if version == name => next.to_owned(),
                Some((_, deleted)) if deleted == name => u8::from(gone).to_string(),
                _ if self.own_mark() == Some(name) => "0".to_owned(),
                _ if gone || !staged.contains(&name) => old,
                _ if !self.operation.is_column() => new,
                // A row that deletes has only its key, so staged columns take NULL where the table's do not.
                _ => {
                    let new = assumed(column, &new);
                    match self.operation.patch() {
                        [] => new,
                        patch if patch.iter().any(|p| p == name) => new,
                        _ => format!("if({} = {PATCH}, {old}, {new})", self.op()),
                    }
                }
            });
        }
        let op = self.op();
        let which = if gone {
            format!("{op} = {DELETE}")
        } else {
            format!("{op} != {DELETE} AND {} != {SAME}", self.differs()?)
        };
        Ok(format!(
            "INSERT INTO {fresh} ({}) SELECT {} FROM {} WHERE {which}",
            list(names),
            values.join(", "),
            self.joined()
        ))
    }
}

/// The version of the rows that come, later than all that the table has.
pub(super) async fn next_version(session: &Session, table: &Table, name: &str) -> Result<String> {
    let version = version_of(table, name)?;
    let rows = session.rows(&version.next(name, &relation(&table.relation))).await?;
    let cells = rows.into_iter().next().unwrap_or_default();
    if let [Some(next), Some(is_later)] = cells.as_slice()
        && is_later == "1"
    {
        return Ok(version.literal(next));
    }
    let native = &required(table, name)?.native;
    Err(Error::configuration(format!(
        "the versions of {} are used up: column {name:?} is {native}, and holds its greatest value",
        table.relation
    ))
    .with("table", table.relation.to_string())
    .with("column", name)
    .with_hint("give the column a wider type, or lower the version; or merge by lightweight_delete_insert"))
}

fn version_of(table: &Table, name: &str) -> Result<Version> {
    let column = required(table, name)?;
    Version::of(&column.native).ok_or_else(|| {
        Error::configuration(format!(
            "the version of {}, {name:?}, is {}: only integers, dates and times can be counted up",
            table.relation, column.native
        ))
        .with("table", table.relation.to_string())
        .with("column", name)
        .with_hint(
            "load into a table whose version is an integer, Date, Date32, DateTime or DateTime64; or merge by another \
             policy: lightweight_delete_insert",
        )
    })
}

fn required<'a>(table: &'a Table, name: &str) -> Result<&'a Column> {
    table.column(name).ok_or_else(|| {
        Error::conflict(format!(
            "column {name:?} of {} is gone, and was there when the load was planned",
            table.relation
        ))
        .with_hint("run again: the load will be planned for the table as it is now")
    })
}

/// A staged value of a column that takes no NULL.
fn assumed(column: &Column, value: &str) -> String {
    match ChType::native(&column.native) {
        Some(native) if !native.is_nullable() && native.clone().with_nullable(true).is_nullable() => {
            format!("assumeNotNull({value})")
        }
        _ => value.to_owned(),
    }
}

/// Whether the column's values in target and staged row are not the same: NULL is NULL, and a NaN is itself.
fn differs(column: &Column) -> String {
    let name = quote(&column.name);
    let native = ChType::native(&column.native);
    let takes_null = native.as_ref().is_none_or(ChType::is_nullable);
    let same_bits = |value: String| match native.as_ref().map(without_wrapping) {
        Some(
            ChType::Float32
            | ChType::Float64
            | ChType::BFloat16
            | ChType::Array(_)
            | ChType::Map(..)
            | ChType::Tuple(_),
        ) => {
            format!("sipHash128({value})")
        }
        Some(ChType::Json | ChType::Aggregate { .. } | ChType::Plain(_)) | None => format!("toString({value})"),
        _ => value,
    };
    let values = format!("{} != {}", same_bits(format!("{TARGET}.{name}")), same_bits(format!("{STAGED}.{name}")));
    match takes_null {
        // A staged NULL beside a column that takes none can only be that of a row that deletes.
        false => format!("ifNull({values}, 1)"),
        true => format!("(isNull({TARGET}.{name}) != isNull({STAGED}.{name}) OR ifNull({values}, 0))"),
    }
}

fn without_wrapping(native: &ChType) -> &ChType {
    match native {
        ChType::Nullable(of) | ChType::LowCardinality(of) => without_wrapping(of),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(native: &str) -> Column {
        Column {
            name: "c".into(),
            native: native.into(),
            default_kind: String::new(),
            default: String::new(),
            comment: String::new(),
        }
    }

    #[test]
    fn values_are_compared_by_what_they_are() {
        assert_eq!(differs(&column("Int64")), "ifNull(__dpone__t.`c` != __dpone__s.`c`, 1)");
        assert_eq!(
            differs(&column("Nullable(Float64)")),
            "(isNull(__dpone__t.`c`) != isNull(__dpone__s.`c`) OR ifNull(sipHash128(__dpone__t.`c`) != sipHash128(__dpone__s.`c`), 0))"
        );
        assert_eq!(assumed(&column("Int64"), "s.c"), "assumeNotNull(s.c)");
        assert_eq!(assumed(&column("Array(Int64)"), "s.c"), "s.c");
        assert_eq!(assumed(&column("Nullable(Int64)"), "s.c"), "s.c");
    }
}
