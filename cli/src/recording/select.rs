//! `--select` and `--exclude`: pipelines by name, by what they read from, and by what changed since they succeeded.

use std::collections::BTreeSet;

use dpone_engine::{Error, Result};
use dpone_ledger::Successes;
use dpone_planner::definition::{Pipeline, nearest};

use super::Graph;

/// One expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selection {
    /// Changed since the last success, or never succeeded; and all that read from such a pipeline.
    Modified,
    /// Never succeeded.
    New,
    Named {
        name: String,
        upstream: bool,
        downstream: bool,
    },
}

impl Selection {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        match text.split_once(':') {
            Some(("state", "modified")) => return Ok(Self::Modified),
            Some(("state", "new")) => return Ok(Self::New),
            Some(("state", other)) => {
                return Err(format!("state:{other} is not known: expected state:modified or state:new"));
            }
            _ => {}
        }
        let upstream = text.starts_with('+');
        let name = text.strip_prefix('+').unwrap_or(text);
        let downstream = name.ends_with('+');
        let name = name.strip_suffix('+').unwrap_or(name);
        if name.is_empty() {
            return Err("expected state:modified, state:new, or a pipeline's name, as NAME, NAME+ or +NAME".to_owned());
        }
        Ok(Self::Named { name: name.to_owned(), upstream, downstream })
    }

    /// Whether the ledger has to be asked.
    pub(crate) fn needs_state(&self) -> bool {
        matches!(self, Self::Modified | Self::New)
    }

    fn resolve(&self, graph: &Graph, pipelines: &[Pipeline], known: &Successes) -> Result<BTreeSet<usize>> {
        let all = 0..graph.len();
        Ok(match self {
            Self::Modified => {
                let changed = all.filter(|n| known.get(graph.name(*n)).map(String::as_str) != Some(graph.digest(*n)));
                graph.with_downstream(&changed.collect())
            }
            Self::New => all.filter(|n| !known.contains_key(graph.name(*n))).collect(),
            Self::Named { name, upstream, downstream } => {
                let one = BTreeSet::from([find(name, graph, pipelines)?]);
                let mut chosen = one.clone();
                if *upstream {
                    chosen.extend(graph.with_upstream(&one));
                }
                if *downstream {
                    chosen.extend(graph.with_downstream(&one));
                }
                chosen
            }
        })
    }
}

fn find(name: &str, graph: &Graph, pipelines: &[Pipeline]) -> Result<usize> {
    let by_selector = || pipelines.iter().position(|p| p.selector.as_deref() == Some(name));
    graph.find(name).or_else(by_selector).ok_or_else(|| {
        let error = Error::configuration(format!("no pipeline is selected by {name:?}"));
        match nearest(name, pipelines.iter().map(|p| p.name.as_str())) {
            Some(near) => error.with_hint(format!("did you mean {near:?}?")),
            None => error.with_hint("`dpone manifest list` names the pipelines"),
        }
    })
}

/// The pipelines that any of `select` names and none of `exclude`, in the order in which they are to run: what is read from
/// comes first. Without `select`, all.
pub(crate) fn resolve(
    select: &[Selection],
    exclude: &[Selection],
    graph: &Graph,
    pipelines: &[Pipeline],
    known: &Successes,
) -> Result<Vec<usize>> {
    let mut chosen = BTreeSet::new();
    if select.is_empty() {
        chosen.extend(0..graph.len());
    }
    for selection in select {
        chosen.extend(selection.resolve(graph, pipelines, known)?);
    }
    for selection in exclude {
        let out = selection.resolve(graph, pipelines, known)?;
        chosen.retain(|n| !out.contains(n));
    }
    Ok(graph.ordered(&chosen))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_expression_is_a_state_or_a_name() {
        let named = |name: &str, upstream, downstream| {
            Ok::<_, String>(Selection::Named { name: name.to_owned(), upstream, downstream })
        };
        assert_eq!(Selection::parse("state:modified"), Ok(Selection::Modified));
        assert_eq!(Selection::parse("state:new"), Ok(Selection::New));
        assert_eq!(Selection::parse("orders"), named("orders", false, false));
        assert_eq!(Selection::parse("+orders+"), named("orders", true, true));
        assert_eq!(Selection::parse("landing.orders+"), named("landing.orders", false, true));
        for wrong in ["", "+", "++", "state:changed"] {
            assert!(Selection::parse(wrong).is_err(), "{wrong}");
        }
    }
}
