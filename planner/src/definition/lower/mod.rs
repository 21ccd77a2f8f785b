//! From a checked manifest to a [`Pipeline`]: what options mean together, and which combinations are refused.

mod backfill;
pub(super) mod connection;
mod evolution;
mod lineage;
mod source;
mod state;
mod strategy;
mod text;
mod xmin;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value as Json;

use super::check::{Checker, Terms, by_path};
use super::located::Located;
use super::manifest::{self, Manifest, SourceOptions, StrategySpec};
use super::problems::Problems;
use super::schema::{SchemaKind, json_schema};
use super::{Files, Guards, Pipeline, SinkSpec, Strategy, Tuning};
use crate::error::{Error, Result};
use crate::relation::Relation;
use connection::Book;

pub(super) use evolution::lower as lower_evolution;
pub(super) use lineage::{lower as lower_lineage, stored_hashes};
pub(super) use xmin::refuse_reconciliation;

pub(super) use text::{check_predicate, clean as clean_message, parse_lag};

/// The definition as written, for the places of errors that only appear when options are read together.
#[derive(Clone, Copy)]
pub(super) struct Origin<'a> {
    pub tree: &'a Located,
    pub terms: Terms<'a>,
}

impl Origin<'_> {
    /// An error at a key, or at the mapping where the key is missing.
    pub(super) fn error(&self, path: &str, message: impl Into<String>) -> Error {
        Error::configuration(message).at(self.tree.place(path).location())
    }

    pub(super) fn term(&self, path: &str) -> String {
        (self.terms)(path)
    }

    fn missing(&self, path: &str, why: &str) -> Error {
        self.error(path, format!("{} is missing: {why}", self.term(path)))
    }
}

/// One process, checked and lowered. All mistakes of one stage come together.
pub(super) fn manifest(
    tree: &Located,
    selector: Option<String>,
    files: &dyn Files,
    book: &mut Book,
) -> Result<Pipeline> {
    let schema = json_schema(SchemaKind::Single);
    let mut checker = Checker::new(schema, tree, &by_path);
    checker.document();
    let mut warnings = checker.warnings();
    checker.problems.into_result()?;
    let manifest: Manifest = typed(tree.to_json())?;

    let origin = Origin { tree, terms: &by_path };
    let mut problems = Problems::default();
    let source = problems.keep(source::lower(&manifest.source, &origin, files, book, &mut warnings));
    let sink = problems.keep(sink(&manifest.sink, &origin, book));
    let strategy = problems.keep(strategy_and_guards(&manifest, &origin));
    let options = &manifest.sink.options;
    let evolution = problems.keep(lower_evolution(options.schema_evolution.as_ref(), &origin));
    let lineage = problems.keep(lower_lineage(options.lineage.as_ref(), options.technical_columns, &origin));
    let state = match &sink {
        Some(sink) => problems.keep(state::lower(manifest.state.as_ref(), sink, &origin, book)),
        None => None,
    };
    if let (Some(reconciliation), Some((strategy, _))) = (&manifest.reconciliation, &strategy)
        && !matches!(strategy, Strategy::Xmin(_))
    {
        problems.keep(xmin::refuse_reconciliation(reconciliation, &origin, &mut warnings));
    }
    problems.into_result()?;
    let (Some(source), Some(sink), Some((mut strategy, guards)), Some(evolution), Some(lineage), Some(state)) =
        (source, sink, strategy, evolution, lineage, state)
    else {
        return Err(Error::internal("a definition without problems has no result"));
    };
    stored_hashes(&mut strategy, &manifest.sink.strategy, lineage);
    let sink = with_merge_policy(sink, &manifest.sink.strategy, manifest.sink.kind.kind(), &origin)?;
    notes(&manifest, &strategy, &mut warnings);
    Ok(Pipeline {
        name: manifest.name,
        selector,
        description: manifest.description,
        source,
        sink,
        strategy,
        guards,
        evolution,
        lineage,
        tuning: tuning(&manifest.source.options),
        state,
        location: tree.at.location(),
        warnings,
    })
}

/// Deserialises what the check has let through.
pub(super) fn typed<T: serde::de::DeserializeOwned>(value: Json) -> Result<T> {
    serde_json::from_value(value)
        .map_err(|_| Error::internal("a definition passed the check of its schema and does not fit its types"))
}

fn strategy_and_guards(manifest: &Manifest, origin: &Origin<'_>) -> Result<(Strategy, Guards)> {
    let spec = &manifest.sink.strategy;
    let guards = lower_guards(spec, manifest.reconciliation.as_ref(), origin)?;
    let kinds = (manifest.source.kind.kind(), manifest.sink.kind.kind());
    let lowered = lower_strategy(spec, &manifest.source.options, manifest.reconciliation.as_ref(), kinds, origin)?;
    Ok((lowered, guards))
}

