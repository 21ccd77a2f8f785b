//! What an execution and its steps may do, the same on every database.

use uuid::Uuid;

use crate::error::{Error, Result};

pub(crate) const IN_PROGRESS: &str = "IN_PROGRESS";
pub(crate) const COMPLETED: &str = "COMPLETED";

/// How far an execution or a step is.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) status: String,
    /// ISO 8601, UTC.
    pub(crate) completed_on: Option<String>,
}

impl State {
    pub(crate) fn is_completed(&self) -> bool {
        self.status == COMPLETED
    }

    /// Before a completion: it counts once, because others take their bearings from its time.
    pub(crate) fn check_open(&self, what: &str, id: Uuid) -> Result<()> {
        if self.is_completed() {
            return Err(Error::refused(format!("the {what} {id} was completed already{}", self.since())));
        }
        Ok(())
    }

    /// Before a step of this execution is begun or completed.
    pub(crate) fn check_steps_open(&self, execution: Uuid) -> Result<()> {
        if self.is_completed() {
            return Err(Error::refused(format!(
                "the execution {execution} was completed{}: its steps do not change any more",
                self.since()
            ))
            .with_hint("begin another with init-execution"));
        }
        Ok(())
    }

    /// When this execution was completed.
    pub(crate) fn completion(self, execution: Uuid) -> Result<String> {
        match self.completed_on {
            Some(time) if self.status == COMPLETED => Ok(time),
            _ => Err(Error::refused(format!("the execution {execution} is not completed: it is {}", self.status))),
        }
    }

    fn since(&self) -> String {
        self.completed_on.as_ref().map(|time| format!(" at {time}")).unwrap_or_default()
    }
}

pub(crate) fn unknown_execution(id: Uuid) -> Error {
    Error::refused(format!("there is no execution {id}")).with_hint("init-execution prints the id to use")
}

pub(crate) fn unknown_step(id: Uuid) -> Error {
    Error::refused(format!("there is no step {id}")).with_hint("init-step prints the id to use")
}

pub(crate) fn id_in_use(id: Uuid) -> Error {
    Error::refused(format!("the execution id {id} is already in use")).with_hint("leave the id out to get a new one")
}
