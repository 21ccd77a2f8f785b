//! How fast chunks follow each other: what spares the source.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use dpone_planner::definition::Throttle;
use tokio_util::sync::CancellationToken;

/// Shared by the workers of a process.
#[derive(Debug)]
pub(super) struct Pace {
    throttle: Throttle,
    /// When the rows that were read so far are paid for.
    free_at: Mutex<Instant>,
}

impl Pace {
    pub(super) fn new(throttle: Throttle) -> Self {
        Self { throttle, free_at: Mutex::new(Instant::now()) }
    }

    /// Waits until a worker that loaded `rows` in `loading` may go on. A cancellation ends the wait.
    pub(super) async fn after(&self, rows: u64, loading: Duration, cancel: &CancellationToken) {
        let wait = self.pause(rows, loading, Instant::now());
        if wait.is_zero() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = cancel.cancelled() => {}
        }
    }

    fn pause(&self, rows: u64, loading: Duration, now: Instant) -> Duration {
        let mut wait = self.throttle.pause.unwrap_or_default();
        if let Some(part) = self.throttle.duty_cycle {
            wait += seconds(loading.as_secs_f64() * (1.0 - part) / part);
        }
        if let Some(most) = self.throttle.max_rows_per_second {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            // Time in which nothing was read is not saved up.
            let began = now.checked_sub(loading).unwrap_or(now);
            *free_at = (*free_at).max(began) + seconds(rows as f64 / most);
            wait = wait.max(free_at.saturating_duration_since(now));
        }
        wait
    }

    /// For plans; `None`: chunks follow each other at once.
    pub(super) fn describe(throttle: &Throttle) -> Option<String> {
        let mut parts = Vec::new();
        if let Some(pause) = throttle.pause {
            parts.push(format!("{} s of pause after each chunk", pause.as_secs_f64()));
        }
        if let Some(part) = throttle.duty_cycle {
            parts.push(format!("a worker loads {:.0} % of the time", part * 100.0));
        }
        if let Some(most) = throttle.max_rows_per_second {
            parts.push(format!("at most {most} rows/s over chunks, all workers of a process together"));
        }
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}

/// At most a day: no pause is longer.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.min(86_400.0)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_follow_the_throttle() {
        let (now, second) = (Instant::now() + Duration::from_secs(100), Duration::from_secs(1));
        let pause = |throttle: Throttle| Pace::new(throttle).pause(500, second, now);
        assert_eq!(pause(Throttle::default()), Duration::ZERO);
        assert_eq!(pause(Throttle { pause: Some(second * 3), ..Throttle::default() }), second * 3);
        assert_eq!(pause(Throttle { duty_cycle: Some(0.25), ..Throttle::default() }), second * 3);
        // 500 rows in one second, at 100 a second: four seconds are owed.
        let limited = Pace::new(Throttle { max_rows_per_second: Some(100.0), ..Throttle::default() });
        assert_eq!(limited.pause(500, second, now), second * 4);
        // The next worker pays for its own rows after that.
        assert_eq!(limited.pause(500, second, now), second * 9);
        assert_eq!(limited.pause(0, second, now + second * 60), Duration::ZERO);
    }
}
