//! What differs between the models of two steps.

use std::collections::BTreeMap;

/// Checksum by model name.
pub(crate) type Checksums = BTreeMap<String, String>;

/// The names of the models that were changed, added or removed, in the order of their bytes.
pub fn changed_models(before: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> Vec<String> {
    let gone = before.keys().filter(|name| !now.contains_key(*name));
    let new_or_other = now.iter().filter(|(name, sum)| before.get(*name) != Some(*sum)).map(|(name, _)| name);
    let mut names: Vec<String> = gone.chain(new_or_other).cloned().collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn models(pairs: &[(&str, &str)]) -> Checksums {
        pairs.iter().map(|(name, sum)| (name.to_string(), sum.to_string())).collect()
    }

    #[test]
    fn changed_added_and_removed_models_are_named_in_order() {
        let before = models(&[("same", "1"), ("changed", "1"), ("removed", "1")]);
        let now = models(&[("same", "1"), ("changed", "2"), ("added", "1")]);
        assert_eq!(changed_models(&before, &now), ["added", "changed", "removed"]);
        assert!(changed_models(&now, &now).is_empty());
        assert_eq!(changed_models(&models(&[]), &now), ["added", "changed", "same"]);
    }
}
