//! Identifiers and step names, as people and scripts write them.

use std::fmt;

use uuid::Uuid;

use crate::error::{Error, Result};

/// What the original tool prints where no execution succeeded yet.
const NONE_SUCCESSFUL: &str = "NO_LAST_SUCCESSFUL_EXECUTION";

/// Reads a GUID in any of the forms that PostgreSQL's `uuid` reads. `what` names it in the message.
pub fn parse_id(what: &str, text: &str) -> Result<Uuid> {
    if is_none(text) {
        return Err(Error::refused(format!("the {what} is empty: there is no such execution"))
            .with_hint("get-last-successful-execution prints an empty line until an execution was completed"));
    }
    Uuid::try_parse(text.trim()).map_err(|_| {
        // A connection string in the wrong place is not repeated.
        let shown = if text.contains("://") { String::new() } else { format!(" {text:?}") };
        Error::refused(format!("the {what}{shown} is not a GUID"))
            .with_hint("expected the form 6f1d6a0e-3c1b-4a56-9d2e-0f3b7a1c2d4e")
    })
}

/// The same, where nothing means that there is no such execution.
pub fn parse_optional_id(what: &str, text: &str) -> Result<Option<Uuid>> {
    if is_none(text) { Ok(None) } else { parse_id(what, text).map(Some) }
}

fn is_none(text: &str) -> bool {
    let text = text.trim();
    text.is_empty() || text == NONE_SUCCESSFUL
}

/// The steps that an execution can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepName {
    Load,
    Transform,
}

impl StepName {
    pub const ALL: [Self; 2] = [Self::Load, Self::Transform];

    /// As it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Load => "LOAD",
            Self::Transform => "TRANSFORM",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|name| name.as_str().eq_ignore_ascii_case(text))
    }
}

impl fmt::Display for StepName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_form_of_a_guid_is_the_same_id() {
        let id = parse_id("execution id", "6f1d6a0e-3c1b-4a56-9d2e-0f3b7a1c2d4e").unwrap();
        for form in [
            "6F1D6A0E-3C1B-4A56-9D2E-0F3B7A1C2D4E",
            "{6f1d6a0e-3c1b-4a56-9d2e-0f3b7a1c2d4e}",
            "6f1d6a0e3c1b4a569d2e0f3b7a1c2d4e",
            " 6f1d6a0e-3c1b-4a56-9d2e-0f3b7a1c2d4e\n",
        ] {
            assert_eq!(parse_id("execution id", form).unwrap(), id, "{form}");
        }
    }

    #[test]
    fn what_is_no_guid_is_named() {
        let error = parse_id("step id", "6f1d").unwrap_err();
        assert_eq!(error.to_string(), r#"the step id "6f1d" is not a GUID"#);
        assert!(!parse_id("step id", "postgresql://me:hunter2@h/d").unwrap_err().to_string().contains("hunter2"));
        assert!(parse_id("step id", "").unwrap_err().to_string().contains("empty"));
        assert_eq!(parse_optional_id("previous execution id", "").unwrap(), None);
        assert_eq!(parse_optional_id("previous execution id", NONE_SUCCESSFUL).unwrap(), None);
        assert!(parse_optional_id("previous execution id", "x").is_err());
    }
}
