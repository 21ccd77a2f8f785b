//! `Append`: the staged rows are added.

use dpone_engine::Result;

use super::commit::{Applied, Apply};

/// Takes no lock beyond that of any INSERT.
pub(super) async fn apply(apply: &Apply<'_>) -> Result<Applied> {
    let inserted = apply.client.execute(&apply.insert_select(), &[]).await?;
    Ok(Applied { inserted, ..Applied::default() })
}
