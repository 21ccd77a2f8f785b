//! Staging: one table for each attempt at a partition, so that what a failed attempt left is never picked up.

use std::time::Duration;

use arrow::datatypes::{Field, SchemaRef};
use datafusion::execution::SendableRecordBatchStream;
use dpone_engine::{Error, LoadSpec, Relation, Result, StagedPartition};
use dpone_planner::definition::OverwriteType;
use dpone_planner::dialect::Dialect;
use dpone_planner::plan::{OPERATION_COLUMN, WriteMode};
use dpone_planner::types::is_string;
use futures::StreamExt;
use serde_json::json;
use tokio::task::JoinSet;

use super::catalog::{self, Table};
use super::create::{self, Creation};
use super::encode::Block;
use super::keys::is_part;
use super::lanes::Lanes;
use super::names::{StagingNames, like, relation};
use super::options::Options;
use super::session::{Session, TABLE_ALREADY_EXISTS, code};
use crate::ClickHouseDialect;
use crate::types::{ChType, literal};

/// So many blocks become parts of the target as they are; of more, the server may make fewer while it takes others.
const UNMERGED: usize = 64;
/// How often staged rows are moved when the answer did not come.
const ATTEMPTS: u32 = 4;
/// Names in one statement, so that it stays short enough for any server.
const DROPPED_AT_ONCE: usize = 50;
const NULL_IN_ORDINARY_COLUMN: i32 = 349;
const INCORRECT_DATA: i32 = 117;

/// What all parts of a load know of its target.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) target: Relation,
    pub(crate) names: StagingNames,
    pub(crate) table: Option<Table>,
    pub(crate) options: Options,
    /// How staging tables are made.
    create: Create,
}

#[derive(Debug, Clone)]
enum Create {
    Like(Box<Table>),
    New(Creation),
    Changes(Vec<String>),
}

impl Layout {
    pub(crate) async fn read(session: &Session, load: &LoadSpec, target: &Relation) -> Result<Self> {
        let options = Options::new(&load.options)?;
        let table = catalog::find(session, target).await?;
        if let Some(table) = &table {
            table.refuse_unfit()?;
        }
        let create = match (&load.write_mode, &table) {
            (WriteMode::Changes { key, .. }, _) => Create::Changes(key.clone()),
            (_, Some(table)) => Create::Like(Box::new(table.clone())),
            (_, None) => Create::New(Creation::new(&create::Wanted {
                schema: &create::stored_schema(load),
                primary_key: &load.primary_key,
                partition_by: &load.partition_by,
                cursor: load.cursor.as_deref(),
                options: &options,
            })?),
        };
        Ok(Self { target: target.clone(), names: StagingNames::new(load, target), table, options, create })
    }

    /// A staging table's definition.
    pub(crate) fn definition(&self, name: &Relation, load: &LoadSpec) -> Result<String> {
        Ok(match &self.create {
            Create::Like(target) => create::staging_like(name, target),
            Create::New(creation) => creation.staging(name),
            Create::Changes(key) => create::changes(name, load, self.table.as_ref(), key)?,
        })
    }

    /// Where all staged rows are brought together, and how that table is made. Rows that are to take the place of the
    /// target's are at once put into the table that will, unless the server would do more with them than merge them while
    /// they are counted.
    fn gathering(&self, load: &LoadSpec) -> Result<(Relation, String)> {
        let exchange = matches!(load.write_mode, WriteMode::Overwrite { overwrite: OverwriteType::Exchange });
        let table = self.table.as_ref().filter(|table| exchange && table.engine == "MergeTree" && !table.has_ttl());
        match table {
            Some(table) => {
                let next = self.names.next();
                let twin = create::twin(&next, table);
                Ok((next, twin))
            }
            None => {
                let rows = self.names.rows();
                let definition = self.definition(&rows, load)?;
                Ok((rows, definition))
            }
        }
    }

    /// The types of the columns that staged batches go to.
    pub(super) fn natives(&self, schema: &SchemaRef) -> Result<Vec<String>> {
        use dpone_planner::dialect::Dialect;
        schema
            .fields()
            .iter()
            .map(|field| match self.table.as_ref().and_then(|t| t.column(field.name())) {
                _ if field.name() == OPERATION_COLUMN => Ok("Int8".to_owned()),
                Some(column) => Ok(column.native.clone()),
                None => crate::ClickHouseDialect.native_type(field),
            })
            .collect()
    }
}

