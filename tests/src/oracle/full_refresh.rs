//! `full_refresh`: the target becomes exactly what the source gives.

use super::{After, Before, Counts, Refusal};

#[derive(Debug, Clone)]
pub struct FullRefresh {
    pub overwrite_type: &'static str,
    pub allow_empty_source: bool,
}

impl FullRefresh {
    pub(super) fn load(&self, before: &Before<'_>) -> Result<After, Refusal> {
        if before.source.is_empty() && !before.target.is_empty() && !self.allow_empty_source {
            return Err(Refusal::data_quality(["the source gave no row".to_owned()]));
        }
        let target: Vec<_> = before.source.iter().map(|row| before.shape.stored(row)).collect();
        let counts = Counts { inserted: target.len() as u64, deleted: before.target.len() as u64, ..Counts::default() };
        Ok(After { read: Some(before.source.len()), target, counts, watermark: None })
    }
}
