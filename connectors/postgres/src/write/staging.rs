//! A load's staging area: what `prepare` decides and makes, and how every later step finds it again.
//!
//! Two layouts:
//!
//! - **applied**: rows wait in an unlogged table without indexes, and the commit applies them to the target;
//! - **swapped**: rows go straight into a finished, logged table that becomes the target. So are `Overwrite(exchange)`
//!   and every load whose target does not exist yet. Where a column has to be cast on its way, or rows carry an
//!   operation, the finished table is filled from an unlogged one.
//!
//! A ledger table beside them holds the layout and one row for each complete partition. It is written in the
//! transaction of the partition's COPY and lives as long as the rows do: an unlogged table is empty after a crash of the
//! server, and so is its ledger, which the commit notices.

use arrow::datatypes::{DataType, Field, Schema};
use dpone_engine::{Error, ErrorKind, LoadSpec, Relation, Result, StagedPartition};
use dpone_planner::definition::OverwriteType;
use dpone_planner::dialect::Dialect;
use dpone_planner::plan::{OPERATION_COLUMN, Operation, WriteMode};
use dpone_planner::schema::SchemaChange;
use dpone_planner::types::{NATIVE, SYSTEM, is_raw, native_of};

use super::encode::encodes;
use super::names::{StagingNames, check, literal, quote, relation};
use super::target::{self, Table, TargetColumn};
use super::{PostgresSink, exchange};
use crate::client::Client;
use crate::dialect::PostgresDialect;
use crate::state::{ensure_schema, exists};
use crate::types::{BASE, LABELS};

/// What `prepare` decided, kept in the ledger.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Layout {
    /// The target as it was, or `None` when it is to be created.
    pub(crate) target: Option<Table>,
    /// Whether a finished table takes the target's place.
    pub(crate) swap: bool,
    /// Whether rows are copied into a table of their own first.
    pub(crate) separate_rows: bool,
    pub(crate) columns: Vec<StagedColumn>,
    pub(crate) notes: Vec<String>,
}

/// One staged column that is stored in the target.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct StagedColumn {
    pub(crate) name: String,
    /// The type that the staged text is cast to, where the encoder has no binary form for it.
    pub(crate) cast: Option<String>,
}

impl Layout {
    pub(crate) fn copy_table(&self, names: &StagingNames) -> Relation {
        if self.separate_rows { names.rows() } else { names.finished() }
    }

    /// The column's value in the target's type, from the copied rows under the alias `s`.
    pub(crate) fn value(&self, column: &str) -> String {
        match self.columns.iter().find(|c| c.name == column).and_then(|c| c.cast.as_ref()) {
            Some(cast) if self.separate_rows => format!("s.{}::{cast}", quote(column)),
            _ => format!("s.{}", quote(column)),
        }
    }

    pub(crate) fn names(&self) -> Vec<&str> {
        self.columns.iter().map(|c| c.name.as_str()).collect()
    }
}

/// Whether the staged rows carry an operation of their own.
pub(crate) fn has_operation(load: &LoadSpec) -> bool {
    matches!(load.write_mode, WriteMode::Changes { operation: Operation::Column { .. }, .. })
}

pub(crate) async fn prepare(sink: &PostgresSink, load: &LoadSpec) -> Result<()> {
    let target = sink.resolve(&load.target)?;
    let names = StagingNames::new(load, &target);
    check("schema", &names.schema)?;
    for field in load.staged_schema.fields() {
        check("column", field.name())?;
    }
    let client = sink.server.connect().await?;
    ensure_schema(&client, &names.schema).await?;
    if exists(&client, &names.ledger()).await? {
        return Ok(());
    }
    drop_abandoned(&client, &names, load, &target).await;
    client.run(&format!("BEGIN; {}", sink.lock_timeout())).await?;
    create(&client, load, &target, &names).await?;
    client.run("COMMIT").await
}