/// Checks what can be checked before rows are read, and removes what dead runs of the pipeline left.
pub(crate) async fn prepare(session: &Session, load: &LoadSpec, target: &Relation) -> Result<Layout> {
    let names = StagingNames::new(load, target);
    let (layout, staging) = tokio::try_join!(
        Layout::read(session, load, target),
        tables(session, &names.database, &names.pipeline_prefix)
    )?;
    for (field, native) in load.staged_schema.fields().iter().zip(layout.natives(&load.staged_schema)?) {
        if matches!(ChType::native(&native), Some(ChType::Map(..))) && is_string(field.data_type()) {
            return Err(Error::configuration(format!(
                "column {:?} of {} is {native}, and comes as text, of which the server makes no map",
                field.name(),
                layout.target
            ))
            .with("column", field.name())
            .with_hint(
                "give it a column of the type String; from ClickHouse, by a strategy that does not compare the column, it \
                 goes as it is",
            ));
        }
    }
    if let Some(table) = &layout.table {
        for field in load.staged_schema.fields().iter().filter(|f| f.name() != OPERATION_COLUMN) {
            if let Some(column) = table.column(field.name()).filter(|c| !c.is_stored()) {
                return Err(Error::configuration(format!(
                    "column {:?} of {} is {}: the table fills it by itself",
                    column.name, layout.target, column.default_kind
                ))
                .with("column", &column.name)
                .with_hint("leave the column out of the query"));
            }
        }
        let (asked, there) = (&load.partition_by, &table.partition_key);
        let same = asked.len() == there.len() && asked.iter().zip(there).all(|(asked, there)| is_part(asked, there));
        if !asked.is_empty() && !same {
            return Err(Error::configuration(format!(
                "table {} is partitioned by ({}), the definition says ({})",
                layout.target,
                table.partition_key.join(", "),
                load.partition_by.join(", ")
            ))
            .with_hint("a table keeps the partitioning that it was created with: change the definition, or load into a new table"));
        }
    } else if layout.names.database == layout.target.schema {
        ensure_database(session, &layout.target.schema).await?;
    }
    if layout.names.database != layout.target.schema {
        ensure_database(session, &layout.target.schema).await?;
        ensure_database(session, &layout.names.database).await?;
    }
    // The lease is ours, and taking it has finished what was begun: other loads of the pipeline are dead.
    let dead = staging.into_iter().filter(|table| !table.starts_with(&layout.names.prefix));
    let dead: Vec<_> = dead.map(|table| Relation::new(&layout.names.database, table)).collect();
    drop_tables(session, &dead).await?;
    Ok(layout)
}

/// Asks first: `CREATE DATABASE IF NOT EXISTS` needs a privilege even where nothing is to be created.
pub(crate) async fn ensure_database(session: &Session, database: &str) -> Result<()> {
    let sql = format!("SELECT name FROM system.databases WHERE name = {}", literal(database));
    match session.scalar(&sql).await? {
        Some(_) => Ok(()),
        None => session.run(&format!("CREATE DATABASE IF NOT EXISTS {}", crate::types::quote(database))).await,
    }
}

/// Names of tables that begin so.
pub(crate) async fn tables(session: &Session, database: &str, prefix: &str) -> Result<Vec<String>> {
    let sql = format!(
        "SELECT name FROM system.tables WHERE database = {} AND name LIKE {} ORDER BY name",
        literal(database),
        like(prefix)
    );
    Ok(session.rows(&sql).await?.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect())
}

pub(crate) async fn drop_table(session: &Session, table: &Relation) -> Result<()> {
    drop_tables(session, std::slice::from_ref(table)).await
}

/// Waits until all of them are gone, their files too.
async fn drop_tables(session: &Session, tables: &[Relation]) -> Result<()> {
    for tables in tables.chunks(DROPPED_AT_ONCE) {
        let names: Vec<_> = tables.iter().map(relation).collect();
        let sql = format!("DROP TABLE IF EXISTS {} SYNC", names.join(", "));
        // What a table holds may be more than `max_table_size_to_drop`, which guards tables of people.
        session.run_long(&sql, &[("max_table_size_to_drop", "0"), ("max_partition_size_to_drop", "0")]).await?;
    }
    Ok(())
}

pub(crate) async fn drop_all(session: &Session, database: &str, prefix: &str) -> Result<()> {
    let tables = tables(session, database, prefix).await?;
    let tables: Vec<_> = tables.into_iter().map(|table| Relation::new(database, table)).collect();
    drop_tables(session, &tables).await
}

