//! `full_refresh`: the target becomes exactly what the source gives.

use super::{Draft, Observed, carried_key, output_names};
use crate::definition::{EmptySource, OverwriteType, Pipeline};
use crate::error::Result;
use crate::plan::{Checks, WriteMode};

pub(super) fn draft(pipeline: &Pipeline, observed: &Observed<'_>, overwrite: OverwriteType) -> Result<Draft> {
    output_names(&observed.source)?;
    Ok(Draft {
        plan: observed.source.clone(),
        write_mode: WriteMode::Overwrite { overwrite },
        cursor: None,
        checks: Checks { fail_on_empty: pipeline.guards.empty_source == EmptySource::Fail, ..Checks::default() },
        primary_key: carried_key(observed),
        own: Vec::new(),
        notes: Vec::new(),
    })
}
