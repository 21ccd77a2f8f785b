//! Files as a source: which files a relation means, what their columns are, and a provider that reads them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use dpone_engine::source::ReadTarget;
use dpone_engine::{
    Error, ReadRequest, Relation, RelationInfo, ResolvedConnection, Result, Scan, ServerInfo, Snapshot, Source,
    SourceTable,
};
use dpone_planner::definition::nearest;

use crate::config::{Format, SourceOptions, by_extension, stem};
use crate::location::{Location, PinnedFile};
use crate::parquet_table::{self, ParquetTable};
use crate::scan::{TextScan, TextScanSpec};
use crate::text_table;

/// How a path and a relation lead to files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// The path says which files; in a folder, the relation's name does.
    Files,
    /// A table lies at `<path>/<schema>/<name>/`.
    Tables(Format),
}

#[derive(Debug, Clone)]
pub(crate) struct FileSource {
    connection: String,
    location: Location,
    options: SourceOptions,
    layout: Layout,
}

impl FileSource {
    pub(crate) fn new(connection: &ResolvedConnection, layout: Layout) -> Result<Self> {
        let mut options = SourceOptions::of(connection)?;
        if let Layout::Tables(format) = layout {
            options.format = Some(format);
            options.text.format = format;
            if let Some(marker) = connection.get("null_marker").filter(|m| !m.is_empty()) {
                options.text.nulls.markers.push(marker.to_owned());
            }
        }
        Ok(Self { connection: connection.name.clone(), location: Location::of(connection)?, options, layout })
    }

    /// The folder's place and the files of a relation, with its format.
    async fn find(&self, relation: &Relation) -> Result<Found> {
        let files = match self.layout {
            Layout::Tables(_) => {
                let place = self.location.child(&relation.schema).child(&relation.name);
                match place.files().await? {
                    Some(files) => Found { files, table: Some(place) },
                    None => Found { files: Vec::new(), table: None },
                }
            }
            Layout::Files if self.location.has_pattern() || self.location.is_file().await => {
                Found { files: self.location.files().await?.unwrap_or_default(), table: None }
            }
            Layout::Files => self.in_folder(relation).await?,
        };
        if files.files.is_empty() && files.table.is_none() {
            return Err(self.not_found(relation).await?);
        }
        Ok(files)
    }

    /// `<path>/<name>.csv` and the like, `<path>/<schema>/<name>.csv`, or a folder `<name>` of files.
    async fn in_folder(&self, relation: &Relation) -> Result<Found> {
        for folder in [self.location.child(&relation.schema), self.location.clone()] {
            let mut files = folder.files().await?.unwrap_or_default();
            files.retain(|f| stem(f.name()) == Some(relation.name.as_str()));
            if files.len() > 1 {
                let names: Vec<_> = files.iter().map(PinnedFile::name).collect();
                return Err(Error::configuration(format!(
                    "connection {:?}: {relation} may be any of {}",
                    self.connection,
                    names.join(", ")
                ))
                .with_hint("name one of them in the option path"));
            }
            if !files.is_empty() {
                return Ok(Found { files, table: None });
            }
            if !relation.name.is_empty() && folder.folders().await?.contains(&relation.name) {
                let place = folder.child(&relation.name);
                let mut files = place.files().await?.unwrap_or_default();
                files.retain(|f| self.options.format.is_some() || by_extension(f.name()).0.is_some());
                if !files.is_empty() {
                    return Ok(Found { files, table: None });
                }
            }
        }
        Ok(Found { files: Vec::new(), table: None })
    }

    async fn not_found(&self, relation: &Relation) -> Result<Error> {
        let shown = self.location.shown();
        if self.location.has_pattern() {
            return Ok(Error::configuration(format!("connection {:?}: no file matches {shown}", self.connection)));
        }
        if self.location.files().await?.is_none() {
            return Ok(Error::configuration(format!("connection {:?}: there is no {shown}", self.connection))
                .with_hint("a relative path starts in the folder of the definition"));
        }
        let known = self.list().await?;
        let error =
            Error::configuration(format!("connection {:?}: {shown} has no file for {relation}", self.connection));
        let names: Vec<_> = known.iter().map(|r| r.relation.name.as_str()).collect();
        Ok(match nearest(&relation.name, names.iter().copied()) {
            Some(near) => error.with_hint(format!("did you mean {near:?}?")),
            None if names.is_empty() => {
                error.with_hint("there are no files that end in .csv, .tsv, .ndjson, .jsonl, .json or .parquet")
            }
            None => error.with_hint(format!("there are {}", names.join(", "))),
        })
    }