/// Stages one partition into a table of its own.
pub(crate) async fn stage(
    session: &Session,
    load: &LoadSpec,
    layout: &Layout,
    partition: usize,
    mut rows: SendableRecordBatchStream,
) -> Result<StagedPartition> {
    let attempt = uuid::Uuid::new_v4().simple().to_string();
    let table = layout.names.attempt(partition, &attempt[..8]);
    session.run(&layout.definition(&table, load)?).await?;
    if layout.table.as_ref().is_some_and(Table::has_ttl) {
        // Rows that are past their time stay until they are in the target, or counts would not match.
        session.run(&format!("SYSTEM STOP TTL MERGES {}", relation(&table))).await?;
    }
    let token = format!("{}-{partition}-{}", load.load_id, &attempt[..8]);
    let mut lanes = Lanes::new(session, load, layout, &table, &token)?;
    let (mut staged, mut bytes, mut blocks_sent) = (0, 0, 0);
    // One block travels while the next one is read. Dropping the set stops it.
    let mut sending: JoinSet<Result<()>> = JoinSet::new();
    let mut ended = false;
    while !ended {
        let blocks = match rows.next().await {
            Some(batch) => {
                let batch = batch?;
                staged += batch.num_rows() as u64;
                lanes.add(&batch)?
            }
            None => {
                ended = true;
                lanes.take()?
            }
        };
        for (insert, block) in blocks {
            arrived(&mut sending).await?;
            bytes += block.iter().map(|piece| piece.len() as u64).sum::<u64>();
            blocks_sent += 1;
            if blocks_sent == UNMERGED {
                let limits = create::MERGE_LIMITS.join(", ");
                session.run(&format!("ALTER TABLE {} RESET SETTING {limits}", relation(&table))).await?;
            }
            sending.spawn(insert.block(block));
        }
    }
    arrived(&mut sending).await?;
    Ok(StagedPartition { partition, rows: staged, bytes, artifact: json!({ "table": table.name }) })
}

/// The server says that it takes no value of this kind, and not where it came: the columns are named that it can have come
/// to.
pub(crate) fn refused(error: Error, load: &LoadSpec, layout: &Layout) -> Error {
    match code(&error) {
        Some(NULL_IN_ORDINARY_COLUMN) => null_refused(error, load, layout),
        Some(INCORRECT_DATA) => json_refused(error, load, layout),
        _ => error,
    }
}

fn json_refused(error: Error, load: &LoadSpec, layout: &Layout) -> Error {
    let takes_json = |field: &Field| {
        let native = match &layout.table {
            Some(table) => table.column(field.name()).map(|column| column.native.clone()),
            None => ClickHouseDialect.native_type(field).ok(),
        };
        native.and_then(|native| ChType::native(&native)).is_some_and(|native| native.without_null() == &ChType::Json)
    };
    let fields = load.staged_schema.fields().iter().filter(|field| takes_json(field));
    let names: Vec<_> = fields.map(|field| format!("{:?}", field.name())).collect();
    if names.is_empty() {
        return error;
    }
    error.with_hint(format!(
        "a column of the type JSON takes objects alone, and each name in an object once: look at {}; load into a String, or filter \
         or convert it in a query",
        names.join(", ")
    ))
}

fn null_refused(error: Error, load: &LoadSpec, layout: &Layout) -> Error {
    let takes_none = |name: &str| match &layout.table {
        Some(table) => {
            let native = table.column(name).and_then(|column| ChType::native(&column.native));
            native.is_some_and(|native| !native.is_nullable())
        }
        None => {
            let mut parts = layout.options.order_by.iter().flatten().chain(&load.partition_by);
            parts.any(|part| part.contains(name)) || load.primary_key.iter().any(|key| key == name)
        }
    };
    let fields = load.staged_schema.fields().iter().filter(|field| field.is_nullable() && takes_none(field.name()));
    let names: Vec<_> = fields.map(|field| format!("{:?}", field.name())).collect();
    error.with_hint(format!(
        "columns that take no NULL, among them those of a sorting or partition key, and may have got one: {}; filter such rows, \
         or sort and partition by other columns",
        names.join(", ")
    ))
}

async fn arrived(sending: &mut JoinSet<Result<()>>) -> Result<()> {
    match sending.join_next().await {
        None => Ok(()),
        Some(Ok(result)) => result,
        Some(Err(failed)) => Err(Error::internal(format!("a sending task ended early: {failed}"))),
    }
}

#[derive(Debug, Clone)]
pub(super) struct Insert {
    session: Session,
    sql: String,
    /// Of this block alone.
    token: String,
}

impl Insert {
    pub(super) fn new(session: &Session, sql: String, token: String) -> Self {
        Self { session: session.clone(), sql, token }
    }

