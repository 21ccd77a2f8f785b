//! How long to wait before a failed attempt is made again. Whether it is made again at all is the error's class: only
//! what is `transient` may go away by itself.

use std::time::Duration;

/// Capped exponential back-off with full jitter: the n-th wait is drawn evenly from nothing up to `base * 2^(n-1)`, and
/// never more than `cap`. Runs that failed together, because one server went away, do not come back together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    pub base: Duration,
    pub cap: Duration,
}

impl Backoff {
    /// The longest that the n-th wait can be; n counts from one.
    pub fn ceiling(&self, retry: u32) -> Duration {
        let factor = 2_u32.saturating_pow(retry.saturating_sub(1).min(31));
        self.base.saturating_mul(factor).min(self.cap)
    }

    /// The n-th wait.
    pub fn wait(&self, retry: u32) -> Duration {
        self.ceiling(retry).mul_f64(chance())
    }
}

/// A number in 0..1, from the random part of a new identifier.
fn chance() -> f64 {
    const BITS: u32 = 53;
    let random = ulid::Ulid::generate().random() & ((1 << BITS) - 1);
    random as f64 / (1_u64 << BITS) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(10) };

    #[test]
    fn the_ceiling_doubles_up_to_the_cap() {
        let seconds: Vec<u64> = (1..=7).map(|n| BACKOFF.ceiling(n).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 10, 10, 10]);
        assert_eq!(BACKOFF.ceiling(u32::MAX), Duration::from_secs(10));
        let huge = Backoff { base: Duration::MAX, cap: Duration::MAX };
        assert_eq!(huge.ceiling(40), Duration::MAX);
    }

    #[test]
    fn waits_are_spread_over_the_whole_range() {
        let waits: Vec<f64> = (0..2000).map(|_| BACKOFF.wait(3).as_secs_f64()).collect();
        assert!(waits.iter().all(|wait| (0.0..4.0).contains(wait)));
        // Each quarter gets a quarter of them: 500, give or take far more than chance would.
        for quarter in 0..4 {
            let n = waits.iter().filter(|wait| (**wait as usize) == quarter).count();
            assert!((350..650).contains(&n), "{n} waits in quarter {quarter}");
        }
    }
}
