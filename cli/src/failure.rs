//! Panics: they are bugs of ours, and are told as such, without a stack trace unless one is asked for.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::Write;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::exit::Exit;

/// A task's panic reaches the caller as some error; the flag keeps the truth about it.
static PANICKED: AtomicBool = AtomicBool::new(false);

pub(crate) fn install_hook() {
    std::panic::set_hook(Box::new(|info| {
        PANICKED.store(true, Ordering::SeqCst);
        // Nobody is left to tell when stderr is gone too.
        let _ = std::io::stderr().lock().write_all(describe(info, &Backtrace::capture()).as_bytes());
    }));
}

fn describe(info: &PanicHookInfo<'_>, backtrace: &Backtrace) -> String {
    let place = info.location().map(|l| format!("{}:{}: ", l.file(), l.line())).unwrap_or_default();
    let mut text = format!(
        "error: this is a bug in dpone: {place}{}\n\
         hint: please report it with the command and its definition; RUST_BACKTRACE=1 shows where it came from\n",
        info.payload_as_str().unwrap_or("a panic without a message")
    );
    if backtrace.status() == BacktraceStatus::Captured {
        text.push_str(&format!("{backtrace}\n"));
    }
    text
}

/// Runs the command. A panic here, or a failure after a panic in some thread, is a bug.
pub(crate) fn guard(command: impl FnOnce() -> Exit) -> Exit {
    let exit = catch_unwind(AssertUnwindSafe(command)).unwrap_or(Exit::Bug);
    if exit != Exit::Done && PANICKED.load(Ordering::SeqCst) { Exit::Bug } else { exit }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]
    use super::*;

    #[test]
    fn a_panic_ends_with_3_wherever_it_happens() {
        install_hook();
        assert_eq!(guard(|| panic!("on the main thread")).code(), 3);
        let in_a_thread = || {
            let _ = std::thread::spawn(|| panic!("in a thread")).join();
            Exit::Failed
        };
        assert_eq!(guard(in_a_thread).code(), 3);
    }
}
