//! Shutdown: the first SIGTERM or SIGINT asks for a drain, the second ends at once.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A signal ended it before it was done.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// The two tokens of a process that stops in order.
#[derive(Debug, Clone)]
pub struct Shutdown {
    /// Cancelled by the first signal: stop accepting, drain.
    pub drain: CancellationToken,
    /// Cancelled by the second: end at once.
    pub abort: CancellationToken,
}

impl Shutdown {
    /// Tokens that nothing cancels but their owner.
    #[must_use]
    pub fn manual() -> Self {
        Self { drain: CancellationToken::new(), abort: CancellationToken::new() }
    }

    /// Tokens that SIGTERM and SIGINT cancel.
    ///
    /// # Errors
    /// The signal handlers can't be installed.
    pub fn on_signals() -> io::Result<Self> {
        let shutdown = Self::manual();
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let tokens = shutdown.clone();
        tokio::spawn(async move {
            either(&mut terminate, &mut interrupt).await;
            tracing::info!("stopping; a second signal ends at once");
            tokens.drain.cancel();
            either(&mut terminate, &mut interrupt).await;
            tokens.abort.cancel();
        });
        Ok(shutdown)
    }
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
