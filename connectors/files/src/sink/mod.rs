//! Parquet and CSV as sinks. A table is a folder `<path>/<schema>/<name>/`; a load is staged beside it, and the
//! finished folder is swapped in.

mod csv_writer;
mod dialect;
mod document;
mod local;
mod options;
mod parquet;
mod remote;
mod rewrite;
mod state;
mod writer;

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use datafusion::execution::SendableRecordBatchStream;
use dpone_engine::connections::check_table_folder;
use dpone_engine::{
    Capabilities, Commit, Error, LoadSpec, Receipt, Relation, ResolvedConnection, Result, Sink, StagedPartition,
    StateLocation, StateStore, TargetTable, failpoint,
};
use dpone_planner::dialect::Dialect;
use dpone_planner::plan::{OPERATION_COLUMN, WriteMode};

use crate::config::{Compression, Format, TextOptions, by_extension};
use crate::csv::{Nulls, Syntax};
use crate::location::{Location, PinnedFile};
use crate::parquet_table::{ParquetTable, common_schema, footers};
use crate::text_table::TextTable;

use dialect::FileDialect;
use document::Document;
pub(crate) use options::SINK_OPTIONS;
use options::{CsvLayout, WriteOptions};
use state::FileState;
use writer::{Folder, WrittenFile, write_stream};

/// The folder of loads in progress, in a schema's folder.
const STAGING: &str = ".dpone-staging";

#[derive(Debug, Clone)]
pub(crate) struct FileSink {
    connection: String,
    location: Location,
    options: WriteOptions,
}

/// The schema of a table that this sink wrote, and how its files are read if they are CSV.
pub(crate) async fn stored_table(place: &Location) -> Result<Option<(SchemaRef, Option<TextOptions>)>> {
    let document = Document::read(place).await?.filter(|d| !d.schema.fields().is_empty());
    Ok(document.map(|d| (Arc::new(d.schema), d.csv.as_ref().map(text_options))))
}

fn text_options(layout: &CsvLayout) -> TextOptions {
    TextOptions {
        format: Format::Csv,
        compression: None::<Compression>,
        header: layout.header,
        syntax: Syntax { delimiter: layout.delimiter, ..Syntax::default() },
        nulls: Nulls { markers: Some(layout.null_marker.clone()).filter(|m| !m.is_empty()).into_iter().collect() },
        infer_rows: None,
    }
}

/// A target table as it is.
struct Current {
    schema: SchemaRef,
    files: Vec<CurrentFile>,
    document: Document,
    /// For an object store: what a conditional write of the document names.
    version: Option<object_store::UpdateVersion>,
}

#[derive(Debug, Clone)]
struct CurrentFile {
    pinned: PinnedFile,
    rows: u64,
}

impl Current {
    fn rows(&self) -> u64 {
        self.files.iter().map(|f| f.rows).sum()
    }
}

impl FileSink {
    pub(crate) fn new(connection: &ResolvedConnection, format: Format) -> Result<Self> {
        if let Location::Local(folder) = Location::of(connection)? {
            check_table_folder(&connection.name, &folder)?;
        }
        Ok(Self {
            connection: connection.name.clone(),
            location: Location::of(connection)?,
            options: WriteOptions::of(connection, format)?,
        })
    }

    fn format(&self) -> Format {
        self.options.format
    }