async fn create(client: &Client, load: &LoadSpec, target: &Relation, names: &StagingNames) -> Result<()> {
    let found = target::read(client, target).await?;
    match (&found, load.target_exists) {
        (None, true) => return Err(changed(target, "was there when the load was planned, and is gone")),
        (Some(_), false) => return Err(changed(target, "was created while the load was being planned")),
        _ => {}
    }
    let mut notes = Vec::new();
    let mut swap = found.is_none();
    if let (Some(table), WriteMode::Overwrite { overwrite: OverwriteType::Exchange }) = (&found, &load.write_mode) {
        match exchange::obstacles(client, table.oid).await?.as_slice() {
            [] => swap = true,
            reasons => notes.push(exchange::fallback_note(target, reasons)),
        }
    }
    if swap {
        create_finished(client, load, target, found.as_ref(), &names.finished(), &mut notes).await?;
    }
    let finished = if swap { target::read(client, &names.finished()).await? } else { None };
    let (into, of) = match (&finished, &found) {
        (Some(finished), _) => (finished, names.finished()),
        (None, Some(found)) => (found, target.clone()),
        (None, None) => return Err(Error::internal("neither a target nor a finished table")),
    };
    let columns = staged_columns(load, target, into, &mut notes)?;
    let separate_rows = !swap || has_operation(load) || columns.iter().any(|c| c.cast.is_some());
    if separate_rows {
        client.run(&rows_table(load, &columns, &names.rows(), &of)).await?;
    }
    let layout = Layout { target: found, swap, separate_rows, columns, notes };
    create_ledger(client, names, load, target, &layout).await
}

fn changed(target: &Relation, how: &str) -> Error {
    Error::conflict(format!("the target {target} {how}"))
        .with_hint("run again: the load is planned from what is there now")
        .with("table", target.to_string())
}

/// The columns that are written, each matched with the column that takes it.
fn staged_columns(
    load: &LoadSpec,
    target: &Relation,
    into: &Table,
    notes: &mut Vec<String>,
) -> Result<Vec<StagedColumn>> {
    let mut columns = Vec::new();
    for field in stored_fields(load) {
        let Some(column) = into.column(field.name()) else {
            return Err(Error::configuration(format!("the target {target} has no column {:?}", field.name()))
                .with_hint("add it to the target, or leave it out of the source")
                .with("column", field.name()));
        };
        if column.generated {
            notes.push(format!(
                "column {:?} is generated by the target: the source's values are left out",
                field.name()
            ));
            continue;
        }
        columns.push(StagedColumn { name: field.name().clone(), cast: cast_of(field, column)? });
    }
    Ok(columns)
}

/// Text that the encoder has no binary form for is staged as text, and cast by the server in the commit.
fn cast_of(field: &Field, column: &TargetColumn) -> Result<Option<String>> {
    if encodes(field, &column.wire) {
        return Ok(None);
    }
    if *field.data_type() == DataType::Utf8 && !is_raw(field) {
        return Ok(Some(column.wire.cast_sql.clone()));
    }
    // Compiled for its message.
    super::encode::RowEncoder::compile([(0, field, &column.wire)]).map(|_| None)
}

pub(crate) fn stored_fields(load: &LoadSpec) -> impl Iterator<Item = &Field> {
    load.staged_schema.fields().iter().map(AsRef::as_ref).filter(|f| f.name() != OPERATION_COLUMN)
}

/// Types and collations come from the table that the rows end in, so that comparisons are the target's own.
fn rows_table(load: &LoadSpec, columns: &[StagedColumn], rows: &Relation, of: &Relation) -> String {
    let mut selected: Vec<String> = columns
        .iter()
        .map(|c| match c.cast {
            Some(_) => format!("''::text AS {}", quote(&c.name)),
            None => quote(&c.name),
        })
        .collect();
    if has_operation(load) {
        selected.push(format!("0::smallint AS {}", quote(OPERATION_COLUMN)));
    }
    format!(
        "CREATE UNLOGGED TABLE {} WITH (autovacuum_enabled = false) AS SELECT {} FROM {} WITH NO DATA",
        relation(rows),
        selected.join(", "),
        relation(of)
    )
}

async fn create_finished(
    client: &Client,
    load: &LoadSpec,
    target: &Relation,
    found: Option<&Table>,
    finished: &Relation,
    notes: &mut Vec<String>,
) -> Result<()> {
    if let Some(found) = found {
        return client.run(&exchange::create_like(client, found.oid, target, finished).await?).await;
    }
    ensure_schema(client, &target.schema).await?;
    let mut fields = Vec::new();
    for field in stored_fields(load) {
        fields.push(known_type(client, field, notes).await?);
    }
    // Checked before the rows are moved, under its own name as well.
    check("table", &target.name)?;
    let change = SchemaChange::CreateTable {
        schema: std::sync::Arc::new(Schema::new(fields)),
        primary_key: Vec::new(),
        partition_by: load.partition_by.clone(),
    };
    match PostgresDialect.render(finished, &change)?.last() {
        Some(sql) => client.run(sql).await,
        None => Ok(()),
    }
}

