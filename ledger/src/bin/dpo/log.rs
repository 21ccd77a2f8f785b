//! Logs: to stderr, in the form and with the level names of Python's logging, as the original tool has them.

use std::fmt;

use chrono::Local;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, layer};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::args::LogLevel;

pub(crate) fn install(level: LogLevel) {
    let level = match level {
        LogLevel::Critical => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warning => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    // What we say ourselves, and nothing of the libraries.
    let ours = Targets::new().with_target("dpone_ledger", level).with_target("dpo", level);
    let stderr = layer().event_format(Line).with_writer(std::io::stderr).with_filter(ours);
    // Set once in a process: this one.
    let _ = tracing_subscriber::registry().with(stderr).try_init();
}

/// `2026-11-22 10:03:47,123 - dpo - INFO - message`
struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let level = match *event.metadata().level() {
            Level::ERROR => "ERROR",
            Level::WARN => "WARNING",
            Level::INFO => "INFO",
            Level::DEBUG | Level::TRACE => "DEBUG",
        };
        write!(writer, "{} - dpo - {level} - ", Local::now().format("%Y-%m-%d %H:%M:%S,%3f"))?;
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}
