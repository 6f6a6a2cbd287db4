//! Shutdown: the first SIGTERM or SIGINT starts a drain, the second ends the process at once.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::task;

/// A signal ended the command before it was done.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// The two tokens by which a process stops.
#[derive(Debug, Clone)]
pub struct Shutdown {
    /// Cancelled by the first signal. The process stops accepting work and drains.
    pub drain: CancellationToken,
    /// Cancelled by the second signal. The process ends at once.
    pub abort: CancellationToken,
}

impl Shutdown {
    /// Makes tokens that only their owner cancels.
    #[must_use]
    pub fn manual() -> Self {
        Self { drain: CancellationToken::new(), abort: CancellationToken::new() }
    }

    /// Makes tokens that SIGTERM and SIGINT cancel.
    ///
    /// # Errors
    /// The signal handlers can't be installed.
    pub fn on_signals() -> io::Result<Self> {
        let shutdown = Self::manual();
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let tokens = shutdown.clone();
        task::spawn("signals", async move {
            either(&mut terminate, &mut interrupt).await;
            tracing::info!("stopping; a second signal ends the process at once");
            tokens.drain.cancel();
            either(&mut terminate, &mut interrupt).await;
            tokens.abort.cancel();
        });
        Ok(shutdown)
    }
}

/// Waits for either signal.
async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
