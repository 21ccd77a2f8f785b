//! From statements to pipelines, with all connections known.

use super::options::term;
use super::tokens::connection_hint;
use super::{PipelineStatement, Script, query};
use crate::definition::check::Checker;
use crate::definition::located::{Located, Value};
use crate::definition::lower::connection::Book;
use crate::definition::lower::{self, Origin};
use crate::definition::manifest::{Lineage, Reconciliation, SchemaEvolution, SourceOptions, StrategySpec};
use crate::definition::problems::Problems;
use crate::definition::schema::{SchemaKind, json_schema};
use crate::definition::{Pipeline, ReadOptions, SinkSpec, SourceQuery, SourceSpec, StateSpec, Strategy};
use crate::error::{Error, Result};
use crate::relation::Relation;

pub(in crate::definition) fn lower(script: &Script, book: &Book) -> Result<Vec<Pipeline>> {
    let mut problems = Problems::default();
    let pipelines: Vec<_> =
        script.pipelines.iter().filter_map(|statement| problems.keep(pipeline(statement, book))).collect();
    problems.into_result()?;
    Ok(pipelines)
}

fn pipeline(statement: &PipelineStatement, book: &Book) -> Result<Pipeline> {
    let (connection, relation) = target(statement, book)?;
    let kind = book.get(&connection).map(|connection| connection.kind.clone()).unwrap_or_default();
    let mut tree = statement.settings.clone();
    tree.set_path("sink.type", &statement.at, Located::string(&kind, statement.at.clone()));

    let mut checker = Checker::new(json_schema(SchemaKind::Single), &tree, &term);
    checker.part("StrategySpec", "sink.strategy");
    checker.part("SourceOptions", "source.options");
    checker.part("ReconciliationSettings", "reconciliation");
    checker.part("SchemaEvolution", "sink.options.schema_evolution");
    checker.part("LineageSettings", "sink.options.lineage");
    let mut warnings = checker.warnings();
    query::check(&statement.tables, book, &mut checker.problems);
    checker.problems.into_result()?;

    let origin = Origin { tree: &tree, terms: &term };
    let read: SourceOptions = lower::typed(json(&tree, "source.options"))?;
    let spec: StrategySpec = lower::typed(json(&tree, "sink.strategy"))?;
    let reconciliation: Option<Reconciliation> =
        tree.path("reconciliation").map(|settings| lower::typed(settings.to_json())).transpose()?;
    let mut strategy = lower::lower_strategy(&spec, &read, reconciliation.as_ref(), ("sql", &kind), &origin)?;
    if let Some(reconciliation) = reconciliation.as_ref().filter(|_| !matches!(strategy, Strategy::Xmin(_))) {
        lower::refuse_reconciliation(reconciliation, &origin, &mut warnings)?;
    }
    let evolution: Option<SchemaEvolution> =
        tree.path("sink.options.schema_evolution").map(|settings| lower::typed(settings.to_json())).transpose()?;
    let lineage: Option<Lineage> =
        tree.path("sink.options.lineage").map(|settings| lower::typed(settings.to_json())).transpose()?;
    let lineage = lower::lower_lineage(lineage.as_ref(), None, &origin)?;
    lower::stored_hashes(&mut strategy, &spec, lineage);
    let options = tree.path("sink.options.connector").map(Located::entries).unwrap_or_default();
    Ok(Pipeline {
        name: statement.name.clone(),
        selector: None,
        description: None,
        source: SourceSpec { query: SourceQuery::Sql { sql: statement.query.clone() }, read: ReadOptions::default() },
        sink: lower::with_merge_policy(
            SinkSpec {
                connection: connection.clone(),
                relation,
                staging_schema: tree.path("sink.staging.schema").and_then(Located::as_str).map(str::to_owned),
                partition_by: statement.partition_by.clone(),
                options: options
                    .iter()
                    .filter_map(|entry| Some((entry.key.clone(), entry.value.as_str()?.to_owned())))
                    .collect(),
            },
            &spec,
            &kind,
            &origin,
        )?,
        strategy,
        guards: lower::lower_guards(&spec, reconciliation.as_ref(), &origin)?,
        evolution: lower::lower_evolution(evolution.as_ref(), &origin)?,
        lineage,
        tuning: lower::tuning(&read),
        state: state(statement, &connection, book)?,
        location: statement.at.location(),
        warnings,
    })
}

fn json(tree: &Located, path: &str) -> serde_json::Value {
    tree.path(path)
        .map_or_else(|| Located { value: Value::Map(Vec::new()), at: tree.at.clone() }.to_json(), Located::to_json)
}

fn target(statement: &PipelineStatement, book: &Book) -> Result<(String, Relation)> {
    let names: Vec<&str> = statement.target.iter().map(|(name, _)| name.as_str()).collect();
    let at = statement.target.first().map_or(&statement.at, |(_, at)| at);
    let (connection, relation) = match names.as_slice() {
        [connection, schema, name] => (*connection, Relation::new(*schema, *name)),
        [connection, database, schema, name] => {
            (*connection, Relation { database: Some((*database).to_owned()), ..Relation::new(*schema, *name) })
        }
        _ => {
            return Err(Error::configuration(format!("the target {} is not a table of a connection", names.join(".")))
                .at(at.location())
                .with_hint("write INTO connection.schema.table"));
        }
    };
    if book.get(connection).is_none() {
        return Err(Error::configuration(format!("there is no connection {connection:?}"))
            .at(at.location())
            .with_hint(connection_hint(connection, book)));
    }
    Ok((connection.to_owned(), relation))
}

fn state(statement: &PipelineStatement, sink: &str, book: &Book) -> Result<StateSpec> {
    let relation = match &statement.state_table {
        None => None,
        Some((text, at)) => match text.split_once('.') {
            Some((schema, name)) if !schema.is_empty() && !name.is_empty() && !name.contains('.') => {
                Some(Relation::new(schema, name))
            }
            _ => {
                return Err(Error::configuration(format!(
                    "the option 'state_table' is {text:?}; expected schema.table"
                ))
                .at(at.location()));
            }
        },
    };
    match &statement.state_connection {
        Some((name, at)) if book.get(name).is_none() => {
            Err(Error::configuration(format!("there is no connection {name:?}"))
                .at(at.location())
                .with_hint(connection_hint(name, book)))
        }
        Some((name, _)) if name != sink => Ok(StateSpec::Elsewhere { connection: name.clone(), relation }),
        _ => Ok(relation.map_or(StateSpec::BesideData, |relation| StateSpec::InSink { relation })),
    }
}
