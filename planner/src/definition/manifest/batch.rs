//! `kind: dpone.batch.v1`: many processes from one file.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;

use super::{Dependency, Names, Opaque, Scalar};

/// Many tables that are loaded alike.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    pub kind: BatchKind,
    /// `landing_raw_v1`, or the path of a YAML file with `vars`, `naming` and `defaults`.
    pub convention: Option<Names>,
    pub conventions: Option<Names>,
    #[schemars(extend("x-dpone-ignored" = "it only feeds labels, which are not written"))]
    pub registry: Option<Opaque>,
    #[schemars(extend("x-dpone-ignored" = "it only feeds labels, which are not written"))]
    pub registries: Option<Opaque>,
    pub vars: Option<BTreeMap<String, Scalar>>,
    pub naming: Option<Naming>,
    #[schemars(extend("x-dpone-ignored" = "every process is checked in full"))]
    pub validation: Option<Opaque>,
    /// What all processes have in common: any part of a manifest.
    pub defaults: Option<ProcessPart>,
    /// By source schema.
    pub schemas: BTreeMap<String, SchemaTables>,
    #[schemars(extend("x-dpone-unsupported" = "quality gates are not run by this version; remove the key, or test the target after the run"))]
    pub quality: Option<Opaque>,
    #[schemars(extend("x-dpone-unsupported" = "declare the columns' types under source.options.columns: a value that does not fit fails the run"))]
    pub schema_contract: Option<Opaque>,
    #[schemars(extend("x-dpone-ignored" = "logs, progress and the receipt are set on the command line"))]
    pub observability: Option<Opaque>,
    #[schemars(extend("x-dpone-ignored" = "source.options.batch_size and source.options.partitioning set the pace"))]
    pub performance: Option<Opaque>,
    #[schemars(extend("x-dpone-ignored" = "meant for other tools"))]
    pub certification: Option<Opaque>,
    #[schemars(extend("x-dpone-ignored" = "meant for another runtime"))]
    pub runtime: Option<Opaque>,
    #[schemars(extend("x-dpone-ignored" = "meant for other tools"))]
    pub gitops: Option<Opaque>,
    /// For people and other tools.
    pub metadata: Option<Opaque>,
    /// For people and other tools.
    pub authoring: Option<Opaque>,
    /// For people and other tools.
    pub meta: Option<Opaque>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum BatchKind {
    #[serde(rename = "dpone.batch.v1")]
    V1,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SchemaTables {
    pub vars: Option<BTreeMap<String, Scalar>>,
    pub naming: Option<Naming>,
    pub defaults: Option<ProcessPart>,
    pub tables: Vec<Selection>,
}

/// A table's name, or a mapping that says more.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Selection {
    Name(String),
    Table(Box<TableEntry>),
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TableEntry {
    pub table: String,
    /// What `--selector` matches, in place of `schema.table`.
    pub id: Option<String>,
    pub vars: Option<BTreeMap<String, Scalar>>,
    pub naming: Option<Naming>,
    pub overrides: Option<ProcessPart>,
    pub depends_on: Option<Vec<Dependency>>,
}

/// Jinja templates over `src_schema`, `src_table`, `vars`, `source`, `sink`, `env_code` and `manifest_dir`,
/// `manifest_name`, `manifest_path`, `manifest_stem`, with the filter `dpone_snake`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Naming {
    pub process_name: Option<String>,
    pub sink_dataset: Option<String>,
    pub sink_table: Option<String>,
    pub task_group: Option<String>,
    pub description: Option<String>,
    #[schemars(extend("x-dpone-ignored" = "labels and descriptions are not written"))]
    pub sink_table_description: Option<String>,
    #[schemars(extend("x-dpone-ignored" = "labels and descriptions are not written"))]
    pub labels: Option<Opaque>,
}

/// Any part of a manifest. Its schema is the manifest's, with nothing required.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub struct ProcessPart(pub serde_json::Value);

impl JsonSchema for ProcessPart {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ProcessPart".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // Filled in by `definition::schema`, which knows the manifest's schema.
        Schema::default()
    }
}
