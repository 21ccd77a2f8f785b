//! What a schema is planned from: two lists of columns, or one and a live table, and the policy.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::Schema;
use clap::{Args, ValueEnum};
use dpone_engine::{Error, Relation, Result};
use dpone_planner::dialect::Dialect;
use dpone_planner::schema::{
    ColumnsMode, DataTypeMode, DdlMode, EvolutionMode, EvolutionPolicy, OnTypeChange, SchemaPlan, TableFacts,
    TargetNullability, plan_schema, read_columns, with_aliases,
};

use super::compatibility::Compatibility;
use crate::args::{DefinitionOptions, parse_size};
use crate::dialects::System;

/// The two sides, and what is known of the target's server.
#[derive(Debug, Clone, Args)]
pub(crate) struct Sides {
    /// Columns of the source: a JSON list of {name, dtype, nullable}; `default`, `collation`, `comment` and `aliases`
    /// (earlier names) may be added
    #[arg(long, value_name = "FILE")]
    pub(super) source: PathBuf,
    /// Columns of the target, in the same form
    #[arg(long, value_name = "FILE", required_unless_present = "connection", conflicts_with = "connection")]
    pub(super) target: Option<PathBuf>,
    /// Read the target's columns, indexes, views and other dependents from this connection instead
    #[arg(long, value_name = "NAME")]
    pub(super) connection: Option<String>,
    #[command(flatten)]
    pub(super) definition: DefinitionOptions,
    /// The target table: schema.name
    #[arg(long, value_name = "TABLE", value_parser = parse_table)]
    pub(crate) table: Relation,
    /// The system of the target
    #[arg(long, value_enum, default_value_t = System::default_for_files())]
    pub(crate) dialect: System,
    /// With --dialect kafka: the level that the Schema Registry has for the subject [default: BACKWARD]
    #[arg(long, value_enum, ignore_case = true, value_name = "LEVEL")]
    pub(super) compatibility: Option<Compatibility>,
    /// Version of the target's server, such as 15 [default: not known, and the most careful version is assumed]
    #[arg(long, value_name = "VERSION", conflicts_with = "connection")]
    pub(super) server_version: Option<String>,
    /// A setting of the session that runs the DDL, such as TimeZone=UTC; may be repeated
    #[arg(long = "setting", value_name = "NAME=VALUE", value_parser = parse_pair, conflicts_with = "connection")]
    pub(super) settings: Vec<(String, String)>,
    /// Size of the table, such as 20GB
    #[arg(long, value_name = "SIZE", value_parser = parse_size, conflicts_with = "connection")]
    pub(super) table_size: Option<usize>,
    /// A column that was renamed in the source; may be repeated. Nothing is ever guessed
    #[arg(long = "rename", value_name = "OLD=NEW", value_parser = parse_pair)]
    pub(super) renames: Vec<(String, String)>,
}

/// The policy, with the defaults of `sink.options.schema_evolution`.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Policy")]
pub(crate) struct PolicyArgs {
    /// Which differences may be made at all
    #[arg(long, value_enum, default_value_t = Mode::Widening)]
    mode: Mode,
    /// What becomes of new columns
    #[arg(long, value_enum, default_value_t = Columns::Evolve)]
    columns: Columns,
    /// What becomes of types that differ
    #[arg(long, value_enum, default_value_t = DataType::Widen)]
    data_type: DataType,
    /// `new_column`: values of an incompatible type go to a column of their own
    #[arg(long, value_enum, default_value_t = TypeChange::Fail)]
    on_type_change: TypeChange,
    /// Prefix of these columns
    #[arg(long, value_name = "PREFIX", default_value = "__dpone__nc__")]
    new_column_prefix: String,
    /// When DDL may be made
    #[arg(long, value_enum, default_value_t = Ddl::Online)]
    ddl_mode: Ddl,
    /// How long a statement waits for its lock
    #[arg(long, value_name = "S")]
    lock_timeout_seconds: Option<u64>,
    /// How long a statement may take
    #[arg(long, value_name = "S")]
    statement_timeout_seconds: Option<u64>,
    /// Tables above this size get no DDL inline, unless it only touches metadata
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_table_size_for_inline_ddl: Option<usize>,
    /// Accept DDL that makes writers, or readers and writers, wait
    #[arg(long)]
    allow_blocking_online: bool,
    /// Propose to drop columns that the source lacks; never done without approval
    #[arg(long)]
    allow_drop: bool,
    /// A target that takes NULL where the source has none is a difference too
    #[arg(long)]
    strict_nullability: bool,
}

impl PolicyArgs {
    /// How long a statement waits for its lock, where that is said.
    pub(super) fn lock_timeout(&self) -> Option<std::time::Duration> {
        self.lock_timeout_seconds.map(std::time::Duration::from_secs)
    }

    pub(crate) fn policy(&self) -> Result<EvolutionPolicy> {
        if !self.new_column_prefix.starts_with("__dpone__") {
            return Err(Error::configuration(
                "--new-column-prefix: the prefix begins with __dpone__, which no column of a \
                                             source may have",
            ));
        }
        Ok(EvolutionPolicy {
            mode: self.mode.into(),
            columns: self.columns.into(),
            data_type: self.data_type.into(),
            on_type_change: self.on_type_change.into(),
            ddl_mode: self.ddl_mode.into(),
            new_column_prefix: self.new_column_prefix.clone(),
            lock_timeout_seconds: self.lock_timeout_seconds,
            statement_timeout_seconds: self.statement_timeout_seconds,
            max_table_size_for_inline_ddl: self.max_table_size_for_inline_ddl.map(|size| size as u64),
            allow_blocking_online: self.allow_blocking_online,
            allow_drop: self.allow_drop,
            target_nullability: match self.strict_nullability {
                true => TargetNullability::Strict,
                false => TargetNullability::AcceptExistingNullable,
            },
            ..EvolutionPolicy::default()
        })
    }
}

