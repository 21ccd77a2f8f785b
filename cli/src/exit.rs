//! How a command ended: one table of exit codes for all of them.

use std::process::ExitCode;

use dpone_engine::{Error, ErrorKind};

/// The exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0
    Done,
    /// 1: failed, or checked and found wanting. With `--format json` the document carries the error's kind.
    Failed,
    /// 2: wrong use, a definition that does not hold, or input that cannot be read.
    Usage,
    /// 3: a bug of ours.
    Bug,
    /// 130: stopped by the user.
    Interrupted,
}

impl Exit {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Bug => 3,
            Self::Interrupted => 130,
        }
    }

    pub(crate) fn of(error: &Error) -> Self {
        match error.kind() {
            ErrorKind::Configuration => Self::Usage,
            ErrorKind::Internal => Self::Bug,
            ErrorKind::Interrupted => Self::Interrupted,
            _ => Self::Failed,
        }
    }

    /// The code of several outcomes. A bug outranks an interruption, and that outranks the rest; failures of different
    /// sorts are a plain failure.
    pub(crate) fn of_all<'a>(errors: impl IntoIterator<Item = &'a Error>) -> Self {
        errors.into_iter().map(Self::of).fold(Self::Done, |all, one| match (all, one) {
            (Self::Done, one) => one,
            (Self::Bug, _) | (_, Self::Bug) => Self::Bug,
            (Self::Interrupted, _) | (_, Self::Interrupted) => Self::Interrupted,
            (Self::Usage, Self::Usage) => Self::Usage,
            _ => Self::Failed,
        })
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_failures_have_one_code() {
        let code = |kinds: &[ErrorKind]| {
            let errors: Vec<_> = kinds.iter().map(|kind| Error::new(*kind, "x")).collect();
            Exit::of_all(&errors).code()
        };
        use ErrorKind::*;
        assert_eq!(code(&[]), 0);
        assert_eq!(code(&[Configuration, Configuration]), 2);
        assert_eq!(code(&[Configuration, Transient]), 1);
        assert_eq!(code(&[Transient, Interrupted]), 130);
        assert_eq!(code(&[Interrupted, Internal, Configuration]), 3);
        for kind in [Transient, Authorization, DataQuality, Conflict, Unknown] {
            assert_eq!(code(&[kind]), 1);
        }
    }
}
