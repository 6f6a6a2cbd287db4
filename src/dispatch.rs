//! The dispatcher: claims jobs, delivers them, judges the results and settles the verdicts.
//!
//! No other module claims jobs or makes attempts. The dispatcher takes a permit before it claims a job, and returns the
//! permit after the job is settled. The permits bound the jobs in flight, and a drain ends when all are back.
//!
//! `claim.rs` claims jobs and starts a task for each. This file delivers one job. `settle.rs` settles the verdicts in
//! batches.

mod claim;
mod settle;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Semaphore, mpsc};

use crate::common::attempt::Attempt;
use crate::common::clock::{Clock, after};
use crate::common::crypto::signature::Signer;
use crate::common::http::root_cause;
use crate::common::id::{EndpointId, TenantId};
use crate::common::job::Target;
use crate::common::metrics::Metrics;
use crate::common::retry::{
    DeliveryResult, Failure, JobProgress, Outcome, RetryPolicy, SkipReason, Verdict, judge, may_attempt,
};
use crate::deliver::{Deliverer, Destination};
use crate::queue::{Lease, Queue, QueueError};
use crate::registry::Registry;
use crate::registry::endpoint::Endpoint;
use claim::{Deliver, claim_and_deliver};
use settle::settle_verdicts;

/// Maximum jobs claimed, and verdicts settled, per call to the queue. A batch of this size shares the cost of a lock or
/// a commit among many jobs.
const BATCH: usize = 64;

/// Delay before a call to the queue is repeated after it failed.
const QUEUE_RETRY_DELAY: Duration = Duration::from_millis(500);

/// Worker that delivers the jobs of a queue.
pub struct Dispatcher {
    /// Queue that jobs are claimed from and settled in.
    pub queue: Arc<dyn Queue>,
    /// Sender of the requests.
    pub deliverer: Deliverer,
    /// Registry with the current settings of the endpoints.
    pub registry: Registry,
    /// Signer of direct-mode events. `None` leaves them unsigned.
    pub direct_signer: Option<Signer>,
    /// Number of retries and the delays before them.
    pub policy: RetryPolicy,
    /// Maximum time for which a failing job may block its ordered lane.
    pub max_lane_block: Duration,
    /// Maximum attempts in flight over all endpoints.
    pub in_flight: usize,
    /// Counters of attempts and verdicts.
    pub metrics: Arc<Metrics>,
    /// Clock for due times and latencies.
    pub clock: Clock,
}

impl Dispatcher {
    /// Delivers until the queue is closed and has no more jobs for this process.
    ///
    /// Dropping the future breaks off the attempts in flight. Their leases expire, and the queue delivers the jobs
    /// again.
    pub async fn run(self) {
        let permits = Arc::new(Semaphore::new(self.in_flight));
        let (settle, verdicts) = mpsc::channel(self.in_flight.max(1));
        let queue = Arc::clone(&self.queue);
        let claiming = claim_and_deliver(Arc::clone(&queue), Arc::new(self), permits, settle);
        tokio::join!(claiming, settle_verdicts(queue, verdicts));
    }

    /// Looks up the endpoint of a job, makes an attempt, and judges the result.
    async fn deliver(&self, lease: &Lease) -> (Verdict, Option<Attempt>) {
        let (result, attempt) = if may_attempt(lease.attempt, &self.policy) {
            match &lease.job.target {
                Target::Url(url) => {
                    let secrets = self.direct_signer.iter().flat_map(Signer::secrets).collect();
                    let (outcome, attempt) =
                        self.attempt(lease, &Destination { url, headers: &[], secrets }).await;
                    (DeliveryResult::Attempted(outcome), Some(attempt))
                }
                Target::Endpoint(tenant, id) => self.deliver_to_endpoint(lease, *tenant, *id).await,
            }
        } else {
            self.skip(SkipReason::InterruptedTooOften)
        };
        (self.judge(lease, &result), attempt)
    }

    /// Delivers to an endpoint with its current settings. Skips the attempt if the endpoint was deleted or disabled.
    async fn deliver_to_endpoint(
        &self,
        lease: &Lease,
        tenant: TenantId,
        id: EndpointId,
    ) -> (DeliveryResult, Option<Attempt>) {
        let endpoint = match self.registry.endpoint_or_refresh(tenant, id).await {
            Ok(None) => return self.skip(SkipReason::Deleted),
            Ok(Some(endpoint)) if endpoint.disabled.is_some() => return self.skip(SkipReason::Disabled),
            Ok(Some(endpoint)) => endpoint,
            Err(error) => {
                tracing::debug!(message_id = %lease.job.id, %error, "the endpoint can't be looked up");
                return self.skip(SkipReason::RegistryUnavailable);
            }
        };
        let destination = Destination {
            url: &endpoint.settings.url,
            headers: endpoint.settings.headers.as_slice(),
            secrets: endpoint.live_secrets(Timestamp::now()).map(|live| &live.secret).collect(),
        };
        let (outcome, attempt) = self.attempt(lease, &destination).await;
        let result = match outcome.is_gone() {
            true if !self.disable_gone(lease, endpoint).await => DeliveryResult::Outdated(outcome),
            _ => DeliveryResult::Attempted(outcome),
        };
        (result, Some(attempt))
    }

