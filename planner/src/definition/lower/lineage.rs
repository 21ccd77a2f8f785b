//! `lineage`: which columns a load adds to say where its rows come from.

use super::Origin;
use crate::definition::manifest::{Lineage as Spec, LineagePreset, LineageSettings, StrategySpec, TechnicalColumns};
use crate::definition::{CompareBy, Lineage, Strategy};
use crate::error::Result;

const AT: &str = "sink.options.lineage";
const TECHNICAL: &str = "sink.options.technical_columns";

pub(in crate::definition) fn lower(
    spec: Option<&Spec>,
    technical: Option<TechnicalColumns>,
    origin: &Origin<'_>,
) -> Result<Lineage> {
    let lineage = match spec {
        None | Some(Spec::Enabled(false)) => Lineage::default(),
        Some(Spec::Enabled(true)) => preset(LineagePreset::Standard, AT, origin)?,
        Some(Spec::Preset(named)) => preset(*named, AT, origin)?,
        Some(Spec::Settings(settings)) => of_settings(settings, origin)?,
    };
    match (technical, lineage.is_on()) {
        (Some(TechnicalColumns::Required), false) => Err(origin
            .error(TECHNICAL, format!("{} is required, and lineage is off", origin.term(TECHNICAL)))
            .with_hint("set lineage: true, which writes them")),
        (Some(TechnicalColumns::Forbidden), true) => Err(origin
            .error(TECHNICAL, format!("{} is forbidden, and lineage is on", origin.term(TECHNICAL)))
            .with_hint("keep one of them")),
        _ => Ok(lineage),
    }
}

fn of_settings(settings: &LineageSettings, origin: &Origin<'_>) -> Result<Lineage> {
    let at = format!("{AT}.preset");
    let mut lineage = preset(settings.preset.unwrap_or(LineagePreset::Standard), &at, origin)?;
    if settings.enabled == Some(false) || (settings.enabled.is_none() && !lineage.is_on()) {
        return Ok(Lineage::default());
    }
    if let Some(features) = &settings.features {
        lineage.identity = features.identity.unwrap_or(lineage.identity);
        lineage.row_hash = features.row_identity.unwrap_or(lineage.row_hash);
    }
    Ok(lineage)
}

fn preset(preset: LineagePreset, at: &str, origin: &Origin<'_>) -> Result<Lineage> {
    let refused = |name: &str, why: &str| {
        Err(origin
            .error(at, format!("the preset {name} of lineage is known, but not supported by this version: {why}"))
            .with_hint("standard writes the load, its time and the hash of each row"))
    };
    Ok(match preset {
        LineagePreset::Off => Lineage::default(),
        LineagePreset::Minimal | LineagePreset::BulkStandard => Lineage { identity: true, row_hash: false },
        LineagePreset::Standard => Lineage { identity: true, row_hash: true },
        LineagePreset::Debug => return refused("debug", "what a run saw is in its receipt, not in columns"),
        LineagePreset::Hierarchical => {
            return refused("hierarchical", "rows of nested documents are not split into tables");
        }
    })
}

/// A comparison uses the hashes that are stored anyway, unless the definition says otherwise.
pub(in crate::definition) fn stored_hashes(strategy: &mut Strategy, spec: &StrategySpec, lineage: Lineage) {
    let said = spec.diff.as_ref().is_some_and(|diff| diff.store_row_hash.is_some());
    if let Strategy::SnapshotDiff { row_hash, compare: CompareBy::RowHash, .. } = strategy
        && !said
    {
        *row_hash = lineage.row_hash;
    }
}
