//! Which pipelines of a command read what others of it write, and what each of them is made of.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
use dpone_engine::evidence::{Definition, canonical};
use dpone_engine::federation::tables_of;
use dpone_engine::{Error, Result};
use dpone_ledger::StepName;
use dpone_planner::definition::{Connection, Pipeline, SourceQuery, StateSpec};
use dpone_planner::state::hex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The pipelines of one command.
#[derive(Debug)]
pub(crate) struct Graph {
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    name: String,
    /// Of the definition alone.
    own: String,
    /// Of that and everything upstream.
    whole: String,
    /// Indexes of the pipelines whose targets it reads.
    upstream: Vec<usize>,
    step: StepName,
}

impl Graph {
    pub(crate) fn new(pipelines: &[Pipeline], connections: &BTreeMap<String, Connection>) -> Result<Self> {
        let places = Places { connections };
        let mut nodes = pipelines
            .iter()
            .enumerate()
            .map(|(at, pipeline)| {
                let reads = Reads::of(pipeline);
                let writes = |other: &Pipeline| reads.includes(other, &places);
                let upstream: Vec<usize> =
                    (0..pipelines.len()).filter(|n| *n != at && writes(&pipelines[*n])).collect();
                let inside = reads.connections.iter().any(|name| places.same(name, &pipeline.sink.connection));
                let step = if upstream.is_empty() && !inside { StepName::Load } else { StepName::Transform };
                let own = digest(pipeline, &places)?;
                Ok(Node { name: pipeline.name.clone(), own, whole: String::new(), upstream, step })
            })
            .collect::<Result<Vec<Node>>>()?;
        for at in 0..nodes.len() {
            let whole = whole(&nodes, at, &mut BTreeSet::new());
            nodes[at].whole = whole;
        }
        Ok(Self { nodes })
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == name)
    }

    pub(crate) fn digest(&self, at: usize) -> &str {
        self.nodes.get(at).map(|node| node.whole.as_str()).unwrap_or_default()
    }

    pub(crate) fn name(&self, at: usize) -> &str {
        self.nodes.get(at).map(|node| node.name.as_str()).unwrap_or_default()
    }

    /// `LOAD` brings data in; `TRANSFORM` reads what another pipeline wrote, or the system that it writes to.
    pub(crate) fn step(&self, at: usize) -> StepName {
        self.nodes.get(at).map_or(StepName::Load, |node| node.step)
    }

    pub(crate) fn upstream(&self, at: usize) -> &[usize] {
        self.nodes.get(at).map(|node| node.upstream.as_slice()).unwrap_or_default()
    }

    pub(crate) fn definition(&self, at: usize) -> Definition {
        Definition {
            sha256: self.nodes.get(at).map(|node| node.own.clone()).unwrap_or_default(),
            with_upstream_sha256: self.digest(at).to_owned(),
            upstream: self.upstream(at).iter().map(|n| self.name(*n).to_owned()).collect(),
        }
    }

    /// These and all that read from them, directly or not.
    pub(crate) fn with_downstream(&self, chosen: &BTreeSet<usize>) -> BTreeSet<usize> {
        let mut all = chosen.clone();
        loop {
            let more: Vec<usize> = (0..self.len())
                .filter(|n| !all.contains(n) && self.upstream(*n).iter().any(|up| all.contains(up)))
                .collect();
            if more.is_empty() {
                return all;
            }
            all.extend(more);
        }
    }

    /// These and all that they read from, directly or not.
    pub(crate) fn with_upstream(&self, chosen: &BTreeSet<usize>) -> BTreeSet<usize> {
        let mut all = chosen.clone();
        let mut open: Vec<usize> = chosen.iter().copied().collect();
        while let Some(at) = open.pop() {
            open.extend(self.upstream(at).iter().copied().filter(|up| all.insert(*up)));
        }
        all
    }

    /// The chosen ones, each after those that it reads from; else in the order in which they are written.
    pub(crate) fn ordered(&self, chosen: &BTreeSet<usize>) -> Vec<usize> {
        let mut order: Vec<usize> = Vec::new();
        while order.len() < chosen.len() {
            let left = || chosen.iter().copied().filter(|n| !order.contains(n));
            let ready = |n: &usize| self.upstream(*n).iter().all(|up| !chosen.contains(up) || order.contains(up));
            // Pipelines that read from each other have no order but the one in which they are written.
            let Some(next) = left().find(ready).or_else(|| left().next()) else { break };
            order.push(next);
        }
        order
    }
}

