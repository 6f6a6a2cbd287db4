//! The dispatcher: claim, deliver, judge, settle. Only it touches both the queue and the network.
//!
//! A permit is taken before a job is claimed and given back after it is settled, so what is in flight is bounded
//! and a drain knows when it is done.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use crate::common::attempt::Attempt;
use crate::common::clock::{Clock, after};
use crate::common::crypto::signature::Signer;
use crate::common::http::root_cause;
use crate::common::job::Target;
use crate::common::metrics::Metrics;
use crate::common::retry::{Cause, EndpointState, Failure, RetryPolicy, Verdict, judge, unblock};
use crate::deliver::{Deliverer, Destination};
use crate::queue::{Lease, Queue, QueueError, Settlement};
use crate::registry::Registry;
use crate::registry::endpoint::Endpoint;

/// Jobs claimed and verdicts settled at a time: enough to make a lock, or a commit, cheap for each.
const BATCH: usize = 64;

/// Attempts beyond those of the policy that may be broken off before a job is given up, as far as the queue knows of
/// them: one in memory or on disk forgets them with the process.
const MOST_BROKEN_OFF: u32 = 5;

/// How long to wait before the queue is asked again after it failed.
const QUEUE_PAUSE: Duration = Duration::from_millis(500);

/// How long a job waits at least, whose endpoint can't be looked up because the registry is away.
const REGISTRY_PAUSE: Duration = Duration::from_secs(5);

/// What attempts are made with and counted in.
pub struct Dispatcher {
    /// Where jobs come from and verdicts go.
    pub queue: Arc<dyn Queue>,
    /// Makes the attempts.
    pub deliverer: Deliverer,
    /// Says where endpoints are now, and what they sign with.
    pub registry: Registry,
    /// Signs what goes to URLs that events named themselves.
    pub direct_signer: Option<Signer>,
    /// Decides what becomes of a failure.
    pub policy: RetryPolicy,
    /// How long the first job of an ordered lane may be retried while others wait behind it.
    pub max_lane_block: Duration,
    /// Attempts at once, over all endpoints.
    pub in_flight: usize,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Times deliveries.
    pub clock: Clock,
}

struct Verdicted {
    settlement: Settlement,
    /// Given back once the verdict is settled.
    permit: OwnedSemaphorePermit,
}

impl Dispatcher {
    /// Delivers until the queue is closed and nothing is left to do for this process. Dropping the future
    /// breaks off what is in flight.
    pub async fn run(self) {
        let slots = Arc::new(Semaphore::new(self.in_flight));
        let (settle, verdicts) = mpsc::channel(self.in_flight.max(1));
        let queue = Arc::clone(&self.queue);
        let this = Arc::new(self);
        tokio::join!(this.claim_and_deliver(slots, settle), settle_verdicts(queue, verdicts));
    }

    async fn claim_and_deliver(self: Arc<Self>, slots: Arc<Semaphore>, settle: mpsc::Sender<Verdicted>) {
        let mut attempts = JoinSet::new();
        loop {
            let Ok(mut permits) = Arc::clone(&slots).acquire_owned().await else { return };
            let more = slots.available_permits().min(BATCH - 1);
            if let Ok(more) = Arc::clone(&slots).try_acquire_many_owned(u32::try_from(more).unwrap_or(0)) {
                permits.merge(more);
            }
            let leases = match self.queue.claim(permits.num_permits()).await {
                Ok(leases) => leases,
                Err(error) => {
                    pause_after(&error, "claim jobs").await;
                    continue;
                }
            };
            if leases.is_empty() {
                break;
            }
            for lease in leases {
                let Some(permit) = permits.split(1) else { break };
                let (this, settle) = (Arc::clone(&self), settle.clone());
                attempts.spawn(async move {
                    let (verdict, attempt) = this.deliver(&lease).await;
                    let settlement = Settlement { lease, verdict, attempt };
                    // The receiver lives until the last sender is gone.
                    drop(settle.send(Verdicted { settlement, permit }).await);
                });
            }
            while attempts.try_join_next().is_some() {}
        }
        while attempts.join_next().await.is_some() {}
    }

    /// Sends a job to where its target is now, unless that is gone or disabled.
    async fn deliver(&self, lease: &Lease) -> (Verdict, Option<Attempt>) {
        let broken_off = self.policy.retries().saturating_add(MOST_BROKEN_OFF);
        let Judged { verdict, failure, attempt } = if lease.attempt > broken_off.saturating_add(1) {
            Judged::unsent(Verdict::Dead { cause: Cause::Interrupted })
        } else {
            match &lease.job.target {
                Target::Url(url) => {
                    let secrets = self.direct_signer.iter().flat_map(Signer::secrets).collect();
                    self.attempt(lease, &Destination { url, headers: &[], secrets }).await
                }
                Target::Endpoint(tenant, id) => match self.registry.endpoint_or_refresh(*tenant, *id).await {
                    Ok(None) => Judged::unsent(Verdict::Dropped),
                    Ok(Some(endpoint)) if endpoint.disabled.is_some() => {
                        Judged::unsent(Verdict::Dead { cause: Cause::Disabled })
                    }
                    Ok(Some(endpoint)) => self.attempt_endpoint(lease, endpoint).await,
                    Err(error) => {
                        tracing::debug!(message_id = %lease.job.id, %error, "its endpoint can't be looked up");
                        let delay = self.policy.jittered_delay(lease.attempt, &mut rand::rng());
                        let at = after(self.clock.now(), delay.max(REGISTRY_PAUSE));
                        Judged::unsent(Verdict::Retry { at, endpoint: EndpointState::NotAsked })
                    }
                },
            }
        };
        match &verdict {
            Verdict::Done => {
                self.metrics.delivered.inc();
            }
            Verdict::Retry { .. } => {
                self.metrics.retried.inc();
            }
            Verdict::Dead { cause } => self.metrics.count_dead(cause.kind()),
            Verdict::Dropped => {
                self.metrics.dropped.inc();
            }
        }
        log(lease, failure.as_ref(), &verdict);
        (verdict, attempt)
    }

