//! The revisions of the schema, and the way from one to another.
//!
//! The ids are those of the original tool's migrations, so a database of it goes on from where it stands. No migration
//! library fits: refinery has no way back, by decision; rusqlite_migration counts in `user_version` and knows nothing of
//! PostgreSQL; and all keep a history of their own, which would contradict the table in which the original keeps its
//! position. What is left to do is small: a list, and a walk along it inside one transaction.

use crate::error::{Error, Result};

/// One state of the schema: how to get here from the one before, and back.
#[derive(Debug, Clone, Copy)]
pub struct Revision {
    pub id: &'static str,
    pub summary: &'static str,
    pub(crate) up: &'static str,
    pub(crate) down: &'static str,
}

/// Where to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Goal {
    Head,
    /// No tables at all.
    Base,
    /// So many revisions up or down.
    Steps(i32),
    /// An id, or the beginning of one.
    Id(String),
}

impl Goal {
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "head" => Ok(Self::Head),
            "base" => Ok(Self::Base),
            _ if text.starts_with(['+', '-']) => text
                .parse()
                .map(Self::Steps)
                .map_err(|_| Error::usage(format!("the revision {text:?} is not a number of revisions"))),
            _ => Ok(Self::Id(text.to_owned())),
        }
    }
}

/// Which way a move may go: an id that lies the other way is a mistake, not a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Up,
    Down,
}

/// The revisions of one kind of database, oldest first. A position counts how many of them are applied.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chain(pub(crate) &'static [Revision]);

impl Chain {
    pub(crate) fn head(self) -> usize {
        self.0.len()
    }

    /// The id at a position; nothing at the base.
    pub(crate) fn id(self, position: usize) -> Option<&'static str> {
        position.checked_sub(1).and_then(|index| self.0.get(index)).map(|revision| revision.id)
    }

    pub(crate) fn position(self, id: &str) -> Option<usize> {
        self.0.iter().position(|revision| revision.id == id).map(|index| index + 1)
    }

    /// The position of an id that a database holds.
    pub(crate) fn recorded(self, id: &str) -> Result<usize> {
        self.position(id).ok_or_else(|| {
            Error::refused(format!("the database is at the schema revision {id}, which this dpo does not know"))
                .with_hint("a newer dpo has been here: use that one, or downgrade with it first")
        })
    }

    /// The position to go to.
    pub(crate) fn resolve(self, direction: Direction, goal: &Goal, from: usize) -> Result<usize> {
        let to = self.find(goal, from)?;
        let (wrong, other) = match direction {
            Direction::Up => (to < from, "downgrade"),
            Direction::Down => (to > from, "upgrade"),
        };
        if wrong {
            let (to, from) = (self.id(to).unwrap_or("base"), self.id(from).unwrap_or("base"));
            return Err(Error::usage(format!("the schema is at {from}, and {to} lies the other way"))
                .with_hint(format!("use {other}")));
        }
        Ok(to)
    }

    fn find(self, goal: &Goal, from: usize) -> Result<usize> {
        match goal {
            Goal::Head => Ok(self.head()),
            Goal::Base => Ok(0),
            Goal::Steps(steps) => from
                .checked_add_signed(*steps as isize)
                .filter(|to| *to <= self.head())
                .ok_or_else(|| Error::usage(format!("there are not {} revisions that way", steps.unsigned_abs()))),
            Goal::Id(id) => {
                let mut found = self.0.iter().filter(|revision| !id.is_empty() && revision.id.starts_with(&**id));
                match (found.next(), found.next()) {
                    (Some(revision), None) => self.recorded(revision.id),
                    (Some(_), Some(_)) => Err(Error::usage(format!("several revisions begin with {id:?}"))),
                    (None, _) => Err(Error::usage(format!("there is no schema revision {id:?}"))
                        .with_hint("dpo <db-connection-string> history lists them")),
                }
            }
        }
    }

    /// What to run, in order, to get from one position to another: statements, and the position after each.
    pub(crate) fn steps(self, from: usize, to: usize) -> Vec<(&'static str, usize)> {
        if from <= to {
            self.0[from..to].iter().zip(from + 1..).map(|(revision, position)| (revision.up, position)).collect()
        } else {
            (to..from).rev().map(|position| (self.0[position].down, position)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const CHAIN: Chain = Chain(&[
        Revision { id: "aa1", summary: "", up: "a", down: "-a" },
        Revision { id: "ab2", summary: "", up: "b", down: "-b" },
        Revision { id: "c3", summary: "", up: "c", down: "-c" },
    ]);

    #[test]
    fn a_goal_is_an_id_a_beginning_or_a_distance() {
        let at = |goal: &str, from| CHAIN.find(&Goal::parse(goal).unwrap(), from);
        assert_eq!(at("head", 0).unwrap(), 3);
        assert_eq!(at("base", 3).unwrap(), 0);
        assert_eq!(at("-1", 3).unwrap(), 2);
        assert_eq!(at("+2", 0).unwrap(), 2);
        assert_eq!(at("ab2", 3).unwrap(), 2);
        assert_eq!(at("c", 0).unwrap(), 3);
        for (goal, from) in [("-2", 1), ("+1", 3), ("a", 0), ("zz", 0), ("", 0)] {
            assert!(at(goal, from).is_err(), "{goal}");
        }
        assert!(Goal::parse("-x").is_err());
    }

    #[test]
    fn a_goal_that_lies_the_other_way_is_refused() {
        let id = Goal::Id("ab2".into());
        assert!(CHAIN.resolve(Direction::Up, &id, 3).is_err());
        assert!(CHAIN.resolve(Direction::Down, &id, 1).is_err());
        assert_eq!(CHAIN.resolve(Direction::Up, &id, 2).unwrap(), 2);
        assert_eq!(CHAIN.resolve(Direction::Down, &id, 3).unwrap(), 2);
    }

    #[test]
    fn the_way_back_is_the_way_there_reversed() {
        assert_eq!(CHAIN.steps(0, 3), [("a", 1), ("b", 2), ("c", 3)]);
        assert_eq!(CHAIN.steps(3, 1), [("-c", 2), ("-b", 1)]);
        assert!(CHAIN.steps(2, 2).is_empty());
        assert_eq!((CHAIN.id(0), CHAIN.id(2)), (None, Some("ab2")));
        assert!(CHAIN.recorded("dead").unwrap_err().to_string().contains("dead"));
    }
}