/// Where connections lead to.
struct Places<'a> {
    connections: &'a BTreeMap<String, Connection>,
}

impl Places<'_> {
    /// Whether two names lead to one place.
    fn same(&self, one: &str, other: &str) -> bool {
        if one == other {
            return true;
        }
        match (self.connections.get(one), self.connections.get(other)) {
            (Some(one), Some(other)) => one.kind == other.kind && one.options == other.options,
            _ => false,
        }
    }

    /// Secrets by reference: the digest of a pipeline is the same whoever's password it is.
    fn describe(&self, name: &str) -> Value {
        let Some(connection) = self.connections.get(name) else { return json!({ "name": name }) };
        let options: BTreeMap<&String, String> =
            connection.options.iter().map(|(key, value)| (key, value.display())).collect();
        json!({ "name": name, "kind": connection.kind, "options": options })
    }
}

/// What a pipeline reads.
struct Reads<'a> {
    connections: BTreeSet<String>,
    /// `(connection, schema.table)`
    tables: Vec<(String, String)>,
    /// A query in a system's own dialect: names are looked for in its text.
    native: Option<(&'a str, &'a str)>,
}

impl<'a> Reads<'a> {
    fn of(pipeline: &'a Pipeline) -> Self {
        let (tables, native): (Vec<(String, String)>, _) = match &pipeline.source.query {
            SourceQuery::Table { connection, relation } => (vec![(connection.clone(), relation.to_string())], None),
            SourceQuery::Native { connection, sql } => (Vec::new(), Some((connection.as_str(), sql.as_str()))),
            SourceQuery::Sql { sql } => {
                let named = tables_of(sql).unwrap_or_default();
                let split = |table: &String| {
                    table.split_once('.').map(|(connection, rest)| (connection.to_owned(), rest.to_owned()))
                };
                (named.iter().filter_map(split).collect(), None)
            }
        };
        let mut connections: BTreeSet<String> = tables.iter().map(|(connection, _)| connection.clone()).collect();
        connections.extend(native.map(|(connection, _)| connection.to_owned()));
        Self { connections, tables, native }
    }

    /// Whether the other pipeline writes something of it.
    fn includes(&self, other: &Pipeline, places: &Places<'_>) -> bool {
        let sink = &other.sink;
        let target = sink.relation.to_string();
        let listed = |(connection, table): &(String, String)| {
            table.eq_ignore_ascii_case(&target) && places.same(connection, &sink.connection)
        };
        self.tables.iter().any(listed)
            || self.native.is_some_and(|(connection, sql)| {
                places.same(connection, &sink.connection) && has_word(sql, &sink.relation.name)
            })
    }
}

fn has_word(text: &str, word: &str) -> bool {
    let (text, word) = (text.to_lowercase(), word.to_lowercase());
    let part = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    text.match_indices(&word).any(|(at, _)| {
        let before = text.get(..at).and_then(|t| t.chars().next_back());
        let after = text.get(at + word.len()..).and_then(|t| t.chars().next());
        !word.is_empty() && !before.is_some_and(part) && !after.is_some_and(part)
    })
}

/// The version of what digests are made of: another one makes every pipeline look changed.
const DIGEST: &str = "definition v1";

