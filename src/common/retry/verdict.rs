//! The verdict on a job: a pure function of how its delivery ended.

#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::Timestamp;
use rand::Rng;

use super::cause::Cause;
use super::outcome::{Failure, Outcome};
use super::policy::RetryPolicy;
use crate::common::clock::after;

/// Maximum `Retry-After` that is honoured. A longer one is shortened to this.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Interrupted attempts that a job is allowed beyond the attempts of its policy. The queue counts them. A queue in memory
/// or on disk forgets the count when the process ends.
const MAX_INTERRUPTED: u32 = 5;

/// Minimum delay of a job whose endpoint can't be looked up because the registry is unavailable.
const REGISTRY_DELAY: Duration = Duration::from_secs(5);

/// Decision on a job after an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The endpoint took the job.
    Done,
    /// The job is tried again.
    Retry {
        /// Time at which the retry is due.
        at: Timestamp,
        /// Conclusion about the endpoint.
        endpoint: EndpointState,
    },
    /// The job becomes a dead letter.
    Dead {
        /// Cause of death.
        cause: Cause,
    },
    /// The job is deleted, because its endpoint or tenant was deleted. There is no tenant to replay it for.
    Dropped,
}

/// Conclusion about an endpoint from an attempt that is retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointState {
    /// The endpoint failed, so its throttle and breaker count the failure.
    Failed,
    /// The endpoint asked for a pause until the retry is due.
    Paused,
    /// The attempt says nothing about the endpoint. It counts as an attempt of the job.
    Unknown,
    /// No request reached the endpoint. It doesn't count as an attempt of the job.
    NotContacted,
}

/// Result of the dispatcher's work on one lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryResult {
    /// An attempt was made.
    Attempted(Outcome),
    /// The endpoint answered 410 Gone, but its settings were changed during the attempt. The answer says nothing about
    /// the endpoint as it is now.
    Outdated(Outcome),
    /// No attempt was made.
    Skipped {
        /// Time of the decision.
        at: Timestamp,
        /// Reason.
        reason: SkipReason,
    },
    /// The delivery panicked. The endpoint may have received the request.
    Panicked {
        /// Time of the panic.
        at: Timestamp,
    },
}

impl DeliveryResult {
    /// Returns the failure of the attempt, if one was made and failed.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Attempted(outcome) | Self::Outdated(outcome) => outcome.result.as_ref().err(),
            Self::Skipped { .. } | Self::Panicked { .. } => None,
        }
    }
}

/// Reason why no attempt was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipReason {
    /// The endpoint or its tenant was deleted.
    Deleted,
    /// The endpoint is disabled.
    Disabled,
    /// The registry is unavailable, so the endpoint can't be looked up.
    RegistryUnavailable,
    /// Too many attempts of the job were interrupted: see [`may_attempt`].
    InterruptedTooOften,
}

/// Position of a job among its attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobProgress {
    /// Number of the attempt, counted from 1.
    pub attempt: u32,
    /// Time from which a failed job is given up, because other jobs of its ordered lane wait for it. `None` in an
    /// unordered lane.
    pub give_up_at: Option<Timestamp>,
}

/// Whether attempt number `attempt`, counted from 1, may still be made.
///
/// An attempt that a crash or a panic interrupts has no verdict, so [`judge`] can't end a job that always interrupts
/// its delivery. This limit does.
#[must_use]
pub fn may_attempt(attempt: u32, policy: &RetryPolicy) -> bool {
    attempt <= policy.retries().saturating_add(1).saturating_add(MAX_INTERRUPTED)
}

/// Returns the verdict on a job whose delivery ended with `result`.
pub fn judge(
    result: &DeliveryResult,
    progress: JobProgress,
    policy: &RetryPolicy,
    rng: &mut impl Rng,
) -> Verdict {
    let attempt = progress.attempt;
    match result {
        DeliveryResult::Attempted(outcome) => {
            let verdict = judge_outcome(outcome, attempt, policy, rng);
            let Err(failure) = &outcome.result else { return verdict };
            limit_block(verdict, outcome.at, progress.give_up_at, || Cause::Blocked(failure.clone()))
        }
        DeliveryResult::Outdated(outcome) => {
            Verdict::Retry { at: outcome.at, endpoint: EndpointState::Unknown }
        }
        DeliveryResult::Skipped { at, reason } => match reason {
            SkipReason::Deleted => Verdict::Dropped,
            SkipReason::Disabled => Verdict::Dead { cause: Cause::Disabled },
            SkipReason::InterruptedTooOften => Verdict::Dead { cause: Cause::Interrupted },
            SkipReason::RegistryUnavailable => {
                let delay = policy.jittered_delay(attempt, rng).max(REGISTRY_DELAY);
                Verdict::Retry { at: after(*at, delay), endpoint: EndpointState::NotContacted }
            }
        },
        DeliveryResult::Panicked { at } => {
            let retry_at = after(*at, policy.jittered_delay(attempt, rng));
            let verdict = Verdict::Retry { at: retry_at, endpoint: EndpointState::Unknown };
            limit_block(verdict, *at, progress.give_up_at, || Cause::Interrupted)
        }
    }
}

/// Judges an attempt without regard to the order of the lane.
fn judge_outcome(outcome: &Outcome, attempt: u32, policy: &RetryPolicy, rng: &mut impl Rng) -> Verdict {
    let failure = match &outcome.result {
        Ok(_) => return Verdict::Done,
        Err(_) if outcome.is_gone() => return Verdict::Dead { cause: Cause::Gone },
        Err(Failure::Refused(reason)) => return Verdict::Dead { cause: Cause::Refused(reason.clone()) },
        Err(failure) => failure,
    };
    let delay = policy.jittered_delay(attempt, rng);
    let (delay, endpoint) = match failure {
        // A failure of this machine never uses up the retries of a customer's event.
        Failure::Local(_) => (delay, EndpointState::NotContacted),
        _ if attempt > policy.retries() => return Verdict::Dead { cause: Cause::Exhausted(failure.clone()) },
        Failure::Status { retry_after: Some(requested), .. } => {
            (delay.max((*requested).min(MAX_RETRY_AFTER)), EndpointState::Paused)
        }
        _ => (delay, EndpointState::Failed),
    };
    Verdict::Retry { at: after(outcome.at, delay), endpoint }
}

/// Limits the time for which a job blocks its ordered lane. From `give_up_at` on a retry becomes a dead letter.
/// Before that a retry is due at `give_up_at` at the latest, so that the last attempt uses the whole time.
///
/// A pause that the endpoint asked for isn't shortened. A job that this machine couldn't send isn't given up.
fn limit_block(
    verdict: Verdict,
    now: Timestamp,
    give_up_at: Option<Timestamp>,
    cause: impl FnOnce() -> Cause,
) -> Verdict {
    let Some(give_up_at) = give_up_at else { return verdict };
    match verdict {
        Verdict::Retry { endpoint: EndpointState::NotContacted, .. } => verdict,
        Verdict::Retry { .. } if now >= give_up_at => Verdict::Dead { cause: cause() },
        Verdict::Retry { at, endpoint: endpoint @ (EndpointState::Failed | EndpointState::Unknown) } => {
            Verdict::Retry { at: at.min(give_up_at), endpoint }
        }
        verdict => verdict,
    }
}
