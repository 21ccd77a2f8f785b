//! Where state is kept.

use super::Origin;
use super::connection::{Book, Form};
use crate::definition::manifest::{State, StateAtomicity, StateTable, StateType};
use crate::definition::{SinkSpec, StateSpec};
use crate::error::Result;
use crate::relation::Relation;

/// The contract's names for a state table whose schema or name is left out.
const SCHEMA: &str = "etl_state";
const NAME: &str = "dpone_state";

pub(super) fn lower(state: Option<&State>, sink: &SinkSpec, origin: &Origin<'_>, book: &mut Book) -> Result<StateSpec> {
    let Some(state) = state else { return Ok(StateSpec::BesideData) };
    let kind = match (state.reuse, state.kind) {
        (Some(_), _) => {
            if state.connection_type.is_some() || state.connection_id.is_some() || state.connection_ref.is_some() {
                return Err(origin.error("state.reuse", "state.reuse excludes a connection of its own"));
            }
            return Ok(in_sink(state.table.as_ref()));
        }
        (None, Some(StateType::Disabled)) => return disabled(state, origin),
        (None, None) => return Err(origin.missing("state.type", "it says which system keeps the state")),
        (None, Some(kind)) => kind.kind().unwrap_or_default(),
    };
    let form = Form {
        at: "state",
        kind,
        connection_type: state.connection_type,
        id: state.connection_id.as_ref(),
        reference: state.connection_ref.as_deref(),
        vault_path: state.vault_path.as_deref(),
        path: state.path.as_deref(),
    };
    let connection = book.of_manifest(&form, Vec::new(), origin)?;
    if connection == sink.connection {
        return Ok(in_sink(state.table.as_ref()));
    }
    if state.atomicity == Some(StateAtomicity::TargetAtomic) {
        return Err(origin
            .error("state.atomicity", "state in another system cannot be committed in the target's transaction")
            .with_hint("write state: {reuse: sink}, or leave state out: it then lies beside the data"));
    }
    Ok(StateSpec::Elsewhere { connection, relation: state.table.as_ref().map(relation) })
}

/// A disabled state names no place.
fn disabled(state: &State, origin: &Origin<'_>) -> Result<StateSpec> {
    for (key, given) in [
        ("table", state.table.is_some()),
        ("connection_id", state.connection_id.is_some()),
        ("connection_ref", state.connection_ref.is_some()),
    ] {
        if given {
            let key = format!("state.{key}");
            return Err(origin
                .error(&key, format!("{key} has no meaning where state.type is disabled"))
                .with_hint("name the system in state.type, or leave state out"));
        }
    }
    Ok(StateSpec::BesideData)
}

fn in_sink(table: Option<&StateTable>) -> StateSpec {
    match table {
        Some(table) => StateSpec::InSink { relation: relation(table) },
        None => StateSpec::BesideData,
    }
}

fn relation(table: &StateTable) -> Relation {
    let name = table.name.as_deref().or(table.kafka_name.as_deref()).unwrap_or(NAME);
    Relation::new(table.schema.as_deref().unwrap_or(SCHEMA), name)
}