    async fn list(&self) -> Result<Vec<RelationInfo>> {
        let info = |schema: &str, name: &str, kind: &str, bytes| RelationInfo {
            relation: Relation::new(schema, name),
            kind: kind.to_owned(),
            rows: None,
            bytes,
        };
        let of_files = |schema: &str, files: &[PinnedFile]| -> Vec<RelationInfo> {
            let named = files.iter().filter_map(|f| Some(info(schema, stem(f.name())?, "file", Some(f.size))));
            named.collect()
        };
        let mut relations = Vec::new();
        match self.layout {
            Layout::Tables(_) => {
                for schema in self.location.folders().await? {
                    for name in self.location.child(&schema).folders().await? {
                        relations.push(info(&schema, &name, "table", None));
                    }
                }
            }
            Layout::Files => {
                relations.extend(of_files("files", &self.location.files().await?.unwrap_or_default()));
                if !self.location.has_pattern() && !self.location.is_file().await {
                    for folder in self.location.folders().await? {
                        let files = self.location.child(&folder).files().await?.unwrap_or_default();
                        relations.extend(of_files(&folder, &files));
                    }
                }
            }
        }
        Ok(relations)
    }

    /// The one format of the files.
    fn format(&self, files: &[PinnedFile]) -> Result<Format> {
        if let Some(format) = self.options.format {
            return Ok(format);
        }
        let mut format = None;
        for file in files {
            let found = by_extension(file.name()).0.ok_or_else(|| {
                Error::configuration(format!("{}: the name does not say the format", file.path))
                    .with_hint("set the option format to csv, ndjson or parquet")
            })?;
            if format.is_some_and(|f| f != found) {
                return Err(Error::configuration(format!("{} is of another format than {}", file.path, files[0].path))
                    .with_hint("a pattern such as *.csv keeps them apart"));
            }
            format = Some(found);
        }
        format.ok_or_else(|| Error::internal("no file"))
    }

    async fn open(&self, found: Found, request: &ReadRequest) -> Result<(SourceTable, Vec<PinnedFile>)> {
        let mut files = found.files;
        if let Layout::Tables(format) = self.layout {
            files.retain(|f| by_extension(f.name()).0 == Some(format));
            let stored = match &found.table {
                Some(place) => crate::sink::stored_table(place).await?,
                None => None,
            };
            if let Some((schema, layout)) = stored {
                if let Some(layout) = layout.filter(|_| format == Format::Csv) {
                    let table = text_table::stored(self, files.clone(), schema, layout, request)?;
                    return Ok((table, files));
                }
                if files.is_empty() {
                    let provider = ParquetTable::new(self.location.clone(), Vec::new(), schema, 1);
                    return Ok((table(Arc::new(provider), &[], Vec::new()), files));
                }
            }
        }
        if files.is_empty() {
            return Err(Error::configuration(format!("{}: there are no files", self.location.shown())));
        }
        let table = match self.format(&files)? {
            Format::Parquet => parquet_table::open(self, files.clone(), request).await?,
            format => text_table::open(self, files.clone(), format, request).await?,
        };
        Ok((table, files))
    }

    pub(crate) fn connection(&self) -> &str {
        &self.connection
    }

    pub(crate) fn location(&self) -> &Location {
        &self.location
    }

    pub(crate) fn options(&self) -> &SourceOptions {
        &self.options
    }
}

struct Found {
    files: Vec<PinnedFile>,
    /// The folder of a table that a sink of ours may have written.
    table: Option<Location>,
}

