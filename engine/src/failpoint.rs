//! Places at which a test makes a run die, fail or wait.
//!
//! Compiled in only with the `failpoints` feature. `DPONE_FAILPOINT=name=action[,name=action…]`, where the action is
//! `kill` (SIGKILL to this process), `error`, `lost_ack` (the caller drops the answer) or `sleep:MILLISECONDS`.
//! `name@3=kill` acts when the place is reached for the third time: the loads of a backfill pass it one after the other.

use crate::Result;

/// What a failpoint asks of its place, beyond dying, failing and waiting, which it does itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    GoOn,
    /// Behave as if the answer to what was just done had not arrived.
    LostAck,
}

/// The failpoints of the commit protocol, in order. Connectors add none of their own; they place these.
pub const STEPS: &[&str] = &[
    "lease.acquired",
    // Only in runs that change the target's columns: before the first change is committed, and after the last one.
    "evolve.begun",
    "evolve.applied",
    "staging.prepared",
    "stage.partition.started",
    "stage.partition.batch",
    "stage.partition.done",
    "staged",
    "verified",
    "commit.begun",
    // Only in sinks whose commit takes several statements: when they are written down, after each of them, and between
    // the receipt and the state.
    "commit.planned",
    "commit.step",
    "commit.recorded",
    "commit.applied",
    "commit.acknowledged",
    "committed",
    "discarded",
    // Around the protocol, for each chunk of a backfill.
    "backfill.claimed",
    "backfill.committed",
    "backfill.recorded",
    // In the phases of an expand-contract migration.
    "migrate.expand.begun",
    "migrate.expand.applied",
    "migrate.backfill.batch",
    "migrate.validate.counted",
    "migrate.contract.prepared",
    "migrate.contract.swapped",
    "migrate.contract.dropped",
];

#[cfg(not(feature = "failpoints"))]
#[inline]
pub async fn reach(_: &str) -> Result<Reached> {
    Ok(Reached::GoOn)
}

#[cfg(feature = "failpoints")]
pub async fn reach(name: &str) -> Result<Reached> {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    struct Action {
        name: String,
        /// Zero: every time.
        time: u64,
        reached: AtomicU64,
        action: String,
    }
    static ACTIONS: OnceLock<Vec<Action>> = OnceLock::new();
    let actions = ACTIONS.get_or_init(|| {
        let text = std::env::var("DPONE_FAILPOINT").unwrap_or_default();
        let parsed = text.split(',').filter_map(|p| p.split_once('=')).map(|(place, action)| {
            let (name, time) = place.trim().split_once('@').unwrap_or((place.trim(), "0"));
            let time = time.parse().unwrap_or(0);
            Action { name: name.to_owned(), time, reached: AtomicU64::new(0), action: action.trim().to_owned() }
        });
        parsed.collect()
    });
    debug_assert!(STEPS.contains(&name), "failpoint {name} is not listed");
    let due = |a: &&Action| a.name == name && (a.reached.fetch_add(1, Ordering::SeqCst) + 1 == a.time || a.time == 0);
    match actions.iter().find(due).map(|a| a.action.as_str()) {
        None => {}
        Some("kill") => {
            let _ = std::process::Command::new("kill").args(["-9", &std::process::id().to_string()]).status();
            // The signal is on its way: do nothing more.
            std::future::pending::<()>().await;
        }
        Some("error") => return Err(crate::Error::transient(format!("failpoint {name}"))),
        Some("lost_ack") => return Ok(Reached::LostAck),
        Some(action) => {
            if let Some(ms) = action.strip_prefix("sleep:").and_then(|ms| ms.parse().ok()) {
                tokio::time::sleep(std::time::Duration::from_millis(ms)).await;
            }
        }
    }
    Ok(Reached::GoOn)
}
