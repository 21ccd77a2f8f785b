//! The commit: everything is worked out beside the target, and becomes steps that are written down before they are done.

use dpone_engine::failpoint;
use dpone_engine::{Commit, Error, Receipt, Relation, Result};
use dpone_planner::definition::OverwriteType;
use dpone_planner::plan::{OPERATION_COLUMN, ScopeFilter, WriteMode};
use dpone_planner::schema::SchemaChange;

use super::catalog::{self, Table};
use super::create::{self, Creation, Wanted};
use super::execution::Execution;
use super::journal::{CommitPlan, Step};
use super::names::{StagingNames, list, relation};
use super::options::MergePolicy;
use super::session::Session;
use super::staging::{self, Layout};
use super::version::Version;
use super::{changes, overwrite, scope};
use crate::state::StateTables;
use crate::types::{literal, quote};

/// What becomes of projections when rows are deleted in passing.
const PROJECTION_MODE: &str = "lightweight_mutation_projection_mode";

/// How many rows met which fate in the target, and how.
#[derive(Debug, Default)]
pub(crate) struct Planned {
    pub(crate) steps: Vec<Step>,
    pub(crate) inserted: u64,
    pub(crate) updated: u64,
    pub(crate) deleted: u64,
    pub(crate) unchanged: u64,
    pub(crate) notes: Vec<String>,
    /// What the steps were worked out from, where they undo whatever others wrote since: [`catalog::content`].
    pub(crate) content: Option<String>,
    /// Steps that leave rows of others alone: see [`CommitPlan::otherwise`].
    pub(crate) otherwise: Vec<Step>,
}

/// What the write modes work with.
pub(crate) struct Work<'a> {
    pub(crate) session: &'a Session,
    pub(crate) commit: &'a Commit<'a>,
    pub(crate) layout: &'a Layout,
    /// All staged rows.
    pub(crate) rows: Relation,
}