    /// Disables an endpoint that answered 410 Gone. Returns `false` if the endpoint was changed during the attempt and
    /// therefore stays enabled.
    async fn disable_gone(&self, lease: &Lease, endpoint: Arc<Endpoint>) -> bool {
        let id = endpoint.id;
        match self.registry.disable_gone(endpoint).await {
            Ok(true) => {
                tracing::warn!(endpoint = %id, "disabled the endpoint, because it answered 410 Gone");
                drop(self.queue.release(std::slice::from_ref(&lease.job.lane)).await);
                true
            }
            Ok(false) => false,
            Err(error) => {
                tracing::error!(endpoint = %id, %error, "can't disable the endpoint, which answered 410 Gone");
                true
            }
        }
    }

    /// Makes one attempt and counts it.
    async fn attempt(&self, lease: &Lease, destination: &Destination<'_>) -> (Outcome, Attempt) {
        let started = self.clock.now();
        let outcome = self.deliverer.attempt(&lease.job, destination).await;
        let seconds_since = |time: Timestamp| outcome.at.duration_since(time).as_secs_f64();
        self.metrics.attempts.inc();
        self.metrics.attempt_seconds.observe(seconds_since(started));
        if outcome.result.is_ok() {
            self.metrics.delivery_seconds.observe(seconds_since(lease.job.published_at));
        }
        let attempt = Attempt::new(started, &outcome);
        (outcome, attempt)
    }

    /// Returns the result of a delivery without an attempt.
    fn skip(&self, reason: SkipReason) -> (DeliveryResult, Option<Attempt>) {
        (DeliveryResult::Skipped { at: self.clock.now(), reason }, None)
    }

    /// Judges the result of a delivery. Counts and logs the verdict.
    fn judge(&self, lease: &Lease, result: &DeliveryResult) -> Verdict {
        let progress = JobProgress {
            attempt: lease.attempt,
            give_up_at: lease.ordered.then(|| after(lease.first_attempt_at, self.max_lane_block)),
        };
        let verdict = judge(result, progress, &self.policy, &mut rand::rng());
        self.metrics.count_verdict(&verdict);
        log_verdict(lease, result.failure(), &verdict);
        verdict
    }
}

impl Deliver for Dispatcher {
    async fn deliver(&self, lease: &Lease) -> (Verdict, Option<Attempt>) {
        self.deliver(lease).await
    }

    fn judge_panic(&self, lease: &Lease) -> Verdict {
        tracing::error!(message_id = %lease.job.id, endpoint = %lease.job.target, "the delivery panicked");
        self.judge(lease, &DeliveryResult::Panicked { at: self.clock.now() })
    }
}

/// Logs that a call to the queue failed, and waits before it is repeated. `call` names the call.
async fn pause_after(error: &QueueError, call: &str) {
    tracing::error!(%error, cause = %root_cause(error), "can't {call}; trying again");
    tokio::time::sleep(QUEUE_RETRY_DELAY).await;
}

/// Logs a verdict: a dead letter as a warning, a failed attempt as information, anything else for debugging.
fn log_verdict(lease: &Lease, failure: Option<&Failure>, verdict: &Verdict) {
    let (id, endpoint, attempt) = (lease.job.id, &lease.job.target, lease.attempt);
    match (verdict, failure) {
        (Verdict::Done, _) => tracing::debug!(message_id = %id, %endpoint, attempt, "delivered"),
        (Verdict::Retry { at, .. }, Some(failure)) => {
            tracing::info!(message_id = %id, %endpoint, attempt, error = %failure, retry_at = %at, "attempt failed");
        }
        (Verdict::Retry { at, .. }, None) => {
            tracing::debug!(message_id = %id, %endpoint, attempt, retry_at = %at, "delivery postponed");
        }
        (Verdict::Dead { cause }, _) => {
            tracing::warn!(message_id = %id, %endpoint, attempt, cause = %cause, "dead-lettered");
        }
        (Verdict::Dropped, _) => {
            tracing::debug!(message_id = %id, %endpoint, "dropped, because its endpoint was deleted");
        }
    }
}
