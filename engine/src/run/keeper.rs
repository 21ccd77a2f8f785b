//! Keeps a run's lease while it works.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::prepare::Ends;
use crate::{Error, Lease};

/// Host and process, for the message that a second run gets.
pub(crate) fn holder() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    format!("{} (process {})", if host.is_empty() { "unknown host" } else { host }, std::process::id())
}

/// Renews the lease in the background; cancels `lost` when it was taken over.
pub(super) struct LeaseKeeper {
    pub(super) lost: CancellationToken,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Option<Error>>,
}

impl LeaseKeeper {
    pub(super) fn start(ends: &Ends, lease: &Lease, lost: CancellationToken) -> Self {
        let stop = CancellationToken::new();
        let (store, lease, cancel, stopped) = (Arc::clone(&ends.store), lease.clone(), lost.clone(), stop.clone());
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = stopped.cancelled() => return None,
                    () = tokio::time::sleep(lease.ttl / 3) => {}
                }
                match store.renew(&lease).await {
                    Ok(()) => {}
                    // The next renewal may get through; the fencing token protects the commit if none does.
                    Err(error) if error.is_transient() => tracing::warn!(%error, "the lease could not be renewed"),
                    Err(error) => {
                        cancel.cancel();
                        return Some(error);
                    }
                }
            }
        });
        Self { lost, stop, task }
    }

    pub(super) async fn stop(self) -> Option<Error> {
        self.stop.cancel();
        self.task.await.ok().flatten()
    }
}