/// What the pipeline does, wherever in its file it is written, as canonical JSON. How fast it runs is no part of it.
fn digest(pipeline: &Pipeline, places: &Places<'_>) -> Result<String> {
    let mut connections: BTreeSet<String> = Reads::of(pipeline).connections;
    connections.insert(pipeline.sink.connection.clone());
    if let StateSpec::Elsewhere { connection, .. } = &pipeline.state {
        connections.insert(connection.clone());
    }
    let places: Vec<Value> = connections.iter().map(|name| places.describe(name)).collect();
    let part = |made: serde_json::Result<Value>| {
        made.map_err(|e| {
            Error::internal(format!("a definition cannot be digested: {e}")).with("pipeline", &pipeline.name)
        })
    };
    let mut source = part(serde_json::to_value(&pipeline.source))?;
    if let (SourceQuery::Sql { sql }, Some(text)) = (&pipeline.source.query, source.pointer_mut("/query/Sql/sql")) {
        *text = words(sql).into();
    }
    let document = json!({
        "made_of": DIGEST,
        "name": pipeline.name,
        "source": source,
        "sink": part(serde_json::to_value(&pipeline.sink))?,
        "strategy": part(serde_json::to_value(&pipeline.strategy))?,
        "guards": part(serde_json::to_value(&pipeline.guards))?,
        "evolution": part(serde_json::to_value(&pipeline.evolution))?,
        "lineage": part(serde_json::to_value(pipeline.lineage))?,
        "state": part(serde_json::to_value(&pipeline.state))?,
        "connections": places,
    });
    Ok(hex(&Sha256::digest(canonical(document).to_string().as_bytes())))
}