    async fn attempt_endpoint(&self, lease: &Lease, endpoint: Arc<Endpoint>) -> Judged {
        let destination = Destination {
            url: &endpoint.settings.url,
            headers: endpoint.settings.headers.as_slice(),
            secrets: endpoint.live_secrets(Timestamp::now()).map(|live| &live.secret).collect(),
        };
        let judged = self.attempt(lease, &destination).await;
        if judged.verdict != (Verdict::Dead { cause: Cause::Gone }) {
            return judged;
        }
        let id = endpoint.id;
        match self.registry.disable_gone(endpoint).await {
            Ok(true) => {
                tracing::warn!(endpoint = %id, "answered 410 Gone, so it is disabled");
                drop(self.queue.release(std::slice::from_ref(&lease.job.lane)).await);
                judged
            }
            // It was changed while it was asked, so its answer says nothing of what it is now.
            Ok(false) => Judged {
                verdict: Verdict::Retry { at: self.clock.now(), endpoint: EndpointState::Unknown },
                ..judged
            },
            Err(error) => {
                tracing::error!(endpoint = %id, %error, "disable an endpoint that is gone");
                judged
            }
        }
    }

    async fn attempt(&self, lease: &Lease, destination: &Destination<'_>) -> Judged {
        let started = self.clock.now();
        let outcome = self.deliverer.attempt(&lease.job, destination).await;
        let mut verdict = judge(&outcome, lease.attempt, &self.policy, &mut rand::rng());
        let seconds = |since: Timestamp| outcome.at.duration_since(since).as_secs_f64();
        self.metrics.attempts.inc();
        self.metrics.attempt_seconds.observe(seconds(started));
        if verdict == Verdict::Done {
            self.metrics.delivery_seconds.observe(seconds(lease.job.published_at));
        }
        if lease.ordered {
            verdict = unblock(verdict, &outcome, lease.first_attempt_at, self.max_lane_block);
        }
        let attempt = Some(Attempt::new(started, &outcome));
        Judged { verdict, failure: outcome.result.err(), attempt }
    }
}

/// What an attempt came to.
struct Judged {
    verdict: Verdict,
    failure: Option<Failure>,
    attempt: Option<Attempt>,
}

impl Judged {
    /// Nothing was sent.
    fn unsent(verdict: Verdict) -> Self {
        Self { verdict, failure: None, attempt: None }
    }
}

async fn settle_verdicts(queue: Arc<dyn Queue>, mut verdicts: mpsc::Receiver<Verdicted>) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut repeating = JoinSet::new();
    while verdicts.recv_many(&mut batch, BATCH).await > 0 {
        let (permits, settlements): (Vec<_>, Vec<_>) =
            batch.drain(..).map(|done| (done.permit, done.settlement)).unzip();
        match queue.settle(&settlements).await {
            Ok(()) | Err(QueueError::Closed) => {}
            // Beside those that come next: a part of the queue may be away, and the rest not. Their permits bound them.
            Err(error) => {
                let queue = Arc::clone(&queue);
                repeating.spawn(async move {
                    settle_at_last(&*queue, &settlements, error).await;
                    drop(permits);
                });
            }
        }
        while repeating.try_join_next().is_some() {}
    }
    while repeating.join_next().await.is_some() {}
}

/// Repeats what failed until the queue has it.
async fn settle_at_last(queue: &dyn Queue, settlements: &[Settlement], mut error: QueueError) {
    while !matches!(error, QueueError::Closed) {
        pause_after(&error, "settle jobs").await;
        match queue.settle(settlements).await {
            Ok(()) => return,
            Err(again) => error = again,
        }
    }
}

async fn pause_after(error: &QueueError, doing: &str) {
    tracing::error!(%error, cause = %root_cause(error), "{doing}");
    tokio::time::sleep(QUEUE_PAUSE).await;
}

fn log(lease: &Lease, failure: Option<&Failure>, verdict: &Verdict) {
    let (id, endpoint, attempt) = (lease.job.id, &lease.job.target, lease.attempt);
    match (verdict, failure) {
        (Verdict::Retry { at, .. }, Some(failure)) => {
            tracing::info!(message_id = %id, %endpoint, attempt, error = %failure, retry_at = %at, "attempt failed");
        }
        (Verdict::Dead { cause }, _) => {
            tracing::warn!(message_id = %id, %endpoint, attempt, cause = %cause, "dead-lettered");
        }
        (Verdict::Dropped, _) => {
            tracing::debug!(message_id = %id, %endpoint, "dropped: its endpoint was deleted");
        }
        _ => tracing::debug!(message_id = %id, %endpoint, attempt, "delivered"),
    }
}