    /// Sends one block, which becomes one block of the server. Sent twice, it is there once: the server knows the token.
    async fn block(self, data: Block) -> Result<()> {
        let settings = [
            ("insert_deduplication_token", self.token),
            ("insert_deduplicate", "1".to_owned()),
            ("async_insert", "0".to_owned()),
            ("input_format_null_as_default", "0".to_owned()),
            ("input_format_native_allow_types_conversion", "1".to_owned()),
            ("input_format_native_decode_types_in_binary_format", "0".to_owned()),
            ("max_partitions_per_insert_block", "0".to_owned()),
            ("max_insert_threads", "1".to_owned()),
            ("min_insert_block_size_rows", "100000000".to_owned()),
            ("min_insert_block_size_bytes", "1000000000".to_owned()),
        ];
        self.session.send(&self.sql, &settings, data).await
    }
}

/// The tables that staging reported, and the rows in them.
pub(crate) fn staged_tables(layout: &Layout, staged: &[StagedPartition]) -> Result<Vec<Relation>> {
    staged
        .iter()
        .map(|part| match part.artifact["table"].as_str() {
            Some(name) if name.starts_with(&layout.names.prefix) => Ok(Relation::new(&layout.names.database, name)),
            _ => Err(Error::internal(format!("partition {} was staged, and does not say where", part.partition))),
        })
        .collect()
}

/// `(SELECT … UNION ALL …)` over all staged rows, wherever they are by now.
pub(crate) async fn union(
    session: &Session,
    load: &LoadSpec,
    layout: &Layout,
    staged: &[StagedPartition],
) -> Result<String> {
    let (rows, _) = layout.gathering(load)?;
    let mut sources = Vec::new();
    if catalog::uuid(session, &rows).await?.is_some() {
        sources.push(rows);
    }
    sources.extend(staged_tables(layout, staged)?);
    let selects: Vec<_> = sources.iter().map(|table| format!("SELECT * FROM {}", relation(table))).collect();
    Ok(format!("({})", selects.join(" UNION ALL ")))
}

/// Moves a table's partitions into another one, again when an answer did not come: what was moved is no longer there.
pub(crate) async fn move_all(session: &Session, from: &Relation, into: &Relation) -> Result<()> {
    move_partitions(session, from, into, None).await
}

/// The same, where it was asked before which partitions the table has.
async fn move_partitions(
    session: &Session,
    from: &Relation,
    into: &Relation,
    mut known: Option<Vec<String>>,
) -> Result<()> {
    let mut attempt = 1;
    loop {
        match move_once(session, from, into, known.take()).await {
            Err(error) if error.is_transient() && attempt < ATTEMPTS => {
                tracing::debug!(%error, attempt, "staged rows are moved again");
                tokio::time::sleep(Duration::from_millis(200) * attempt).await;
                attempt += 1;
                // The statement may be at work although its answer did not come.
                super::execution::quiet(session, &from.name).await?;
            }
            other => return other,
        }
    }
}

async fn move_once(session: &Session, from: &Relation, into: &Relation, known: Option<Vec<String>>) -> Result<()> {
    let partitions = match known {
        Some(partitions) => partitions,
        None => catalog::partitions(session, from).await?,
    };
    for partition in partitions {
        let sql = format!(
            "ALTER TABLE {} MOVE PARTITION ID {} TO TABLE {}",
            relation(from),
            literal(&partition),
            relation(into)
        );
        session.run_long(&sql, &[]).await?;
    }
    Ok(())
}

/// Brings all staged rows into one table. Parts are moved, not written again.
pub(crate) async fn gather(
    session: &Session,
    load: &LoadSpec,
    layout: &Layout,
    staged: &[StagedPartition],
) -> Result<Relation> {
    let (rows, definition) = layout.gathering(load)?;
    let created = async {
        match session.run(&definition).await {
            // By this statement, when its answer did not come and it was sent again.
            Err(error) if code(&error) == Some(TABLE_ALREADY_EXISTS) => Ok(()),
            created => created,
        }
    };
    let tables = staged_tables(layout, staged)?;
    let ((), partitions) = tokio::try_join!(created, catalog::partitions_of(session, &tables))?;
    // One after the other: engines that keep the last of several rows tell it by the order in which parts come.
    for (table, partitions) in tables.iter().zip(partitions) {
        move_partitions(session, table, &rows, Some(partitions)).await?;
    }
    let expected: u64 = staged.iter().map(|part| part.rows).sum();
    let found = session.count(&relation(&rows)).await?;
    if found != expected {
        return Err(Error::conflict(format!("{expected} rows were staged, and {found} are there"))
            .with("table", layout.target.to_string())
            .with_hint("somebody else wrote into tables of this load, or dropped some: run again"));
    }
    Ok(rows)
}