/// The field, or the same without its native type where this database has no such type: its text is then stored.
async fn known_type(client: &Client, field: &Field, notes: &mut Vec<String>) -> Result<Field> {
    let Some(native) = native_of(field, crate::SYSTEM) else { return Ok(field.clone()) };
    let wanted = PostgresDialect.native_type(field)?;
    if client.version() < 150_000 && has_unusual_scale(&wanted) {
        notes.push(format!(
            "column {:?} is {wanted} in the source, which PostgreSQL has since version 15: it is stored as numeric",
            field.name()
        ));
        let mut metadata = field.metadata().clone();
        metadata.remove(BASE);
        metadata.insert(NATIVE.to_owned(), "numeric".to_owned());
        return Ok(field.clone().with_metadata(metadata));
    }
    let sql = "SELECT pg_catalog.to_regtype($1) IS NOT NULL";
    if client.row(sql, &[&wanted]).await?.is_some_and(|row| row.get(0)) {
        return Ok(field.clone());
    }
    if let Some(labels) = field.metadata().get(LABELS).and_then(|l| serde_json::from_str::<Vec<String>>(l).ok()) {
        let labels: Vec<String> = labels.iter().map(|l| literal(l)).collect();
        if let Some(schema) = schema_of(&wanted) {
            ensure_schema(client, &schema).await?;
        }
        client.run(&format!("CREATE TYPE {wanted} AS ENUM ({})", labels.join(", "))).await?;
        notes.push(format!("created the enum type {wanted} for column {:?}", field.name()));
        return Ok(field.clone());
    }
    notes.push(format!(
        "column {:?} is {native} in the source, a type that this database does not have: it is stored as text",
        field.name()
    ));
    let mut metadata = field.metadata().clone();
    metadata.remove(NATIVE);
    metadata.remove(SYSTEM);
    Ok(field.clone().with_metadata(metadata))
}

/// Whether a numeric has a scale below zero, or above its precision.
fn has_unusual_scale(native: &str) -> bool {
    let inner = native.strip_prefix("numeric(").and_then(|rest| rest.strip_suffix(')'));
    let parts = inner.and_then(|inner| inner.split_once(','));
    parts
        .and_then(|(p, s)| Some((p.trim().parse::<i32>().ok()?, s.trim().parse::<i32>().ok()?)))
        .is_some_and(|(precision, scale)| !(0..=precision).contains(&scale))
}

/// The schema of a qualified type name, unquoted.
fn schema_of(type_name: &str) -> Option<String> {
    match type_name.strip_prefix('"') {
        None => type_name.split_once('.').map(|(schema, _)| schema.to_owned()),
        Some(quoted) => quoted.split_once("\".").map(|(schema, _)| schema.replace("\"\"", "\"")),
    }
}

async fn create_ledger(
    client: &Client,
    names: &StagingNames,
    load: &LoadSpec,
    target: &Relation,
    layout: &Layout,
) -> Result<()> {
    let ledger = relation(&names.ledger());
    let persistence = if layout.separate_rows { "UNLOGGED " } else { "" };
    client
        .run(&format!(
            "CREATE {persistence}TABLE {ledger} (partition integer PRIMARY KEY, rows bigint NOT NULL, \
             bytes bigint NOT NULL, xid text NOT NULL, layout text); COMMENT ON TABLE {ledger} IS {}",
            literal(&owner_mark(load, target))
        ))
        .await?;
    let text = serde_json::to_string(layout).map_err(|e| Error::internal(format!("the staging layout: {e}")))?;
    client.execute(&format!("INSERT INTO {ledger} VALUES (-1, 0, 0, '', $1)"), &[&text]).await.map(|_| ())
}

/// Says whose staging area it is.
fn owner_mark(load: &LoadSpec, target: &Relation) -> String {
    format!("dpone: staging of pipeline {:?} for {:?}.{:?}", load.pipeline, target.schema, target.name)
}