impl Work<'_> {
    pub(crate) fn staged_rows(&self) -> u64 {
        self.commit.staged.iter().map(|part| part.rows).sum()
    }

    /// The staged columns that are stored.
    pub(crate) fn columns(&self) -> Vec<&str> {
        let fields = self.commit.load.staged_schema.fields().iter();
        fields.map(|f| f.name().as_str()).filter(|name| *name != OPERATION_COLUMN).collect()
    }

    pub(crate) fn names(&self) -> &StagingNames {
        &self.layout.names
    }

    /// Stops before anything is changed when more rows would disappear than the definition allows.
    pub(crate) async fn guard(&self, table: &Table, removed: u64) -> Result<()> {
        let too_many = |what: String| {
            Error::data_quality(format!("the load would remove {what}"))
                .with_hint("check the source; raise the limit for this run if the deletions are meant")
                .with("table", table.relation.to_string())
        };
        if removed == 0 {
            return Ok(());
        }
        if let Some(most) = self.commit.max_delete_rows.filter(|most| removed > *most) {
            return Err(too_many(format!("{removed} rows, and max_delete_rows is {most}")));
        }
        if let Some(most) = self.commit.max_delete_ratio {
            let total = self.session.count(&table.read()).await?;
            if removed as f64 > most * total as f64 {
                return Err(too_many(format!("{removed} of {total} rows, and max_delete_ratio is {most}")));
            }
        }
        Ok(())
    }

    /// Whether rows are deleted by a mutation: the server refuses lightweight deletion of tables with projections, unless
    /// a setting says what becomes of them.
    pub(crate) async fn deletes_by_mutation(&self, table: &Table, policy: MergePolicy) -> Result<bool> {
        if policy == MergePolicy::Mutation {
            return Ok(true);
        }
        let projections = catalog::projections(self.session, table).await?;
        if projections.is_empty() {
            return Ok(false);
        }
        if policy != MergePolicy::Lightweight {
            return Ok(true);
        }
        let of_server =
            format!("SELECT value FROM system.merge_tree_settings WHERE name = {}", literal(PROJECTION_MODE));
        if table.engine_full.contains(PROJECTION_MODE)
            || self.session.scalar(&of_server).await?.is_some_and(|mode| mode != "throw")
        {
            return Ok(false);
        }
        Err(Error::configuration(format!(
            "merge_policy lightweight_delete_insert: table {} has projections ({}), and ClickHouse deletes no rows of such a \
             table in passing",
            table.relation,
            projections.join(", ")
        ))
        .with("table", table.relation.to_string())
        .with_hint(format!(
            "take merge_policy: auto or mutation_delete_insert; or let the table say what becomes of its projections: ALTER \
             TABLE … MODIFY SETTING {PROJECTION_MODE} = 'rebuild'"
        )))
    }

    /// The plan's table, empty, under the name of the one that becomes the target.
    pub(crate) async fn create_next(&self) -> Result<Relation> {
        let [SchemaChange::CreateTable { schema, primary_key, partition_by }] = self.commit.ddl else {
            return Err(Error::conflict(format!(
                "table {} was there when the load was planned and is gone",
                self.layout.target
            )));
        };
        let next = self.names().next();
        let cursor = self.commit.load.cursor.as_deref();
        let creation =
            Creation::new(&Wanted { schema, primary_key, partition_by, cursor, options: &self.layout.options })?;
        staging::drop_table(self.session, &next).await?;
        self.session.run(&creation.target(&next)).await?;
        Ok(next)
    }

    /// Brings the staged rows into another table of the load: parts are moved where the structure is the same.
    pub(crate) async fn fill(&self, into: &Relation) -> Result<()> {
        match staging::move_all(self.session, &self.rows, into).await {
            // Columns that the table requires and the batch does not: what was not moved is written again.
            Err(error) if !error.is_transient() => {
                tracing::debug!(%error, "parts cannot be moved: the rows are written again");
                self.copy(into).await
            }
            other => other,
        }
    }

    async fn copy(&self, into: &Relation) -> Result<()> {
        let columns = list(self.columns());
        let sql = format!("INSERT INTO {} ({columns}) SELECT {columns} FROM {}", relation(into), relation(&self.rows));
        self.session.insert_select(&sql).await
    }

    /// The same work, with staged rows whose version is later than all of the table, where it has versions that the source
    /// does not give: a row without one would be older than a deletion of its key, and never be seen.
    async fn versioned(&self, table: &Table) -> Result<Work<'_>> {
        let same = Work { session: self.session, commit: self.commit, layout: self.layout, rows: self.rows.clone() };
        let columns = self.columns();
        let Some((version, deleted)) = table.versions() else { return Ok(same) };
        if columns.contains(&version.as_str())
            || columns.contains(&deleted.as_str())
            || self.staged_rows() == 0
            || table.column(&version).is_none_or(|column| Version::of(&column.native).is_none())
        {
            return Ok(same);
        }
        let fresh = self.names().fresh();
        self.session.run(&create::staging_like(&fresh, table)).await?;
        let next = changes::next_version(self.session, table, &version).await?;
        let columns = list(columns);
        let sql = format!(
            "INSERT INTO {} ({columns}, {}, {}) SELECT {columns}, {next}, 0 FROM {}",
            relation(&fresh),
            quote(&version),
            quote(&deleted),
            relation(&self.rows)
        );
        self.session.insert_select(&sql).await?;
        Ok(Work { rows: fresh, ..same })
    }

    /// The step by which a finished table becomes the target that did not exist.
    pub(crate) async fn renaming(&self, from: Relation) -> Result<Step> {
        let uuid = catalog::uuid(self.session, &from).await?.unwrap_or_default();
        Ok(Step::Rename { from, uuid })
    }

    pub(crate) async fn moves(&self, from: &Relation) -> Result<Vec<Step>> {
        let partitions = catalog::partitions(self.session, from).await?;
        Ok(partitions.into_iter().map(|partition| Step::Move { from: from.clone(), partition }).collect())
    }
}

/// `begun` is called when the commit will be finished whatever happens.
pub(crate) async fn commit(
    session: &Session,
    commit: &Commit<'_>,
    target: &Relation,
    begun: &(dyn Fn() + Sync),
) -> Result<Receipt> {
    let load = commit.load;
    let tables = StateTables::new(target, commit.state_location)?;
    let leases = tables.leases(session);
    let (committed, held, layout) = tokio::join!(
        tables.of_load(session, &load.load_id),
        leases.check(commit.lease),
        Layout::read(session, load, target)
    );
    if let Some(receipt) = committed? {
        return Ok(receipt);
    }
    held?;
    let layout = layout?;
    check_target(commit, &layout)?;
    let rows = staging::gather(session, load, &layout, commit.staged).await?;
    let work = Work { session, commit, layout: &layout, rows };
    let planned = plan(&work).await?;
    let mut receipt = commit.receipt.clone();
    receipt.rows.apply(planned.inserted, planned.updated, planned.deleted, planned.unchanged);
    receipt.notes.extend(planned.notes);
    receipt.finished_at = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    let exchanges = planned.steps.iter().any(|step| matches!(step, Step::Exchange { .. }));
    let plan = CommitPlan {
        target: target.clone(),
        structure: layout.table.as_ref().filter(|_| exchanges).map(Table::structure),
        steps: planned.steps,
        content: planned.content,
        otherwise: planned.otherwise,
        database: layout.names.database.clone(),
        prefix: layout.names.prefix.clone(),
        state: commit.state.clone(),
        receipt,
    };
    failpoint::reach("commit.begun").await?;
    if plan.is_overtaken(session).await? {
        return Err(Error::conflict(format!(
            "somebody else wrote into {target}, or altered it, while its next state was built"
        ))
        .with("table", target.to_string())
        .with_hint("run again; while others write, merge by lightweight_delete_insert"));
    }
    let execution = Execution { session, tables: &tables, lease: commit.lease, resumes: false };
    begun();
    let finished = execution.begin(&plan).await;
    match finished {
        Ok(true) => Ok(plan.receipt),
        Ok(false) => look_up(session, &tables, load, None).await,
        // Another run may have finished what this one began.
        Err(error) => match tables.of_load(session, &load.load_id).await {
            Ok(Some(receipt)) => Ok(receipt),
            _ => Err(error),
        },
    }
}

