//! `_dpone/table.json`: what a table folder says about itself. Schema, files, pipelines' state and loads in one
//! document, so that they change in one step, and with the data.

use std::collections::BTreeMap;
use std::path::Path;

use arrow::datatypes::Schema;
use dpone_engine::{Error, LoadSpec, Receipt, Result};
use dpone_planner::plan::WriteMode;
use dpone_planner::state::PipelineState;

use super::options::{CsvLayout, WriteOptions};
use super::writer::WrittenFile;
use crate::config::Format;
use crate::location::{Location, read_error, store_error};

/// The folder in a table's folder that is ours; readers of `*.parquet` do not see it.
pub(crate) const OURS: &str = "_dpone";
const DOCUMENT: &str = "table.json";
const SHAPE: u32 = 1;
/// Loads that are remembered for their run ids.
const MAX_LOADS: usize = 10_000;

#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Document {
    /// Version of this shape.
    pub(crate) shape: u32,
    /// Commits so far.
    pub(crate) version: u64,
    /// Without fields: only state is kept here, there is no table.
    pub(crate) schema: Schema,
    pub(crate) primary_key: Vec<String>,
    /// For CSV.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) csv: Option<CsvLayout>,
    pub(crate) files: Vec<WrittenFile>,
    pub(crate) states: BTreeMap<String, PipelineState>,
    /// Oldest first.
    pub(crate) loads: Vec<Receipt>,
}

impl Default for Document {
    fn default() -> Self {
        Self {
            shape: SHAPE,
            version: 0,
            schema: Schema::empty(),
            primary_key: Vec::new(),
            csv: None,
            files: Vec::new(),
            states: BTreeMap::new(),
            loads: Vec::new(),
        }
    }
}

impl Document {
    pub(crate) fn load_of(&self, load_id: &str) -> Option<&Receipt> {
        self.loads.iter().rev().find(|r| r.load_id == load_id)
    }

    pub(crate) fn load_of_run(&self, pipeline: &str, run_id: &str) -> Option<&Receipt> {
        self.loads.iter().rev().find(|r| r.pipeline == pipeline && r.run_id == run_id)
    }

    pub(crate) fn record(&mut self, state: &PipelineState, receipt: &Receipt) {
        self.states.insert(state.pipeline.clone(), state.clone());
        self.loads.push(receipt.clone());
        let extra = self.loads.len().saturating_sub(MAX_LOADS);
        self.loads.drain(..extra);
    }

    /// Describes the table after a load.
    pub(crate) fn advance(
        &mut self,
        load: &LoadSpec,
        schema: &Schema,
        options: &WriteOptions,
        files: Vec<WrittenFile>,
    ) -> Result<()> {
        let layout = (options.format == Format::Csv).then(|| options.csv.clone());
        let kept = !matches!(load.write_mode, WriteMode::Overwrite { .. }) && !self.files.is_empty();
        if kept && self.csv != layout {
            return Err(Error::configuration(format!(
                "the files of {} were written with another delimiter, header or null_marker",
                load.target
            ))
            .with_hint("keep the options as they were, or load the table anew with full_refresh"));
        }
        self.csv = layout;
        self.version += 1;
        self.schema = schema.clone();
        self.files = files;
        if !load.primary_key.is_empty() {
            self.primary_key = load.primary_key.clone();
        }
        Ok(())
    }

    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec_pretty(self).map_err(|e| Error::internal("a table's state cannot be written").with_source(e))
    }

    fn parse(bytes: &[u8], place: &str) -> Result<Self> {
        let unreadable = |e: Box<dyn std::error::Error + Send + Sync>| {
            Error::configuration(format!("{place}/{OURS}/{DOCUMENT} is damaged"))
                .with_hint("restore it, or load the table anew under another name")
                .with_source(e)
        };
        let document: Self = serde_json::from_slice(bytes).map_err(|e| unreadable(e.into()))?;
        if document.shape != SHAPE {
            return Err(Error::configuration(format!("{place}: written by another version of dpone"))
                .with_hint(format!("its shape is {}, this version knows {SHAPE}", document.shape)));
        }
        Ok(document)
    }

    /// The document of a local table, or `None` where there is none.
    pub(crate) fn read_local(table: &Path) -> Result<Option<Self>> {
        let path = table.join(OURS).join(DOCUMENT);
        match std::fs::read(&path) {
            Ok(bytes) => Self::parse(&bytes, &table.display().to_string()).map(Some),
            Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => Ok(None),
            Err(e) => Err(read_error(&path.display().to_string(), e)),
        }
    }

    /// Writes the document into a folder, in one step and durably.
    pub(crate) fn write_local(&self, table: &Path) -> Result<()> {
        use std::io::Write;
        let folder = table.join(OURS);
        let shown = folder.display().to_string();
        let write = || -> std::io::Result<()> {
            std::fs::create_dir_all(&folder)?;
            let next = folder.join(format!(".{DOCUMENT}.{}", uuid::Uuid::new_v4().simple()));
            let mut file = std::fs::File::create(&next)?;
            file.write_all(&self.to_bytes().map_err(std::io::Error::other)?)?;
            file.sync_all()?;
            std::fs::rename(&next, folder.join(DOCUMENT))
        };
        write().map_err(|e| read_error(&shown, e))?;
        super::writer::sync_folder(&folder)
    }

    pub(crate) async fn read(place: &Location) -> Result<Option<Self>> {
        Ok(Self::read_versioned(place).await?.map(|(document, _)| document))
    }

    /// The document, and for an object store the version that a conditional write names.
    pub(crate) async fn read_versioned(
        place: &Location,
    ) -> Result<Option<(Self, Option<object_store::UpdateVersion>)>> {
        use object_store::ObjectStoreExt;
        match place {
            Location::Local(table) => Ok(Self::read_local(table)?.map(|document| (document, None))),
            Location::Remote(remote) => {
                let key = remote.prefix.clone().join(OURS).join(DOCUMENT);
                let got = match remote.store.get(&key).await {
                    Ok(got) => got,
                    Err(object_store::Error::NotFound { .. }) => return Ok(None),
                    Err(e) => return Err(store_error(&remote.shown, e)),
                };
                let version =
                    object_store::UpdateVersion { e_tag: got.meta.e_tag.clone(), version: got.meta.version.clone() };
                let bytes = got.bytes().await.map_err(|e| store_error(&remote.shown, e))?;
                Ok(Some((Self::parse(&bytes, &remote.shown)?, Some(version))))
            }
        }
    }

    /// Writes the document over the version that was read, and fails with a conflict if there is another by now.
    pub(crate) async fn write(&self, place: &Location, over: Option<object_store::UpdateVersion>) -> Result<()> {
        use object_store::ObjectStore;
        match place {
            Location::Local(table) => self.write_local(table),
            Location::Remote(remote) => {
                let key = remote.prefix.clone().join(OURS).join(DOCUMENT);
                let mode = over.map_or(object_store::PutMode::Create, object_store::PutMode::Update);
                let put = remote.store.put_opts(&key, self.to_bytes()?.into(), mode.into()).await;
                put.map(drop).map_err(|e| store_error(&remote.shown, e))
            }
        }
    }
}