    fn kind(&self) -> &'static str {
        if self.format() == Format::Csv { "csv" } else { "parquet" }
    }

    fn place(&self, table: &Relation) -> Location {
        self.location.child(&table.schema).child(&table.name)
    }

    fn staging(&self, load: &LoadSpec) -> Location {
        self.location.child(&load.target.schema).child(STAGING).child(&load.load_id)
    }

    fn file_state(&self, target: &Relation, location: &StateLocation) -> FileState {
        FileState {
            root: self.location.clone(),
            target: target.clone(),
            copy: location.table.clone().filter(|table| table != target),
        }
    }

    /// `None` when there is no table. Files that somebody else put into the folder belong to the table.
    async fn current(&self, table: &Relation) -> Result<Option<Current>> {
        check_name(table)?;
        let place = self.place(table);
        let (document, version) = match Document::read_versioned(&place).await? {
            Some((document, version)) => (Some(document), version),
            None => (None, None),
        };
        let mut pinned = place.files().await?.unwrap_or_default();
        pinned.retain(|f| by_extension(f.name()).0 == Some(self.format()));
        if let (Location::Remote(_), Some(document)) = (&place, &document) {
            // The document says what was committed: other files are left over from a load that did not finish.
            let committed: BTreeSet<_> = document.files.iter().map(|f| f.name.as_str()).collect();
            pinned.retain(|f| committed.contains(f.name()));
        }
        let stored = document.as_ref().filter(|d| !d.schema.fields().is_empty()).map(|d| Arc::new(d.schema.clone()));
        let (schema, files) = match (self.format(), stored) {
            (_, None) if pinned.is_empty() => return Ok(None),
            (Format::Csv, None) => {
                return Err(Error::configuration(format!(
                    "{} holds CSV files that were not written by dpone",
                    place.shown()
                ))
                .with_hint("load into a folder of its own"));
            }
            (Format::Csv, Some(schema)) => {
                let known = document.as_ref().map(|d| d.files.as_slice()).unwrap_or_default();
                let rows = |file: &PinnedFile| {
                    let known = known.iter().find(|k| k.name == file.name());
                    known.map(|k| k.rows).ok_or_else(|| {
                        Error::configuration(format!("{} was not written by dpone", file.path))
                            .with_hint("move it out of the table's folder")
                    })
                };
                let files = pinned.into_iter().map(|pinned| Ok(CurrentFile { rows: rows(&pinned)?, pinned }));
                (schema, files.collect::<Result<Vec<_>>>()?)
            }
            (_, stored) => {
                let read = footers(&place, pinned).await?;
                let schema = match stored {
                    Some(schema) => schema,
                    None => common_schema(&read)?,
                };
                (schema, read.into_iter().map(|f| CurrentFile { rows: f.rows, pinned: f.pinned }).collect())
            }
        };
        Ok(Some(Current { schema, files, document: document.unwrap_or_default(), version }))
    }

    /// Reads files of this sink's format that lie in `place`.
    fn provider(
        &self,
        place: &Location,
        files: &[CurrentFile],
        schema: &SchemaRef,
        layout: &CsvLayout,
    ) -> Arc<dyn TableProvider> {
        if self.format() == Format::Parquet {
            let files = files.iter().map(|f| crate::parquet_table::ParquetFile {
                pinned: f.pinned.clone(),
                rows: f.rows,
                schema: Arc::clone(schema),
            });
            return Arc::new(ParquetTable::new(place.clone(), files.collect(), Arc::clone(schema), 1));
        }
        let files = files.iter().map(|f| f.pinned.clone()).collect();
        Arc::new(TextTable::new(&self.connection, place.clone(), files, text_options(layout), Arc::clone(schema)))
    }

    /// What staging wrote, as a table with the staged schema.
    async fn staged(&self, load: &LoadSpec, staged: &[StagedPartition]) -> Result<Staged> {
        let place = self.staging(load);
        let mut written = Vec::new();
        for partition in staged {
            let files: Vec<WrittenFile> = serde_json::from_value(partition.artifact.clone())
                .map_err(|e| Error::internal("a staged partition's files cannot be read back").with_source(e))?;
            written.extend(files);
        }
        let present = place.files().await?.unwrap_or_default();
        let mut files = Vec::with_capacity(written.len());
        for file in &written {
            let found = present.iter().find(|p| p.name() == file.name).ok_or_else(|| {
                Error::conflict(format!("the staged file {} is gone", file.name))
                    .with_hint("something else cleans the staging folder: run again")
            })?;
            files.push(CurrentFile { pinned: found.clone(), rows: file.rows });
        }
        let options = self.options.clone().with(&load.options)?;
        let provider = self.provider(&place, &files, &load.staged_schema, &options.csv);
        Ok(Staged { written, provider })
    }

    /// The table's schema after the load: what is staged without the operation, in the order that the table has.
    fn next_schema(&self, load: &LoadSpec, current: Option<&SchemaRef>) -> Result<SchemaRef> {
        let staged = without_operation(&load.staged_schema);
        let Some(current) = current.filter(|_| !matches!(load.write_mode, WriteMode::Overwrite { .. })) else {
            return Ok(Arc::new(staged));
        };
        let differs = |what: String| {
            Error::conflict(format!("{} is not as it was when the load was planned: {what}", load.target))
                .with_hint("run again")
        };
        if staged.fields().len() != current.fields().len() {
            let (staged, there) = (staged.fields().len(), current.fields().len());
            return Err(differs(format!("{staged} columns were planned, it has {there}")));
        }
        let mut fields = Vec::with_capacity(staged.fields().len());
        for there in current.fields() {
            let field = staged
                .field_with_name(there.name())
                .map_err(|_| differs(format!("it has a column {:?} that was not planned", there.name())))?;
            if field.data_type() != there.data_type() {
                return Err(differs(format!("column {:?} has another type", there.name())));
            }
            let nullable = field.is_nullable() || there.is_nullable();
            fields.push(Field::clone(there).with_nullable(nullable));
        }
        Ok(Arc::new(Schema::new(fields)))
    }
}

/// The staged files of a load.
struct Staged {
    written: Vec<WrittenFile>,
    provider: Arc<dyn TableProvider>,
}