/// The answer to the commit did not come: the server is asked what became of the load.
async fn look_up(
    session: &Session,
    tables: &StateTables,
    load: &dpone_engine::LoadSpec,
    source: Option<Error>,
) -> Result<Receipt> {
    if let Some(receipt) = tables.of_load(session, &load.load_id).await? {
        return Ok(receipt);
    }
    let error = Error::unknown("the commit was cut short, and is finished by the next run of the pipeline")
        .with_hint("run again: with the same run id it reports this load");
    Err(match source {
        Some(source) => error.with_source(source),
        None => error,
    })
}

/// The target may have changed since the load was planned.
fn check_target(commit: &Commit<'_>, layout: &Layout) -> Result<()> {
    let load = commit.load;
    match (&layout.table, commit.ddl) {
        (Some(_), [_, ..]) => {
            Err(Error::conflict(format!("table {} was created by somebody else meanwhile", layout.target))
                .with_hint("run again: the load will be planned for the table as it is now"))
        }
        (None, []) => {
            Err(Error::conflict(format!("table {} was there when the load was planned and is gone", layout.target)))
        }
        (Some(table), []) => {
            let staged = load.staged_schema.fields().iter().filter(|f| f.name() != OPERATION_COLUMN);
            match staged.into_iter().find(|f| table.column(f.name()).is_none()) {
                None => Ok(()),
                Some(field) => Err(Error::conflict(format!(
                    "column {:?} of {} is gone, and was there when the load was planned",
                    field.name(),
                    layout.target
                ))
                .with_hint("run again: the load will be planned for the table as it is now")),
            }
        }
        (None, _) => Ok(()),
    }
}

async fn plan(work: &Work<'_>) -> Result<Planned> {
    let Some(table) = &work.layout.table else { return first_load(work).await };
    match &work.commit.load.write_mode {
        WriteMode::Append => {
            let work = &work.versioned(table).await?;
            let steps = work.moves(&work.rows).await?;
            Ok(Planned { steps, inserted: work.staged_rows(), ..Planned::default() })
        }
        WriteMode::Overwrite { overwrite: OverwriteType::Exchange } => overwrite::exchange(work, table).await,
        WriteMode::Overwrite { overwrite: OverwriteType::TruncateInsert } => {
            overwrite::replace_all(work, table, None).await
        }
        WriteMode::OverwriteScope { scope: ScopeFilter::Predicate { sql } } => {
            scope::predicate(&work.versioned(table).await?, table, sql).await
        }
        WriteMode::OverwriteScope { scope: ScopeFilter::Partitions { columns } } => {
            scope::partitions(&work.versioned(table).await?, table, columns).await
        }
        WriteMode::Changes { key, operation } => changes::apply(work, table, key, operation).await,
    }
}

/// There is no target: a finished table gets its name.
async fn first_load(work: &Work<'_>) -> Result<Planned> {
    let next = work.create_next().await?;
    let inserted = match &work.commit.load.write_mode {
        WriteMode::Changes { operation, .. } => {
            let columns = list(work.columns());
            let only = match operation.is_column() {
                true => format!(" WHERE {} = {}", quote(OPERATION_COLUMN), dpone_planner::plan::INSERT_OR_UPDATE),
                false => String::new(),
            };
            let from = relation(&work.rows);
            let sql = format!("INSERT INTO {} ({columns}) SELECT {columns} FROM {from}{only}", relation(&next));
            work.session.insert_select(&sql).await?;
            work.session.count(&format!("{from}{only}")).await?
        }
        _ => {
            work.fill(&next).await?;
            work.staged_rows()
        }
    };
    let unchanged = work.staged_rows() - inserted;
    let steps = vec![work.renaming(next).await?];
    Ok(Planned { steps, inserted, unchanged, ..Planned::default() })
}
