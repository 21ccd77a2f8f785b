//! What a run shows while it goes on: bars on a terminal, and now and then a line where there is none.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use dpone_engine::run::{Observer, Progress, Stage};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::render::units;

static BARS: OnceLock<MultiProgress> = OnceLock::new();

/// How long a run stays silent without a terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Does something that writes to the terminal, with the bars out of the way.
pub(crate) fn aside<T>(work: impl FnOnce() -> T) -> T {
    match BARS.get() {
        Some(bars) => bars.suspend(work),
        None => work(),
    }
}

/// Watches the runs of one command.
#[derive(Debug)]
pub(crate) struct Watcher {
    terminal: bool,
    seen: Mutex<BTreeMap<String, Watched>>,
}

#[derive(Debug)]
struct Watched {
    stage: Stage,
    bar: Option<ProgressBar>,
    began: Instant,
    staging_since: Option<Instant>,
    last_line: Instant,
}

impl Watcher {
    pub(crate) fn new() -> Self {
        let terminal = std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|t| t != "dumb");
        Self { terminal, seen: Mutex::default() }
    }

    /// Takes all bars away, before a receipt is printed: a backfill has one for each of its workers.
    pub(crate) fn finish_all(&self) {
        for bar in self.lock().values_mut().filter_map(|watched| watched.bar.take()) {
            bar.finish_and_clear();
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Watched>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bar(&self, pipeline: &str) -> Option<ProgressBar> {
        if !self.terminal {
            return None;
        }
        let bars = BARS.get_or_init(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10)));
        let bar = bars.add(ProgressBar::new_spinner());
        bar.set_prefix(pipeline.to_owned());
        bar.set_style(spinner());
        bar.enable_steady_tick(Duration::from_millis(120));
        Some(bar)
    }
}

impl Observer for Watcher {
    fn stage(&self, pipeline: &str, stage: Stage) {
        tracing::info!(pipeline, stage = stage.as_str(), "stage");
        let mut seen = self.lock();
        let watched = seen.entry(pipeline.to_owned()).or_insert_with(|| Watched {
            stage,
            bar: self.bar(pipeline),
            began: Instant::now(),
            staging_since: None,
            last_line: Instant::now(),
        });
        watched.stage = stage;
        watched.staging_since = (stage == Stage::Stage).then(Instant::now).or(watched.staging_since);
        if let Some(bar) = &watched.bar {
            if stage != Stage::Stage {
                bar.set_style(spinner());
            }
            bar.set_message(doing(stage));
        }
    }

    fn progress(&self, pipeline: &str, progress: Progress) {
        let mut seen = self.lock();
        let Some(watched) = seen.get_mut(pipeline) else { return };
        let since = watched.staging_since.unwrap_or(watched.began);
        let text = describe(&progress, since.elapsed());
        match &watched.bar {
            Some(bar) => {
                if let Some(expected) = progress.rows_expected.filter(|n| *n > 0) {
                    // An estimate may be too low: the bar never runs past its end.
                    bar.set_length(expected.max(progress.rows));
                    bar.set_position(progress.rows);
                    bar.set_style(measured());
                }
                bar.set_message(format!("{}  {text}", doing(watched.stage)));
            }
            None if watched.last_line.elapsed() >= LINE_EVERY => {
                watched.last_line = Instant::now();
                line(&format!("{pipeline}: {}  {text}", doing(watched.stage)));
            }
            None => {}
        }
    }

    fn note(&self, pipeline: &str, text: &str) {
        tracing::info!(pipeline, "{text}");
        aside(|| line(&format!("note: {pipeline}: {text}")));
    }
}

fn line(text: &str) {
    // A closed stderr must not stop a run.
    let _ = std::io::stderr().lock().write_all(format!("{text}\n").as_bytes());
}

fn doing(stage: Stage) -> &'static str {
    match stage {
        Stage::Lease => "taking the lease",
        Stage::Describe => "looking at source and target",
        Stage::Plan => "planning",
        Stage::Stage => "staging",
        Stage::Verify => "verifying",
        Stage::Commit => "committing",
        Stage::Discard => "cleaning up",
    }
}

/// `120,000 rows  14.2 MB  48,000 rows/s  4/9 partitions`
fn describe(progress: &Progress, elapsed: Duration) -> String {
    let mut text = format!("{} rows  {}", units::count(progress.rows), units::bytes(progress.bytes));
    if let Some(rate) = units::rate(progress.rows, elapsed.as_secs_f64()) {
        text.push_str(&format!("  {rate}"));
    }
    if progress.partitions > 1 {
        text.push_str(&format!("  {}/{} partitions", progress.partitions_done, progress.partitions));
    }
    text
}

fn spinner() -> ProgressStyle {
    template("{spinner} {prefix}  {msg}  {elapsed}")
}

fn measured() -> ProgressStyle {
    template("{spinner} {prefix}  [{bar:24}]  {msg}  {elapsed}").progress_chars("=> ")
}

fn template(text: &str) -> ProgressStyle {
    ProgressStyle::with_template(text).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_tells_rows_bytes_rate_and_partitions() {
        let progress =
            Progress { rows: 120_000, bytes: 14_200_000, rows_expected: None, partitions_done: 4, partitions: 9 };
        assert_eq!(
            describe(&progress, Duration::from_millis(2500)),
            "120,000 rows  14.2 MB  48,000 rows/s  4/9 partitions"
        );
        assert_eq!(describe(&Progress::default(), Duration::ZERO), "0 rows  0 B");
    }
}