impl Staged {
    fn rows(&self) -> u64 {
        self.written.iter().map(|f| f.rows).sum()
    }
}

fn without_operation(schema: &Schema) -> Schema {
    let kept = schema.fields().iter().filter(|f| f.name() != OPERATION_COLUMN).cloned();
    Schema::new(kept.collect::<Vec<_>>())
}

/// A name that would lead out of the folder, or into one that is hidden from readers, is refused.
fn check_name(table: &Relation) -> Result<()> {
    for part in [&table.schema, &table.name] {
        if part.is_empty() || part.starts_with(['.', '_']) || part.contains(['/', '\\', '\0']) {
            return Err(Error::configuration(format!("{part:?} cannot be the name of a folder of a table"))
                .with_hint("use a name without slashes that begins with neither . nor _"));
        }
    }
    Ok(())
}

#[async_trait]
impl Sink for FileSink {
    fn dialect(&self) -> Arc<dyn Dialect> {
        Arc::new(FileDialect(self.format()))
    }

    fn capabilities(&self) -> Capabilities {
        let local = matches!(self.location, Location::Local(_));
        let rewrites = local && self.format() == Format::Parquet;
        Capabilities {
            transactional: local,
            truncate_insert: false,
            overwrite_scope: rewrites,
            changes: rewrites,
            append: true,
            visibility: if local {
                "the table's folder is exchanged in one step: a reader sees the old files or the new ones"
            } else {
                "an object store has no folder to exchange: a reader of the bare files may see old and new ones for a \
                 moment; the delta sink has no such moment"
            },
        }
    }

    async fn describe(&self, table: &Relation) -> Result<Option<TargetTable>> {
        let Some(current) = self.current(table).await? else { return Ok(None) };
        let layout = current.document.csv.as_ref().unwrap_or(&self.options.csv);
        Ok(Some(TargetTable {
            facts: dpone_planner::schema::TableFacts::default(),
            provider: self.provider(&self.place(table), &current.files, &current.schema, layout),
            schema: Arc::clone(&current.schema),
            primary_key: current.document.primary_key.clone(),
            has_rows: current.rows() > 0,
            rows_estimate: Some(current.rows()),
            notes: Vec::new(),
        }))
    }

    fn evolves_with_load(&self, mode: &WriteMode) -> bool {
        matches!(mode, WriteMode::Overwrite { .. })
    }

    async fn prepare(&self, load: &LoadSpec) -> Result<()> {
        check_name(&load.target)?;
        self.options.clone().with(&load.options)?;
        if !load.partition_by.is_empty() {
            return Err(Error::configuration(format!("a {} sink has no partitions", self.kind()))
                .with_hint("leave PARTITION BY out, or use delta"));
        }
        let capabilities = self.capabilities();
        let refused = match &load.write_mode {
            WriteMode::OverwriteScope { .. } => !capabilities.overwrite_scope,
            WriteMode::Changes { .. } => !capabilities.changes,
            WriteMode::Append | WriteMode::Overwrite { .. } => false,
        };
        if refused {
            return Err(Error::configuration(format!(
                "a {} sink at {} cannot do {:?}: rows of files there cannot be replaced in one step",
                self.kind(),
                self.location.shown(),
                load.write_mode.name()
            ))
            .with_hint("use a parquet sink on a local path, or delta"));
        }
        match self.staging(load) {
            Location::Local(folder) => local::prepare(&folder, load),
            Location::Remote(_) => Ok(()),
        }
    }

    async fn stage(
        &self,
        load: &LoadSpec,
        partition: usize,
        rows: SendableRecordBatchStream,
    ) -> Result<StagedPartition> {
        failpoint::reach("stage.partition.started").await?;
        let current = match stored_table(&self.place(&load.target)).await?.map(|(schema, _)| schema) {
            None if load.target_exists => self.current(&load.target).await?.map(|c| c.schema),
            stored => stored,
        };
        let mut fields = self.next_schema(load, current.as_ref())?.fields().to_vec();
        if let Ok(operation) = load.staged_schema.field_with_name(OPERATION_COLUMN) {
            // A row that deletes or patches has only its key and what it sets.
            fields = fields.iter().map(|f| Arc::new(f.as_ref().clone().with_nullable(true))).collect();
            fields.push(Arc::new(operation.clone()));
        }
        let folder = match self.staging(load) {
            Location::Local(folder) => Folder::Local(folder),
            Location::Remote(remote) => Folder::Remote(remote),
        };
        // Names that no other attempt uses: a commit only takes the names that are in the result.
        let attempt = &uuid::Uuid::new_v4().simple().to_string()[..8];
        let stem = format!("part-{}-{partition:05}-{attempt}", load.load_id);
        let options = self.options.clone().with(&load.options)?;
        let schema = Arc::new(Schema::new(fields));
        let written = write_stream(rows, folder, stem, schema, options, Some("stage.partition.batch")).await?;
        failpoint::reach("stage.partition.done").await?;
        Ok(StagedPartition {
            partition,
            rows: written.iter().map(|f| f.rows).sum(),
            bytes: written.iter().map(|f| f.bytes).sum(),
            artifact: serde_json::to_value(&written).map_err(|e| Error::internal("an artifact").with_source(e))?,
        })
    }