/// Removes what killed runs of the same pipeline left behind: the lease keeps living ones away. Best effort: what
/// another session still uses stays until the next run.
async fn drop_abandoned(client: &Client, names: &StagingNames, load: &LoadSpec, target: &Relation) {
    let sql = "SELECT c.relname::text FROM pg_catalog.pg_class c \
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
               WHERE n.nspname = $1 AND c.relkind = 'r' AND pg_catalog.obj_description(c.oid, 'pg_class') = $2";
    let Ok(rows) = client.rows(sql, &[&names.schema, &owner_mark(load, target)]).await else { return };
    for row in rows {
        let ledger: String = row.get(0);
        let Some(suffix) = ledger.strip_prefix("__dpone__p_") else { continue };
        let table = |part: &str| relation(&Relation::new(&names.schema, format!("__dpone__{part}_{suffix}")));
        let drop = format!(
            "BEGIN; SET LOCAL lock_timeout = '2s'; DROP TABLE IF EXISTS {}, {}, {}; COMMIT",
            table("s"),
            table("f"),
            table("p")
        );
        if let Err(error) = client.run(&drop).await {
            tracing::debug!("staging of an earlier run stays: {error}");
            let _ = client.run("ROLLBACK").await;
        }
    }
}

/// The layout that `prepare` wrote.
pub(crate) async fn layout(client: &Client, names: &StagingNames) -> Result<Layout> {
    let gone = || {
        Error::transient("the load's staging area is gone")
            .with_hint("the server was restarted, or another run of the pipeline removed it: run again")
    };
    if !exists(client, &names.ledger()).await? {
        return Err(gone());
    }
    let sql = format!("SELECT layout FROM {} WHERE partition = -1", relation(&names.ledger()));
    let row = client.row(&sql, &[]).await?.ok_or_else(gone)?;
    serde_json::from_str(row.get(0)).map_err(|e| Error::internal(format!("the staging layout cannot be read: {e}")))
}

/// Fails unless the ledger holds exactly these partitions. Call it with the staging table locked.
pub(crate) async fn verify(client: &Client, names: &StagingNames, staged: &[StagedPartition]) -> Result<()> {
    let sql =
        format!("SELECT partition, rows FROM {} WHERE partition >= 0 ORDER BY partition", relation(&names.ledger()));
    let found: Vec<(i32, i64)> = client.rows(&sql, &[]).await?.iter().map(|r| (r.get(0), r.get(1))).collect();
    let mut wanted: Vec<(i32, i64)> = staged.iter().map(|p| (p.partition as i32, p.rows as i64)).collect();
    wanted.sort_unstable();
    if found == wanted {
        return Ok(());
    }
    Err(Error::transient(format!(
        "staging holds {} complete partitions with {} rows, and {} with {} were staged",
        found.len(),
        found.iter().map(|p| p.1).sum::<i64>(),
        wanted.len(),
        wanted.iter().map(|p| p.1).sum::<i64>(),
    ))
    .with_hint("the server was restarted, or another process wrote to the load's staging area: run again"))
}

/// The error with the column whose texts this database cannot read, where that is the cause: one statement casts all
/// columns, and the server does not say which.
pub(crate) async fn with_culprit(sink: &PostgresSink, layout: &Layout, names: &StagingNames, error: Error) -> Error {
    let casts = || layout.columns.iter().filter(|column| column.cast.is_some());
    let about_values = !matches!(error.kind(), ErrorKind::Transient | ErrorKind::Conflict | ErrorKind::Interrupted);
    if !layout.separate_rows || !about_values || casts().next().is_none() {
        return error;
    }
    let Ok(client) = sink.server.connect().await else { return error };
    for column in casts() {
        let sql = format!("SELECT count({}) FROM {} s", layout.value(&column.name), relation(&names.rows()));
        let Err(cause) = client.row(&sql, &[]).await else { continue };
        if cause.is_transient() {
            return error;
        }
        let to = column.cast.as_deref().unwrap_or_default();
        return Error::data_quality(format!(
            "column {:?} holds a text that is no {to} in the target's database: {}",
            column.name,
            cause.message()
        ))
        .with("column", &column.name)
        .with_hint("load it as text: CAST(… AS VARCHAR) in a query, into a column of type text");
    }
    error
}

pub(crate) async fn discard(sink: &PostgresSink, load: &LoadSpec) -> Result<()> {
    let target = sink.resolve(&load.target)?;
    let names = StagingNames::new(load, &target);
    let client = sink.server.connect().await?;
    let tables = [names.rows(), names.finished(), names.ledger()].map(|t| relation(&t)).join(", ");
    client.run(&format!("BEGIN; {}; DROP TABLE IF EXISTS {tables}; COMMIT", sink.lock_timeout())).await
}
