//! Ctrl-C and SIGTERM: the first asks the run to stop and clean up, the second ends the process.

use std::io::Write;

use dpone_engine::{Error, ErrorKind, Result};
use tokio_util::sync::CancellationToken;

/// Cancels the token that it returns when the user, or a scheduler, asks to stop.
pub(crate) fn token() -> CancellationToken {
    let token = CancellationToken::new();
    let cancel = token.clone();
    tokio::spawn(async move {
        wanted().await;
        cancel.cancel();
        tell("stopping (Ctrl-C again ends at once)\n");
        wanted().await;
        std::process::exit(130);
    });
    token
}

/// Runs something that may simply be dropped, such as a read, until it ends or the user asks to stop.
pub(crate) async fn abort_on<T>(token: &CancellationToken, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        outcome = work => outcome,
        () = token.cancelled() => Err(Error::new(ErrorKind::Interrupted, "stopped")),
    }
}

#[cfg(unix)]
async fn wanted() {
    use tokio::signal::unix::{SignalKind, signal};
    // Without a handler the signal keeps its default effect, which ends the process: the right thing as well.
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

#[cfg(not(unix))]
async fn wanted() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn tell(text: &str) {
    crate::progress::aside(|| {
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    });
}
