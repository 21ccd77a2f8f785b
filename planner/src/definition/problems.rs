//! Several mistakes at once: a user who fixes a definition wants to see them all.

use super::located::Place;
use crate::error::{Error, Location, Result};

const MOST: usize = 12;

#[derive(Debug, Default)]
pub(super) struct Problems(Vec<Problem>);

#[derive(Debug)]
struct Problem {
    location: Option<Location>,
    message: String,
    hint: Option<String>,
}

impl Problems {
    pub(super) fn push(&mut self, at: &Place, message: impl Into<String>, hint: Option<String>) {
        self.0.push(Problem { location: Some(at.location()), message: message.into(), hint });
    }

    /// The value, or `None` with the error kept.
    pub(super) fn keep<T>(&mut self, result: Result<T>) -> Option<T> {
        result
            .map_err(|error| {
                self.0.push(Problem {
                    location: error.location().cloned(),
                    message: error.message().to_owned(),
                    hint: error.hint().map(str::to_owned),
                });
            })
            .ok()
    }

    /// One error for all: the first in full, the others as lines below it, in the order of the file.
    pub(super) fn into_result(mut self) -> Result<()> {
        self.0.sort_by_key(|problem| problem.location.as_ref().map(|at| (at.file.clone(), at.line, at.column)));
        // A mistake in the defaults of a batch is one mistake, however many tables it hits.
        self.0.dedup_by(|a, b| a.location == b.location && a.message == b.message);
        let total = self.0.len();
        let mut problems = self.0.into_iter();
        let Some(first) = problems.next() else { return Ok(()) };
        let mut message = first.message;
        for problem in problems.take(MOST - 1) {
            message.push('\n');
            if let Some(location) = problem.location {
                message.push_str(&format!("{location}: "));
            }
            message.push_str(&problem.message);
            if let Some(hint) = problem.hint {
                message.push_str(&format!(" ({hint})"));
            }
        }
        if total > MOST {
            message.push_str(&format!("\nand {} more", total - MOST));
        }
        let mut error = Error::configuration(message);
        if let Some(location) = first.location {
            error = error.at(location);
        }
        if let Some(hint) = first.hint {
            error = error.with_hint(hint);
        }
        Err(error)
    }
}