    async fn duplicate_keys(&self, load: &LoadSpec, staged: &[StagedPartition], unique: &[String]) -> Result<u64> {
        let staged = self.staged(load, staged).await?;
        rewrite::duplicate_keys(staged.provider, unique).await
    }

    async fn commit(&self, commit: &Commit<'_>) -> Result<Receipt> {
        let state = self.file_state(&commit.load.target, commit.state_location);
        let receipt = match &self.location {
            Location::Local(_) => local::commit(self, commit, &state).await?,
            Location::Remote(_) => remote::commit(self, commit, &state).await?,
        };
        if state.copy.is_some() {
            dpone_engine::StateStore::mirror(&state, commit.state, &receipt).await?;
        }
        Ok(receipt)
    }

    async fn discard(&self, load: &LoadSpec) -> Result<()> {
        match self.staging(load) {
            Location::Local(folder) => local::remove(&folder),
            Location::Remote(remote) => remote::remove(&remote).await,
        }
    }

    /// A commit exchanges the table's folder: who looks into it at that moment sees files come and go.
    fn concurrent_loads(&self) -> bool {
        false
    }

    fn state(&self, target: &Relation, location: &StateLocation) -> Result<Arc<dyn StateStore>> {
        check_name(target)?;
        Ok(Arc::new(self.file_state(target, location)))
    }
}

/// The receipt with what the commit did.
fn complete(commit: &Commit<'_>, counts: Counts, version: u64, notes: Vec<String>) -> Receipt {
    let mut receipt = commit.receipt.clone();
    receipt.rows.apply(counts.inserted, counts.updated, counts.deleted, counts.unchanged);
    receipt.target_version = Some(version.to_string());
    receipt.notes.extend(notes);
    receipt.finished_at = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    receipt
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    inserted: u64,
    updated: u64,
    deleted: u64,
    unchanged: u64,
}

impl Counts {
    /// Refuses to take more rows away than the definition allows. Rows that are put back in the same step are not lost.
    fn guard(&self, commit: &Commit<'_>, before: u64) -> Result<()> {
        let lost = match commit.load.write_mode {
            WriteMode::Changes { .. } => self.deleted,
            _ => self.deleted.saturating_sub(self.inserted),
        };
        let refuse = |limit: String| {
            Err(Error::data_quality(format!(
                "the load would take {lost} of {before} rows out of {}, and {limit}",
                commit.load.target
            ))
            .with_hint("check the source; raise the limit if this is meant"))
        };
        if let Some(limit) = commit.max_delete_rows.filter(|limit| lost > *limit) {
            return refuse(format!("max_delete_rows is {limit}"));
        }
        match commit.max_delete_ratio.filter(|ratio| lost as f64 > *ratio * before as f64) {
            Some(ratio) => refuse(format!("max_delete_ratio is {ratio}")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::location::Remote;

    #[tokio::test(flavor = "multi_thread")]
    async fn an_object_store_keeps_the_promises_of_append_and_overwrite() {
        let store = Arc::new(object_store::memory::InMemory::new());
        let prefix = object_store::path::Path::from("lake");
        let remote = Remote::new(store, "lake", prefix, "s3://bucket/lake".to_owned()).unwrap();
        for (format, schema) in [(Format::Parquet, "parquet"), (Format::Csv, "csv")] {
            let connection = ResolvedConnection {
                name: "lake".to_owned(),
                kind: schema.to_owned(),
                options: Default::default(),
                base_dir: Default::default(),
            };
            let sink = FileSink {
                connection: "lake".to_owned(),
                location: Location::Remote(remote.clone()),
                options: WriteOptions::of(&connection, format).unwrap(),
            };
            assert!(!sink.capabilities().changes && !sink.capabilities().transactional);
            dpone_engine::testing::sink_conformance(Arc::new(sink), schema).await.unwrap();
        }
    }

    #[test]
    fn names_stay_below_the_root() {
        for (schema, name) in [("..", "t"), ("s", "../t"), ("s", "a/b"), ("s", ""), ("_dpone", "t"), ("s", ".x")] {
            assert!(check_name(&Relation::new(schema, name)).is_err(), "{schema}.{name}");
        }
        assert!(check_name(&Relation::new("landing", "we\"ird; name")).is_ok());
    }
}
