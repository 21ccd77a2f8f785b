//! The history of each table's columns: one file a version, written when something changed and never after that.

use std::path::{Path, PathBuf};

use arrow::datatypes::Schema;
use chrono::{SecondsFormat, Utc};
use dpone_planner::dialect::Dialect;
use dpone_planner::schema::ColumnShape;
use serde::{Deserialize, Serialize};

use super::files::{create, file_part, json_bytes, lock, names, parse, read, sha256};
use crate::{Error, Relation, Result};

/// Where the history is kept unless somebody names another folder.
pub const DEFAULT_HISTORY: &str = ".dpone/schema_history";

/// One version of a table's columns, and how it differs from the one before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaVersion {
    pub table: String,
    pub dialect: String,
    /// From 1.
    pub version: u64,
    /// RFC 3339, UTC.
    pub recorded_at: String,
    /// The run that found the columns so.
    pub run_id: Option<String>,
    /// SHA-256 of the columns.
    pub schema_hash: String,
    pub columns: Vec<Column>,
    pub diff: SchemaDiff,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    pub dtype: String,
    pub nullable: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collation: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

impl From<ColumnShape> for Column {
    fn from(shape: ColumnShape) -> Self {
        let ColumnShape { name, dtype, nullable, collation, default, comment } = shape;
        Self { name, dtype, nullable, collation, default, comment }
    }
}

/// What changed from one version to the next.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaDiff {
    pub added: Vec<Column>,
    pub dropped: Vec<Column>,
    pub changed: Vec<ColumnDiff>,
    /// The columns that both have stand in another order.
    pub reordered: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnDiff {
    pub column: String,
    /// `dtype`, `nullable`, `collation`, `default`, `comment`.
    pub what: Vec<String>,
    pub from: Column,
    pub to: Column,
}

impl SchemaDiff {
    pub fn of(from: &[Column], to: &[Column]) -> Self {
        let find = |columns: &[Column], name: &str| columns.iter().find(|c| c.name == name).cloned();
        let without = |all: &[Column], other: &[Column]| {
            all.iter().filter(|c| find(other, &c.name).is_none()).cloned().collect::<Vec<_>>()
        };
        let pairs = from.iter().filter_map(|before| Some((before.clone(), find(to, &before.name)?)));
        let changed = pairs.filter(|(before, after)| before != after).map(|(from, to)| ColumnDiff {
            column: to.name.clone(),
            what: what(&from, &to),
            from,
            to,
        });
        let kept = |all: &[Column], other: &[Column]| {
            all.iter().filter(|c| find(other, &c.name).is_some()).map(|c| c.name.clone()).collect::<Vec<_>>()
        };
        Self {
            added: without(to, from),
            dropped: without(from, to),
            changed: changed.collect(),
            reordered: kept(from, to) != kept(to, from),
        }
    }
}

fn what(from: &Column, to: &Column) -> Vec<String> {
    [
        ("dtype", from.dtype != to.dtype),
        ("nullable", from.nullable != to.nullable),
        ("collation", from.collation != to.collation),
        ("default", from.default != to.default),
        ("comment", from.comment != to.comment),
    ]
    .into_iter()
    .filter(|(_, differs)| *differs)
    .map(|(name, _)| name.to_owned())
    .collect()
}

/// A folder with the histories of tables: `<dialect>/<table>/v000001.json`.
#[derive(Debug, Clone)]
pub struct SchemaHistoryRegistry {
    dir: PathBuf,
}

impl SchemaHistoryRegistry {
    pub fn open(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn folder(&self, table: &str, dialect: &str) -> PathBuf {
        self.dir.join(file_part(dialect, 40)).join(key(table))
    }

    /// Keeps the columns of a table as they are now. Returns the new version, or `None` where they are those of the
    /// newest one.
    pub fn record(
        &self,
        table: &Relation,
        schema: &Schema,
        dialect: &dyn Dialect,
        run_id: Option<&str>,
    ) -> Result<Option<SchemaVersion>> {
        let table = table.to_string();
        let folder = self.folder(&table, dialect.system());
        let columns: Vec<Column> = schema.fields().iter().map(|f| ColumnShape::of(f, dialect).into()).collect();
        let schema_hash = sha256(&json_bytes(&columns)?);
        let _lock = lock(&folder, ".lock")?;
        let newest = self.read_all(&folder)?.pop();
        if newest.as_ref().is_some_and(|newest| newest.schema_hash == schema_hash) {
            return Ok(None);
        }
        let version = SchemaVersion {
            version: newest.as_ref().map_or(0, |newest| newest.version) + 1,
            recorded_at: Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true),
            run_id: run_id.map(str::to_owned),
            diff: match &newest {
                Some(newest) => SchemaDiff::of(&newest.columns, &columns),
                // The first version adds nothing to anything.
                None => SchemaDiff::default(),
            },
            table,
            dialect: dialect.system().to_owned(),
            schema_hash,
            columns,
        };
        create(&folder.join(format!("v{:06}.json", version.version)), &json_bytes(&version)?)?;
        Ok(Some(version))
    }

    /// All versions of a table, oldest first, of each dialect that has some.
    pub fn versions(&self, table: &str, dialect: Option<&str>) -> Result<Vec<SchemaVersion>> {
        let dialects = match dialect {
            Some(dialect) => vec![file_part(dialect, 40)],
            None => names(&self.dir, "", "")?,
        };
        let mut all = Vec::new();
        for dialect in dialects {
            all.extend(self.read_all(&self.dir.join(dialect).join(key(table)))?);
        }
        Ok(all)
    }

