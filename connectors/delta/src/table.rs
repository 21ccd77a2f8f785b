//! One version of a table, read from its log.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use deltalake::kernel::EagerSnapshot;
use deltalake::logstore::LogStoreRef;
use dpone_engine::{Error, Result};
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use serde_json::Value;

use crate::config::Place;
use crate::{error, types};

/// Table property: the primary key, as a JSON list. Delta has no keys.
pub(crate) const PRIMARY_KEY: &str = "dpone.primaryKey";

/// An active data file.
#[derive(Debug, Clone)]
pub(crate) struct DataFile {
    /// Relative to the table's folder, decoded.
    pub(crate) path: String,
    pub(crate) size: u64,
    /// Milliseconds since the epoch.
    pub(crate) modified: i64,
    pub(crate) partition_values: HashMap<String, Option<String>>,
    /// JSON, as in the log.
    pub(crate) stats: Option<String>,
    pub(crate) rows: Option<u64>,
}

/// A pinned version of a table.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub(crate) place: Place,
    pub(crate) log: LogStoreRef,
    pub(crate) snapshot: Arc<EagerSnapshot>,
    pub(crate) version: u64,
    pub(crate) schema: SchemaRef,
    pub(crate) partition_columns: Vec<String>,
    pub(crate) files: Arc<[DataFile]>,
    pub(crate) configuration: HashMap<String, String>,
    protocol: Value,
    schema_string: String,
}

impl Table {
    /// The newest version, or `None` where there is no table.
    pub(crate) async fn open(place: &Place) -> Result<Option<Self>> {
        if !exists(place).await? {
            return Ok(None);
        }
        let log = place.log()?;
        let snapshot = match EagerSnapshot::try_new(log.as_ref(), None).await {
            Ok(snapshot) => snapshot,
            Err(deltalake::DeltaTableError::NotATable(_)) => return Ok(None),
            Err(other) => return Err(error::delta(other).with("table", place.table.to_string())),
        };
        Self::from_snapshot(place, log, snapshot).map(Some).map_err(|e| e.with("table", place.table.to_string()))
    }