/// A query without its comments and line breaks. A text that cannot be read as SQL is taken as it is.
fn words(sql: &str) -> String {
    let Ok(tokens) = Tokenizer::new(&GenericDialect {}, sql).tokenize() else { return sql.to_owned() };
    let words = tokens.iter().filter(|token| !matches!(token, Token::Whitespace(_)));
    words.map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// `passing`: the pipelines on the way here; a circle is cut where it closes.
fn whole(nodes: &[Node], at: usize, passing: &mut BTreeSet<usize>) -> String {
    let node = &nodes[at];
    if !node.whole.is_empty() || node.upstream.is_empty() || !passing.insert(at) {
        return if node.whole.is_empty() { node.own.clone() } else { node.whole.clone() };
    }
    let mut made_of = node.own.clone();
    for up in &node.upstream {
        made_of.push_str(&format!("\n{} {}", nodes[*up].name, whole(nodes, *up, passing)));
    }
    passing.remove(&at);
    hex(&Sha256::digest(made_of.as_bytes()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use dpone_planner::definition::load;

    const PROJECT: &str = "
        CREATE CONNECTION files TYPE file OPTIONS ('path' 'data');
        CREATE CONNECTION lake TYPE delta OPTIONS ('path' 'warehouse');
        CREATE PIPELINE report INTO lake.mart.report STRATEGY full_refresh
          AS SELECT r.id FROM lake.mart.totals r;
        CREATE PIPELINE orders INTO lake.landing.orders STRATEGY full_refresh AS SELECT * FROM files.files.orders;
        CREATE PIPELINE customers INTO lake.landing.customers STRATEGY full_refresh AS SELECT * FROM files.files.customers;
        CREATE PIPELINE totals INTO lake.mart.totals STRATEGY full_refresh
          AS SELECT customer AS id, count(*) AS n FROM lake.landing.orders GROUP BY customer;
    ";

    fn graph(text: &str) -> Graph {
        let none = |_: &std::path::Path| -> dpone_planner::Result<String> { Ok(String::new()) };
        let project = load(&[("p.sql".into(), text.to_owned())], &BTreeMap::new(), &none).unwrap();
        Graph::new(&project.pipelines, &project.connections).unwrap()
    }

    fn digests(text: &str) -> BTreeMap<String, String> {
        let graph = graph(text);
        (0..graph.len()).map(|n| (graph.name(n).to_owned(), graph.digest(n).to_owned())).collect()
    }

    fn changed(text: &str) -> Vec<String> {
        let (before, after) = (digests(PROJECT), digests(text));
        after.into_iter().filter(|(name, digest)| before.get(name) != Some(digest)).map(|(name, _)| name).collect()
    }

    #[test]
    fn a_pipeline_changes_with_what_it_reads_from() {
        assert_eq!(changed(PROJECT), [""; 0]);
        assert_eq!(changed(&PROJECT.replace("files.files.customers", "files.files.clients")), ["customers"]);
        assert_eq!(
            changed(&PROJECT.replace("files.files.orders", "files.files.sales")),
            ["orders", "report", "totals"]
        );
        assert_eq!(changed(&PROJECT.replace("count(*)", "count(1)")), ["report", "totals"]);
        assert_eq!(changed(&PROJECT.replace("'data'", "'other'")), ["customers", "orders", "report", "totals"]);
        // Where it is written, what stands around it, and comments in it are nothing; what is in a text is.
        let spaced = "count(*) -- how many\n  /* of a\n customer */ AS n";
        assert_eq!(changed(&PROJECT.replace("count(*) AS n", spaced)), [""; 0]);
        let text = |text: &str| digests(&PROJECT.replace("count(*) AS n", &format!("{text} AS n")));
        assert_ne!(text("'a -- b'")["totals"], text("'a -- c'")["totals"]);
        assert_ne!(text("'a  b'")["totals"], text("'a b'")["totals"]);
        assert_eq!(changed(&format!("-- a comment\n\n{PROJECT}")), [""; 0]);
    }

    /// The digest is kept in ledgers: another one makes every pipeline look changed, so it changes on purpose alone.
    #[test]
    fn a_digest_is_the_same_in_every_build() {
        let graph = graph(PROJECT);
        let orders = graph.definition(graph.find("orders").unwrap()).sha256;
        assert_eq!(orders, "93c1c45adcacdbacfafd130ecf503d7cf19a90d1a18732e5da0b3d6f57e06b46");
    }

    /// Everything that decides what is written is in it, and what only paces it is not.
    #[test]
    fn a_digest_covers_what_a_pipeline_writes() {
        let with = |more: &str| {
            digests(&PROJECT.replacen(
                "lake.landing.orders STRATEGY full_refresh",
                &format!("lake.landing.orders STRATEGY full_refresh {more}"),
                1,
            ))
        };
        let plain = with("");
        for (more, want) in [("OPTIONS ('lineage' 'true')", true), ("OPTIONS ('parallelism' '3')", false)] {
            assert_eq!(with(more)["orders"] != plain["orders"], want, "{more}");
        }
    }

    #[test]
    fn loads_and_transformations_are_told_apart() {
        let graph = graph(PROJECT);
        let step = |name: &str| graph.step(graph.find(name).unwrap());
        assert_eq!([step("orders"), step("customers")], [StepName::Load; 2]);
        assert_eq!([step("totals"), step("report")], [StepName::Transform; 2]);
    }

    #[test]
    fn whatever_is_read_from_comes_first() {
        let graph = graph(PROJECT);
        let all: BTreeSet<usize> = (0..graph.len()).collect();
        let order: Vec<&str> = graph.ordered(&all).into_iter().map(|n| graph.name(n)).collect();
        assert_eq!(order, ["orders", "customers", "totals", "report"]);
        let orders = BTreeSet::from([graph.find("orders").unwrap()]);
        assert_eq!(graph.with_downstream(&orders).len(), 3);
        let report = BTreeSet::from([graph.find("report").unwrap()]);
        assert_eq!(graph.with_upstream(&report).len(), 3);
    }

    #[test]
    fn pipelines_in_a_circle_have_digests_and_an_order() {
        let circle = "
            CREATE CONNECTION lake TYPE delta OPTIONS ('path' 'warehouse');
            CREATE PIPELINE one INTO lake.s.one STRATEGY full_refresh AS SELECT x.id FROM lake.s.two x;
            CREATE PIPELINE two INTO lake.s.two STRATEGY full_refresh AS SELECT x.id FROM lake.s.one x;
        ";
        let graph = graph(circle);
        assert_eq!(graph.ordered(&(0..2).collect()), [0, 1]);
        assert_ne!(graph.digest(0), graph.digest(1));
    }

    #[test]
    fn names_in_a_native_query_are_whole_words() {
        assert!(has_word("select * from s.Orders o", "orders"));
        assert!(has_word(r#"select * from "s"."orders""#, "orders"));
        assert!(!has_word("select * from s.orders_old", "orders"));
        assert!(!has_word("select 1", ""));
    }
}
