//! Retention: deletes dead letters when they have reached their maximum age.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::common::clock::Clock;
use crate::common::http::root_cause;
use crate::common::metrics::Metrics;
use crate::common::task;
use crate::queue::QueueError;
use crate::queue::dead::{DeadFilter, DeadLetters, MAX_BATCH};

/// Minimum and maximum pause between two passes. Within these bounds, the pause is a hundredth of the maximum age.
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(3600);

/// Name of the passes in logs and in the metric of panics.
const RETENTION_TASK: &str = "retention";

/// Worker that deletes old dead letters in regular passes.
pub struct Retention {
    /// Dead letters of the queue.
    pub dead_letters: Arc<dyn DeadLetters>,
    /// Age at which a dead letter is deleted.
    pub max_age: Duration,
    /// Counter of deleted dead letters.
    pub metrics: Arc<Metrics>,
    /// Clock for the ages.
    pub clock: Clock,
}

/// Failure of a pass.
#[derive(Debug, thiserror::Error)]
enum PassError {
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The pass panicked. The panic has been reported.
    #[error("the retention pass panicked")]
    Panicked,
}

impl Retention {
    /// Deletes old dead letters now, and again after each pause until `stop` is cancelled.
    ///
    /// A pass that fails or panics is repeated after the pause.
    pub async fn run(self, stop: CancellationToken) {
        let retention = Arc::new(self);
        let pause = Duration::from_secs(retention.max_age.as_secs() / 100).clamp(MIN_PAUSE, MAX_PAUSE);
        let mut has_failed = false;
        loop {
            let pass = Arc::clone(&retention).supervised_pass();
            let Some(result) = stop.run_until_cancelled(pass).await else { return };
            if let Err(error) = &result
                && !has_failed
            {
                // Logged once per outage, because other users of the queue log the same outage.
                tracing::warn!(error = %root_cause(error), "can't delete old dead letters; trying again");
            }
            has_failed = result.is_err();
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// Runs one pass in a task of its own, so that a panic ends only this pass. Dropping the future aborts the pass.
    async fn supervised_pass(self: Arc<Self>) -> Result<(), PassError> {
        let pass = task::spawn(RETENTION_TASK, async move { self.purge().await });
        AbortOnDropHandle::new(pass).await.map_err(|_| PassError::Panicked)?.map_err(PassError::from)
    }

    /// Deletes, in batches, all dead letters that are too old now.
    async fn purge(&self) -> Result<(), QueueError> {
        let Some(until) = self.oldest_kept() else { return Ok(()) };
        let filter = DeadFilter { until: Some(until), ..DeadFilter::default() };
        let mut total = 0_u64;
        let result = loop {
            match self.dead_letters.purge(&filter, MAX_BATCH).await {
                Err(error) => break Err(error),
                Ok(0) => break Ok(()),
                Ok(purged) => {
                    total = total.saturating_add(purged);
                    self.metrics.purged.inc_by(purged);
                }
            }
        };
        if total > 0 {
            tracing::info!(purged = total, "deleted old dead letters; see --dead-letter-retention");
        }
        result
    }

    /// Returns the time of death before which dead letters are deleted. `None` if it is too early for a timestamp, so
    /// that all are kept.
    fn oldest_kept(&self) -> Option<Timestamp> {
        let max_age = SignedDuration::try_from(self.max_age).ok()?;
        self.clock.now().checked_sub(max_age).ok()
    }
}