/// The strategy of both front doors.
pub(super) fn lower_strategy(
    spec: &StrategySpec,
    read: &SourceOptions,
    reconciliation: Option<&manifest::Reconciliation>,
    (source_kind, sink_kind): (&str, &str),
    origin: &Origin<'_>,
) -> Result<Strategy> {
    let cursor = source::cursor(read, origin)?;
    strategy::lower(spec, read, cursor, reconciliation, (source_kind, sink_kind), origin)
}

pub(super) fn lower_guards(
    spec: &StrategySpec,
    reconciliation: Option<&manifest::Reconciliation>,
    origin: &Origin<'_>,
) -> Result<Guards> {
    let settings = match reconciliation {
        Some(manifest::Reconciliation::Settings(settings)) => Some(settings.as_ref()),
        _ => None,
    };
    strategy::guards(spec, settings, origin)
}

pub(super) fn tuning(options: &SourceOptions) -> Tuning {
    let partitioning = options.partitioning.as_ref();
    Tuning {
        parallelism: partitioning.and_then(|p| p.export_workers.or(p.num_partitions).or(p.load_workers)),
        batch_rows: options.batch_size,
    }
}

fn sink(sink: &manifest::Sink, origin: &Origin<'_>, book: &mut Book) -> Result<SinkSpec> {
    let connection = book.of_manifest(
        &connection::Form {
            at: "sink",
            kind: sink.kind.kind(),
            connection_type: sink.connection_type,
            id: sink.connection_id.as_ref(),
            reference: sink.connection_ref.as_deref(),
            vault_path: sink.vault_path.as_deref(),
            path: sink.path.as_deref(),
        },
        Vec::new(),
        origin,
    )?;
    let relation = match (&sink.table, &sink.topic) {
        (Some(table), _) => relation(table),
        (None, Some(topic)) => Relation::new("topics", topic),
        (None, None) => {
            let key = if sink.kind == manifest::SinkType::Kafka { "sink.topic" } else { "sink.table" };
            return Err(origin.missing(key, "it names the target"));
        }
    };
    Ok(SinkSpec {
        connection,
        relation,
        staging_schema: sink.staging.as_ref().and_then(|staging| staging.schema.clone()),
        partition_by: sink.options.partition_by.as_ref().map(manifest::Names::list).unwrap_or_default(),
        options: connector_options(&sink.options),
    })
}

/// A sink that merges in several ways reads which one from its options.
pub(super) fn with_merge_policy(
    mut sink: SinkSpec,
    spec: &StrategySpec,
    kind: &str,
    origin: &Origin<'_>,
) -> Result<SinkSpec> {
    if let Some(policy) = spec.merge_policy.filter(|_| kind == "clickhouse") {
        let before = sink.options.insert("merge_policy".to_owned(), policy.as_str().to_owned());
        if before.is_some_and(|before| before != policy.as_str()) {
            return Err(origin
                .error("sink.strategy.merge_policy", "the merge policy is said twice, and not as the same")
                .with_hint("say it under sink.strategy alone"));
        }
    }
    Ok(sink)
}

/// Options that only the connector reads.
fn connector_options(options: &manifest::SinkOptions) -> BTreeMap<String, String> {
    let named = [
        ("compression", &options.compression),
        ("row_group_rows", &options.row_group_rows),
        ("delimiter", &options.delimiter),
        ("header", &options.header),
        ("null_marker", &options.null_marker),
    ];
    let named = named.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.as_ref()?.text())));
    let others = options.connector.iter().flatten().map(|(key, value)| (key.clone(), value.text()));
    others.chain(named).collect()
}

fn relation(table: &manifest::Table) -> Relation {
    Relation { database: table.database.clone(), schema: table.schema.clone(), name: table.name.clone() }
}

/// What is true of combinations rather than of keys, and worth a sentence before the run.
fn notes(manifest: &Manifest, strategy: &Strategy, warnings: &mut Vec<String>) {
    let options = &manifest.source.options;
    if let (Strategy::Replace { .. }, Some(read)) = (strategy, &options.custom_predicate) {
        let scope = manifest.sink.strategy.custom_predicate.as_deref();
        if scope.is_none_or(|scope| !text::same_sql(scope, read)) {
            warnings.push(
                "source.options.custom_predicate narrows the read within the scope: rows of the scope that it leaves \
                 out disappear from the target"
                    .to_owned(),
            );
        }
    }
}

/// A file's name without folders, globs and endings: `data/flights*.csv.gz` is `flights`.
pub(super) fn stem(path: &str) -> String {
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or(path);
    let name = Path::new(name).to_string_lossy();
    let name = name.split('.').find(|part| !part.is_empty()).unwrap_or_default();
    let name: String = name.chars().filter(|c| !"*?[]{}".contains(*c)).collect();
    let name = name.trim_matches(['_', '-']);
    if name.is_empty() { "files".to_owned() } else { name.to_owned() }
}
