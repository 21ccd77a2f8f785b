//! The class of an error by its system's own code: one table a connector, which decides, and which the reference page of
//! error classes is written from.

use crate::ErrorKind;

/// How a system's codes are read. A connector registers its own with
/// [`Connector::errors`](crate::Connector::errors), and classifies every error of the system by it.
#[derive(Debug)]
pub struct ErrorClassifier {
    /// The canonical name of the connector.
    pub system: &'static str,
    /// What its codes are, such as SQLSTATE.
    pub codes: &'static str,
    pub rules: &'static [ErrorRule],
    /// The class of a code that no rule names.
    pub otherwise: ErrorKind,
}

/// Codes with one class, and what they mean.
#[derive(Debug)]
pub struct ErrorRule {
    /// Whole codes, or their beginning and `*`. Of several that fit the longest counts, so that a rule for one code wins over
    /// that for its class wherever it stands.
    pub codes: &'static [&'static str],
    pub class: ErrorKind,
    /// For people, as the end of a sentence that begins with the codes.
    pub means: &'static str,
}

impl ErrorClassifier {
    pub fn classify(&self, code: &str) -> ErrorKind {
        let fits = |pattern: &&'static str| match pattern.strip_suffix('*') {
            Some(beginning) => code.starts_with(beginning),
            None => code == *pattern,
        };
        let best = |rule: &'static ErrorRule| Some((rule.codes.iter().copied().filter(fits).map(weight).max()?, rule));
        self.rules
            .iter()
            .filter_map(best)
            .max_by_key(|(weight, _)| *weight)
            .map_or(self.otherwise, |(_, rule)| rule.class)
    }
}

/// A whole code weighs more than any beginning of it.
fn weight(pattern: &str) -> usize {
    if pattern.ends_with('*') { pattern.len() } else { pattern.len() + 2 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: ErrorClassifier = ErrorClassifier {
        system: "s",
        codes: "codes",
        rules: &[
            ErrorRule { codes: &["08*", "57*"], class: ErrorKind::Transient, means: "" },
            ErrorRule { codes: &["57P04", "5"], class: ErrorKind::Configuration, means: "" },
            ErrorRule { codes: &["57P0*"], class: ErrorKind::Conflict, means: "" },
        ],
        otherwise: ErrorKind::Unknown,
    };

    #[test]
    fn the_longest_rule_that_fits_decides() {
        for (code, want) in [
            ("08006", ErrorKind::Transient),
            ("57014", ErrorKind::Transient),
            ("57P01", ErrorKind::Conflict),
            ("57P04", ErrorKind::Configuration),
            ("5", ErrorKind::Configuration),
            ("55", ErrorKind::Unknown),
            ("", ErrorKind::Unknown),
        ] {
            assert_eq!(TABLE.classify(code), want, "{code}");
        }
    }
}