    fn from_snapshot(place: &Place, log: LogStoreRef, snapshot: EagerSnapshot) -> Result<Self> {
        let metadata = serde_json::to_value(snapshot.metadata()).map_err(error::json)?;
        let protocol = serde_json::to_value(snapshot.protocol()).map_err(error::json)?;
        let configuration = serde_json::from_value(metadata["configuration"].clone()).unwrap_or_default();
        let partition_columns = serde_json::from_value(metadata["partitionColumns"].clone()).unwrap_or_default();
        let schema_string = metadata["schemaString"].as_str().unwrap_or_default().to_owned();
        refuse_unreadable(&protocol, &configuration)?;
        let files = snapshot
            .log_data()
            .iter()
            .map(|file| {
                let path = file.path().into_owned();
                if file.deletion_vector_descriptor().is_some() {
                    return Err(unsupported(
                        "deletion vectors",
                        "REORG TABLE … APPLY (PURGE), or an overwrite, removes them",
                    ));
                }
                if path.contains("://") || path.starts_with('/') {
                    return Err(unsupported("data files outside its own folder", "make a deep copy of the table"));
                }
                Ok(DataFile {
                    size: file.size().max(0) as u64,
                    modified: file.modification_time(),
                    partition_values: file.partition_values_map(),
                    rows: file.num_records().map(|n| n as u64),
                    stats: file.stats(),
                    path,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            place: place.clone(),
            log,
            version: snapshot.version(),
            schema: types::arrow_schema(&schema_string)?,
            partition_columns,
            files: files.into(),
            configuration,
            protocol,
            schema_string,
            snapshot: Arc::new(snapshot),
        })
    }

    pub(crate) fn schema_string(&self) -> &str {
        &self.schema_string
    }

    /// The `metaData` action as it is in force.
    pub(crate) fn metadata(&self) -> Result<Value> {
        serde_json::to_value(self.snapshot.metadata()).map_err(error::json)
    }

    /// The protocol with one more feature, where the table does not have it yet.
    pub(crate) fn protocol_with(&self, feature: &str) -> Option<Value> {
        let has = |key: &str| features(&self.protocol, key).iter().any(|known| known == feature);
        if has("readerFeatures") && has("writerFeatures") {
            return None;
        }
        let with = |key: &str| {
            let mut known = features(&self.protocol, key);
            if !known.iter().any(|known| known == feature) {
                known.push(feature.to_owned());
            }
            known
        };
        Some(serde_json::json!({
            "minReaderVersion": 3,
            "minWriterVersion": 7,
            "readerFeatures": with("readerFeatures"),
            "writerFeatures": with("writerFeatures"),
        }))
    }

    /// The version that this application's last transaction carries.
    pub(crate) async fn transaction(&self, app_id: &str) -> Result<Option<u64>> {
        let version = self.snapshot.transaction_version(self.log.as_ref(), app_id).await.map_err(error::delta)?;
        Ok(version.map(|v| v.max(0) as u64))
    }

    /// Rows in all files, where each file tells.
    pub(crate) fn rows(&self) -> Option<u64> {
        self.files.iter().map(|f| f.rows).sum()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.size).sum()
    }

    pub(crate) fn primary_key(&self) -> Vec<String> {
        self.configuration.get(PRIMARY_KEY).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }

    /// Refuses tables whose rules a writer must keep and we do not.
    pub(crate) fn check_writable(&self, removes: bool) -> Result<()> {
        let refuse = |what: &str| {
            Err(Error::configuration(format!(
                "table {} uses {what}, which dpone does not keep when it writes",
                self.place.table
            ))
            .with_hint("load into a table of its own, or drop the feature with the system that made the table"))
        };
        let writer = self.protocol["minWriterVersion"].as_i64().unwrap_or(0);
        if writer > 7 {
            return refuse(&format!("writer version {writer}"));
        }
        const KNOWN: &[&str] = &[
            "appendOnly",
            "invariants",
            "checkConstraints",
            "changeDataFeed",
            "generatedColumns",
            "identityColumns",
            "columnMapping",
            "timestampNtz",
            "v2Checkpoint",
            "vacuumProtocolCheck",
            "domainMetadata",
            "deletionVectors",
        ];
        let features = features(&self.protocol, "writerFeatures");
        if let Some(unknown) = features.iter().find(|f| !KNOWN.contains(&f.as_str())) {
            return refuse(&format!("the feature {unknown}"));
        }
        let on = |key: &str| self.configuration.get(key).is_some_and(|v| v.eq_ignore_ascii_case("true"));
        if removes && on("delta.appendOnly") {
            return refuse("delta.appendOnly = true");
        }
        if removes && on("delta.enableChangeDataFeed") {
            return refuse("the change data feed");
        }
        if let Some(key) = self.configuration.keys().find(|k| k.starts_with("delta.constraints.")) {
            return refuse(&format!("the check constraint {key}"));
        }
        for key in ["delta.invariants", "delta.generationExpression", "delta.identity."] {
            if self.schema_string.contains(&format!("\"{key}")) {
                return refuse(key);
            }
        }
        Ok(())
    }
}

pub(crate) async fn exists(place: &Place) -> Result<bool> {
    let log = place.path("_delta_log")?;
    let mut entries = place.store.list(Some(&log));
    loop {
        match entries.try_next().await {
            Ok(None) | Err(object_store::Error::NotFound { .. }) => return Ok(false),
            Ok(Some(entry)) if is_log_entry(&entry.location) => return Ok(true),
            Ok(Some(_)) => {}
            Err(other) => return Err(error::store(other)),
        }
    }
}

fn is_log_entry(path: &Path) -> bool {
    path.filename().is_some_and(|name| {
        name.len() >= 25
            && name.as_bytes()[..20].iter().all(u8::is_ascii_digit)
            && (name.ends_with(".json") || name.ends_with(".parquet"))
    })
}

/// One log entry's lines, or `None` where that version is not (or no longer) in the log.
pub(crate) async fn log_entry(place: &Place, version: u64) -> Result<Option<Vec<Value>>> {
    let path = place.path(&format!("_delta_log/{version:020}.json"))?;
    let bytes = match place.store.get(&path).await {
        Ok(found) => found.bytes().await.map_err(error::store)?,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(other) => return Err(error::store(other)),
    };
    let lines = bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).map_err(error::json)).collect::<Result<Vec<Value>>>().map(Some)
}

fn features(protocol: &Value, key: &str) -> Vec<String> {
    serde_json::from_value(protocol[key].clone()).unwrap_or_default()
}

fn unsupported(what: &str, hint: &str) -> Error {
    Error::configuration(format!("the table has {what}, which dpone cannot read")).with_hint(hint)
}

/// Refuses tables that would be read wrongly.
fn refuse_unreadable(protocol: &Value, configuration: &HashMap<String, String>) -> Result<()> {
    let reader = protocol["minReaderVersion"].as_i64().unwrap_or(0);
    if reader > 3 {
        return Err(unsupported(&format!("reader version {reader}"), "a newer dpone may read it"));
    }
    if configuration.get("delta.columnMapping.mode").is_some_and(|mode| mode != "none") {
        return Err(unsupported("column mapping", "copy it to a table without delta.columnMapping.mode"));
    }
    // Deletion vectors may be allowed and not used: each file is asked.
    const KNOWN: &[&str] = &["timestampNtz", "deletionVectors", "columnMapping", "v2Checkpoint", "vacuumProtocolCheck"];
    match features(protocol, "readerFeatures").iter().find(|f| !KNOWN.contains(&f.as_str())) {
        Some(feature) => {
            Err(unsupported(&format!("the feature {feature}"), "drop the feature, or copy the table without it"))
        }
        None => Ok(()),
    }
}