/// Both sides as schemas.
pub(crate) struct Read {
    pub(crate) source: Schema,
    pub(crate) target: Schema,
    pub(crate) facts: TableFacts,
    pub(crate) dialect: Arc<dyn Dialect>,
}

impl Sides {
    pub(crate) async fn read(&self) -> Result<Read> {
        let (target, facts, dialect) = match (&self.connection, &self.target) {
            (Some(connection), _) => self.live(connection).await?,
            (None, Some(file)) => {
                let dialect = self.dialect()?;
                (read_columns(file, &text(file)?, dialect.as_ref())?, self.facts()?, dialect)
            }
            (None, None) => return Err(Error::configuration("give the target's columns: --target FILE")),
        };
        let source = read_columns(&self.source, &text(&self.source)?, dialect.as_ref())?;
        Ok(Read { source: self.renamed(source)?, target, facts, dialect })
    }

    pub(crate) async fn plan(&self, policy: &EvolutionPolicy) -> Result<SchemaPlan> {
        let Read { source, target, facts, dialect } = self.read().await?;
        plan_schema(&self.table, &source, &target, &facts, dialect.as_ref(), policy)
            .map_err(|error| error.with("table", self.table.to_string()))
    }

    async fn live(&self, connection: &str) -> Result<(Schema, TableFacts, Arc<dyn Dialect>)> {
        let loaded = self.definition.load()?;
        let sink = loaded.connections.sink(connection)?;
        let found = sink.describe(&self.table).await.map_err(|e| e.with("connection", connection))?;
        let Some(found) = found else {
            return Err(Error::configuration(format!("there is no table {}", self.table))
                .with("connection", connection)
                .with_hint("a table that is not there is created by the first run"));
        };
        Ok((found.schema.as_ref().clone(), found.facts, sink.dialect()))
    }

    fn dialect(&self) -> Result<Arc<dyn Dialect>> {
        match (self.dialect, self.compatibility) {
            (System::Kafka, Some(level)) => {
                Ok(Arc::new(dpone_kafka::KafkaDialect { level: level.into(), ..Default::default() }))
            }
            (dialect, None) => Ok(dialect.dialect()),
            (_, Some(_)) => Err(Error::configuration("--compatibility is for --dialect kafka alone")
                .with_hint("tables have DDL: leave it out, or say --dialect kafka")),
        }
    }

    fn facts(&self) -> Result<TableFacts> {
        let settings: BTreeMap<String, String> =
            self.settings.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect();
        Ok(TableFacts {
            version: self.server_version.as_deref().map(|text| self.dialect.version(text)).transpose()?,
            settings,
            bytes: self.table_size.map(|size| size as u64),
            ..TableFacts::default()
        })
    }

    fn renamed(&self, source: Schema) -> Result<Schema> {
        let mut fields = source.fields().to_vec();
        for (old, new) in &self.renames {
            let field = fields.iter_mut().find(|field| field.name() == new).ok_or_else(|| {
                Error::configuration(format!("--rename {old}={new}: the source has no column {new:?}"))
                    .with_hint("write --rename OLD=NEW, where NEW is the name in the source")
            })?;
            *field = with_aliases(field, std::slice::from_ref(old));
        }
        Ok(Schema::new(fields))
    }
}

pub(crate) fn text(file: &Path) -> Result<String> {
    let unreadable =
        |e: &dyn std::fmt::Display| Error::configuration(format!("{}: cannot be read: {e}", file.display()));
    let bytes = std::fs::read(file).map_err(|e| unreadable(&e))?;
    String::from_utf8(bytes).map_err(|_| unreadable(&"it is not UTF-8"))
}

/// `schema.name` or `database.schema.name`; a part in double quotes may hold dots.
pub(crate) fn parse_table(text: &str) -> Result<Relation, String> {
    let expected = || "expected SCHEMA.TABLE, such as landing.orders".to_owned();
    let (mut parts, mut part, mut quoted, mut chars) = (Vec::new(), String::new(), false, text.chars().peekable());
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.next_if_eq(&'"').is_some() => part.push('"'),
            '"' => quoted = !quoted,
            '.' if !quoted => parts.push(std::mem::take(&mut part)),
            c => part.push(c),
        }
    }
    parts.push(part);
    if quoted || parts.iter().any(String::is_empty) {
        return Err(expected());
    }
    match parts.as_slice() {
        [schema, name] => Ok(Relation::new(schema, name)),
        [database, schema, name] => Ok(Relation { database: Some(database.clone()), ..Relation::new(schema, name) }),
        _ => Err(expected()),
    }
}

pub(super) fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

/// An argument with the values of a policy's key, as the manifest spells them.
macro_rules! policy_argument {
    ($name:ident => $policy:ident { $($value:ident),+ }) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
        #[value(rename_all = "snake_case")]
        pub(crate) enum $name { $($value),+ }

        impl From<$name> for $policy {
            fn from(value: $name) -> Self {
                match value { $($name::$value => Self::$value),+ }
            }
        }
    };
}

policy_argument!(Mode => EvolutionMode { Strict, Additive, Widening });
policy_argument!(Columns => ColumnsMode { Evolve, Freeze, Ignore, Quarantine });
policy_argument!(DataType => DataTypeMode { Widen, VariantColumn, Freeze, Quarantine });
policy_argument!(TypeChange => OnTypeChange { Fail, NewColumn });
policy_argument!(Ddl => DdlMode { Online, SafeWindow, PlanOnly, ManualApproval });