    /// Tables that have a history, with their dialects.
    pub fn tables(&self) -> Result<Vec<(String, String)>> {
        let mut tables = Vec::new();
        for dialect in names(&self.dir, "", "")? {
            let folder = self.dir.join(dialect);
            if !folder.is_dir() {
                continue;
            }
            for table in names(&folder, "", "")? {
                let first = self.read_all(&folder.join(table))?.into_iter().next();
                tables.extend(first.map(|version| (version.table, version.dialect)));
            }
        }
        tables.sort();
        Ok(tables)
    }

    fn read_all(&self, folder: &Path) -> Result<Vec<SchemaVersion>> {
        let mut versions = Vec::new();
        if !folder.is_dir() {
            return Ok(versions);
        }
        for name in names(folder, "v", ".json")? {
            let path = folder.join(name);
            let Some(bytes) = read(&path)? else { continue };
            let version: SchemaVersion = parse(&path, &bytes, "a version of a schema")?;
            if sha256(&json_bytes(&version.columns)?) != version.schema_hash {
                return Err(Error::conflict(format!(
                    "{}: the columns are not those that were recorded: schema_hash differs",
                    path.display()
                ))
                .with_hint("bring the file back from a copy, or move the table's folder away to begin a new history"));
            }
            versions.push(version);
        }
        versions.sort_by_key(|version| version.version);
        Ok(versions)
    }
}

/// A table's folder: its name, and a hash where the name alone could be that of another table.
fn key(table: &str) -> String {
    let part = file_part(table, 100);
    if part == table && !table.chars().any(|c| c.is_ascii_uppercase()) {
        return part;
    }
    format!("{part}_{}", &sha256(table.as_bytes())[..8])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::datatypes::SchemaRef;
    use arrow::datatypes::{DataType, Field};
    use dpone_planner::schema::SchemaChange;

    use super::*;

    #[derive(Debug)]
    struct MemoryDialect;

    impl Dialect for MemoryDialect {
        fn system(&self) -> &'static str {
            "memory"
        }
        fn quote(&self, identifier: &str) -> String {
            identifier.to_owned()
        }
        fn native_type(&self, field: &Field) -> Result<String> {
            Ok(field.data_type().to_string())
        }
        fn stored_field(&self, field: &Field) -> Result<Field> {
            Ok(field.clone())
        }
        fn stored_schema(&self, schema: &Schema) -> Result<SchemaRef> {
            Ok(schema.clone().into())
        }
        fn render(&self, _: &Relation, _: &SchemaChange) -> Result<Vec<String>> {
            Ok(Vec::new())
        }
    }

    fn schema(fields: &[(&str, DataType, bool)]) -> Schema {
        Schema::new(fields.iter().map(|(name, t, null)| Field::new(*name, t.clone(), *null)).collect::<Vec<_>>())
    }

    #[test]
    fn a_version_is_kept_when_something_changed() {
        let dir = tempfile::tempdir().unwrap();
        let registry = SchemaHistoryRegistry::open(dir.path().join("history"));
        let table = Relation::new("landing", "orders");
        let record = |fields: &[(&str, DataType, bool)]| {
            registry.record(&table, &schema(fields), &MemoryDialect, Some("r")).unwrap()
        };
        let (id, note) = (("id", DataType::Int32, false), ("note", DataType::Utf8, true));
        let first = record(&[id.clone(), note.clone()]).unwrap();
        assert_eq!((first.version, &first.diff), (1, &SchemaDiff::default()));
        assert_eq!(record(&[id.clone(), note.clone()]), None);
        let second = record(&[("id", DataType::Int64, true), ("at", DataType::Date32, true)]).unwrap();
        assert_eq!(second.version, 2);
        assert_eq!(second.diff.changed[0].what, ["dtype", "nullable"]);
        assert_eq!((&*second.diff.added[0].name, &*second.diff.dropped[0].name), ("at", "note"));
        assert!(!second.diff.reordered);
        let third = record(&[("at", DataType::Date32, true), ("id", DataType::Int64, true)]).unwrap();
        assert!(third.diff.reordered);
        // What comes back is a version again.
        assert_eq!(record(&[id, note]).unwrap().version, 4);
        assert_eq!(registry.versions("landing.orders", None).unwrap().len(), 4);
        assert_eq!(registry.versions("landing.orders", Some("postgres")).unwrap().len(), 0);
        assert_eq!(registry.tables().unwrap(), [("landing.orders".to_owned(), "memory".to_owned())]);
    }

    #[test]
    fn no_two_tables_share_a_folder_and_none_leaves_it() {
        let names = ["a.b c", "a.b_c", "a.b/c", "A.b_c", "../../x", "..", "", "ü.t", "ä.t"];
        let keys: std::collections::BTreeSet<_> = names.iter().map(|name| key(name)).collect();
        assert_eq!(keys.len(), names.len());
        assert!(keys.iter().all(|key| !key.contains('/') && !key.starts_with('.')), "{keys:?}");
        assert_eq!(key("landing.orders"), "landing.orders");
    }

    #[test]
    fn a_changed_version_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let registry = SchemaHistoryRegistry::open(dir.path());
        let table = Relation::new("landing", "orders");
        registry.record(&table, &schema(&[("id", DataType::Int32, false)]), &MemoryDialect, None).unwrap();
        let file = dir.path().join("memory/landing.orders/v000001.json");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace("false", "true")).unwrap();
        assert!(registry.versions("landing.orders", None).unwrap_err().message().contains("v000001.json"));
    }
}