#[async_trait]
impl Source for FileSource {
    async fn snapshot(&self) -> Result<Arc<dyn Snapshot>> {
        Ok(Arc::new(FileSnapshot { source: self.clone(), pinned: Mutex::default() }))
    }

    fn scan(&self, spec: &serde_json::Value) -> Result<Arc<dyn Scan>> {
        let spec: TextScanSpec = serde_json::from_value(spec.clone())
            .map_err(|e| Error::internal("a scan of files cannot be read back").with_source(e))?;
        Ok(Arc::new(TextScan::try_new(self.connection.clone(), self.location.clone(), spec)?))
    }

    async fn relations(&self) -> Result<Vec<RelationInfo>> {
        self.list().await
    }

    async fn test(&self) -> Result<ServerInfo> {
        let files = self.location.files().await?;
        let Some(files) = files else {
            return Err(self.not_found(&Relation::new("", "")).await?);
        };
        let bytes: u64 = files.iter().map(|f| f.size).sum();
        Ok(ServerInfo {
            system: "files".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            details: BTreeMap::from([
                ("path".to_owned(), self.location.shown()),
                ("files".to_owned(), files.len().to_string()),
                ("bytes".to_owned(), bytes.to_string()),
            ]),
        })
    }
}

/// Files have no common snapshot: the versions that were found are pinned, and a change of one fails the read.
#[derive(Debug)]
struct FileSnapshot {
    source: FileSource,
    pinned: Mutex<BTreeMap<String, PinnedFile>>,
}

impl FileSnapshot {
    fn pinned(&self) -> Vec<PinnedFile> {
        let pinned = self.pinned.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        pinned.values().cloned().collect()
    }
}

#[async_trait]
impl Snapshot for FileSnapshot {
    async fn table(&self, request: &ReadRequest) -> Result<SourceTable> {
        let relation = match &request.target {
            ReadTarget::Table(relation) => relation,
            ReadTarget::Query(_) => {
                return Err(Error::configuration("files have no query language of their own")
                    .with_hint("read the table, or write the query in a .sql pipeline"));
            }
        };
        let found = self.source.find(relation).await?;
        let (table, files) = self.source.open(found, request).await?;
        let mut pinned = self.pinned.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for file in files {
            pinned.insert(file.path.clone(), file);
        }
        Ok(table)
    }

    fn position(&self) -> String {
        let files = self.pinned();
        let shown: Vec<_> =
            files.iter().take(20).map(|f| format!("{} ({} bytes, {})", f.path, f.size, f.tag)).collect();
        let more = if files.len() > 20 { format!("; and {} more", files.len() - 20) } else { String::new() };
        format!("{}{more}", shown.join("; "))
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }

    async fn verify(&self) -> Result<()> {
        for file in self.pinned() {
            self.source.location.check_unchanged(&file).await?;
        }
        Ok(())
    }
}

/// A table without key and statistics.
pub(crate) fn table(provider: Arc<dyn TableProvider>, files: &[PinnedFile], notes: Vec<String>) -> SourceTable {
    SourceTable {
        provider,
        key: Vec::new(),
        rows: None,
        bytes: Some(files.iter().map(|f| f.size).sum()),
        notes,
        changes: None,
    }
}

/// Deals files into at most `parallelism` groups of about equal size, in order within a group.
pub(crate) fn deal(files: Vec<PinnedFile>, parallelism: usize) -> Vec<Vec<PinnedFile>> {
    let groups = parallelism.clamp(1, files.len().max(1));
    let mut dealt: Vec<(u64, Vec<PinnedFile>)> = vec![(0, Vec::new()); groups];
    let mut by_size: Vec<_> = files.into_iter().collect();
    by_size.sort_by_key(|f| std::cmp::Reverse(f.size));
    for file in by_size {
        if let Some(least) = dealt.iter_mut().min_by_key(|(bytes, _)| *bytes) {
            least.0 += file.size.max(1);
            least.1.push(file);
        }
    }
    dealt
        .into_iter()
        .map(|(_, mut group)| {
            group.sort_by(|a, b| a.path.cmp(&b.path));
            group
        })
        .collect()
}
