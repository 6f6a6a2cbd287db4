//! The deadline for a change that Kafka completes in the background.

use std::time::Duration;

use tokio::time::Instant;

use super::error::AdminError;

/// Delay between two checks. Kafka takes some tenths of a second to create or delete a topic.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Maximum time to wait, counted from its creation.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    timeout: Duration,
    started: Instant,
}

impl Deadline {
    /// Creates a deadline that is over after `timeout`.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, started: Instant::now() }
    }

    /// Waits until the next check. `what` names the change.
    ///
    /// # Errors
    /// [`AdminError::NotReady`] if the deadline is over.
    pub async fn pause(&self, what: impl FnOnce() -> String) -> Result<(), AdminError> {
        if self.started.elapsed() >= self.timeout {
            return Err(AdminError::NotReady { what: what(), waited: self.timeout });
        }
        tokio::time::sleep(CHECK_INTERVAL).await;
        Ok(())
    }
}
