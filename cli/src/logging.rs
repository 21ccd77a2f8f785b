//! Logs: to stderr, as text or as JSON, never mixed into a progress bar.

use std::io::{self, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::args::{Global, LogFormat};
use crate::style::Style;

/// `-v` shows what dpone does, `-vv` in detail; RUST_LOG overrides both.
pub(crate) fn install(global: &Global, style: Style) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        // A target that begins so is meant: those of all of dpone's crates.
        EnvFilter::new(match global.verbose {
            // What the Delta library reports comes back as an error of ours.
            0 => "error,buoyant_kernel=off,buoyant_kernel_engine=off",
            1 => "warn,dpone=info",
            2 => "info,dpone=debug",
            _ => "debug",
        })
    });
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(Stderr).with_ansi(style.is_on());
    // Already set in a test process: the first one stays.
    let _ = match global.log_format {
        LogFormat::Text => builder.with_target(global.verbose > 1).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}

struct Stderr;

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = Line;

    fn make_writer(&'a self) -> Self::Writer {
        Line
    }
}

/// One line of a log, which lifts the progress bars for a moment.
struct Line;

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        crate::progress::aside(|| io::stderr().lock().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
