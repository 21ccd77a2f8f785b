//! Stdout: data, and nothing else.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use dpone_engine::{Error, Result};

static CLOSED: AtomicBool = AtomicBool::new(false);

/// Whether the reader of stdout is gone, as after `| head`.
pub(crate) fn is_closed() -> bool {
    CLOSED.load(Ordering::Relaxed)
}

/// Stdout whose reader may leave early. What is written after that is dropped without an error, because a run must
/// finish whether or not somebody reads its receipt; a query looks at [`is_closed`] and stops.
#[derive(Debug, Default)]
pub(crate) struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if is_closed() {
            return Ok(bytes.len());
        }
        forgive(io::stdout().lock().write(bytes), bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if is_closed() {
            return Ok(());
        }
        forgive(io::stdout().lock().flush(), ())
    }
}

fn forgive<T>(outcome: io::Result<T>, otherwise: T) -> io::Result<T> {
    match outcome {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
            CLOSED.store(true, Ordering::Relaxed);
            Ok(otherwise)
        }
        other => other,
    }
}

/// Prints a text that ends with a newline.
pub(crate) fn print(text: &str) -> Result<()> {
    crate::progress::aside(|| {
        Stdout.write_all(text.as_bytes())?;
        if !text.ends_with('\n') {
            Stdout.write_all(b"\n")?;
        }
        Stdout.flush()
    })
    .map_err(unwritable)
}

/// Prints one JSON document.
pub(crate) fn print_json(value: &serde_json::Value) -> Result<()> {
    print(&format!("{value:#}"))
}

pub(crate) fn unwritable(error: io::Error) -> Error {
    Error::unknown(format!("cannot write the output: {error}")).with_source(error)
}
