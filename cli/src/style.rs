//! Colours, where they are wanted.

use std::fmt::Display;
use std::io::IsTerminal;

use crate::args::When;

/// Whether text is coloured. NO_COLOR (any value but the empty one) turns `auto` off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Style {
    on: bool,
}

impl Style {
    pub(crate) const PLAIN: Self = Self { on: false };

    pub(crate) fn for_stderr(when: When) -> Self {
        Self::new(when, std::io::stderr().is_terminal())
    }

    pub(crate) fn for_stdout(when: When) -> Self {
        Self::new(when, std::io::stdout().is_terminal())
    }

    fn new(when: When, terminal: bool) -> Self {
        let wanted = || std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        let able = || std::env::var_os("TERM").is_none_or(|v| v != "dumb");
        Self {
            on: match when {
                When::Always => true,
                When::Never => false,
                When::Auto => terminal && wanted() && able(),
            },
        }
    }

    pub(crate) fn is_on(self) -> bool {
        self.on
    }

    pub(crate) fn bold(self, text: impl Display) -> String {
        self.paint("1", text)
    }

    pub(crate) fn dim(self, text: impl Display) -> String {
        self.paint("2", text)
    }

    pub(crate) fn red(self, text: impl Display) -> String {
        self.paint("1;31", text)
    }

    pub(crate) fn green(self, text: impl Display) -> String {
        self.paint("32", text)
    }

    pub(crate) fn yellow(self, text: impl Display) -> String {
        self.paint("33", text)
    }

    fn paint(self, code: &str, text: impl Display) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}
