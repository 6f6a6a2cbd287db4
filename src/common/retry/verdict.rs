//! The verdict on a job: a pure function of how its delivery ended.

use std::time::Duration;

use jiff::Timestamp;
use rand::Rng;

use super::cause::Cause;
use super::outcome::{Failure, Outcome};
use super::policy::RetryPolicy;
use crate::common::clock::after;

/// Longest `Retry-After` that is honoured. A longer one is cut to this.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Interrupted attempts that a job is allowed beyond the attempts of its policy. The queue counts them: those in
/// memory and on disk forget them when the process ends.
const MAX_INTERRUPTED: u32 = 5;

/// Shortest delay of a job whose endpoint can't be looked up because the registry is unavailable.
const REGISTRY_DELAY: Duration = Duration::from_secs(5);

/// What becomes of a job after an attempt.
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

/// How the dispatcher's work on one lease ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryResult {
    /// An attempt was made.
    Attempted(Outcome),
    /// The endpoint answered 410 Gone, but its settings were changed during the attempt. The answer says nothing about
    /// the endpoint as it is now.
    Outdated(Outcome),
    /// No attempt was made.
    Skipped {
        /// Time at which that was decided.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u32) -> Timestamp {
        after(Timestamp::UNIX_EPOCH, seconds * SECOND)
    }

    fn failed(failure: Failure) -> DeliveryResult {
        failed_at(0, failure)
    }

    fn failed_at(seconds: u32, failure: Failure) -> DeliveryResult {
        DeliveryResult::Attempted(Outcome { at: at(seconds), result: Err(failure) })
    }

    fn status(status: u16, retry_after: Option<Duration>) -> DeliveryResult {
        failed(Failure::Status { status, retry_after })
    }

    fn skipped(reason: SkipReason) -> DeliveryResult {
        DeliveryResult::Skipped { at: at(0), reason }
    }

    /// Judges in an unordered lane.
    fn judged(result: &DeliveryResult, attempt: u32, policy: &RetryPolicy) -> Verdict {
        let progress = JobProgress { attempt, give_up_at: None };
        judge(result, progress, policy, &mut StdRng::seed_from_u64(1))
    }

    fn judged_by_default(result: &DeliveryResult, attempt: u32) -> Verdict {
        judged(result, attempt, &RetryPolicy::default())
    }

    fn retry(seconds: u32, endpoint: EndpointState) -> Verdict {
        Verdict::Retry { at: at(seconds), endpoint }
    }

    #[test]
    fn a_success_is_done() {
        let success = DeliveryResult::Attempted(Outcome { at: at(0), result: Ok(204) });
        assert_eq!(judged_by_default(&success, 6), Verdict::Done);
    }

    #[test]
    fn the_failure_after_the_last_retry_is_dead() {
        assert!(matches!(judged_by_default(&status(500, None), 5), Verdict::Retry { .. }));
        let failure = Failure::Status { status: 500, retry_after: None };
        let exhausted = Verdict::Dead { cause: Cause::Exhausted(failure) };
        assert_eq!(judged_by_default(&status(500, None), 6), exhausted);
    }

    #[test]
    fn failures_that_a_retry_can_not_change_are_dead_at_once() {
        assert_eq!(judged_by_default(&status(410, None), 1), Verdict::Dead { cause: Cause::Gone });
        let refused = judged_by_default(&failed(Failure::Refused("private address".into())), 1);
        assert_eq!(refused, Verdict::Dead { cause: Cause::Refused("private address".into()) });
    }

    #[test]
    fn retry_after_is_honoured_between_the_delay_and_an_hour() {
        let policy = RetryPolicy::try_list(vec![10 * SECOND], Some(9), 0.0).unwrap();
        let paused_until = |seconds| retry(seconds, EndpointState::Paused);
        assert_eq!(judged(&status(429, Some(SECOND)), 1, &policy), paused_until(10));
        assert_eq!(judged(&status(503, Some(60 * SECOND)), 1, &policy), paused_until(60));
        assert_eq!(judged(&status(503, Some(Duration::MAX)), 1, &policy), paused_until(3_600));
    }

    #[test]
    fn only_an_endpoint_that_sends_retry_after_is_paused() {
        let state = |result| match judged_by_default(&result, 1) {
            Verdict::Retry { endpoint, .. } => endpoint,
            other => panic!("{other:?}"),
        };
        assert_eq!(state(status(503, Some(SECOND))), EndpointState::Paused);
        assert_eq!(state(status(503, None)), EndpointState::Failed);
        assert_eq!(state(failed(Failure::TimedOut)), EndpointState::Failed);
    }

    #[test]
    fn a_failure_of_this_machine_is_retried_for_ever_and_not_blamed_on_the_endpoint() {
        let verdict = judged_by_default(&failed(Failure::Local("too many open files".into())), 100);
        let is_not_blamed = matches!(verdict, Verdict::Retry { endpoint: EndpointState::NotContacted, .. });
        assert!(is_not_blamed, "{verdict:?}");
    }

    #[test]
    fn each_reason_to_skip_an_attempt_has_its_verdict() {
        let policy = RetryPolicy::try_list(vec![SECOND, 9 * SECOND], None, 0.0).unwrap();
        let verdict = |reason, attempt| judged(&skipped(reason), attempt, &policy);
        assert_eq!(verdict(SkipReason::Deleted, 1), Verdict::Dropped);
        assert_eq!(verdict(SkipReason::Disabled, 1), Verdict::Dead { cause: Cause::Disabled });
        assert_eq!(verdict(SkipReason::InterruptedTooOften, 8), Verdict::Dead { cause: Cause::Interrupted });
        let not_contacted = EndpointState::NotContacted;
        assert_eq!(verdict(SkipReason::RegistryUnavailable, 1), retry(5, not_contacted), "at least 5 s");
        assert_eq!(verdict(SkipReason::RegistryUnavailable, 2), retry(9, not_contacted));
        assert_eq!(verdict(SkipReason::RegistryUnavailable, 99), retry(9, not_contacted));
    }

    #[test]
    fn a_410_from_an_endpoint_that_changed_meanwhile_is_retried_at_once() {
        let gone = Failure::Status { status: 410, retry_after: None };
        let outdated = DeliveryResult::Outdated(Outcome { at: at(7), result: Err(gone) });
        assert_eq!(judged_by_default(&outdated, 1), retry(7, EndpointState::Unknown));
    }

    #[test]
    fn a_panic_is_retried_with_backoff_until_the_limit_of_interrupted_attempts() {
        let policy = RetryPolicy::try_list(vec![SECOND, 3 * SECOND], None, 0.0).unwrap();
        let panicked = DeliveryResult::Panicked { at: at(0) };
        assert_eq!(judged(&panicked, 1, &policy), retry(1, EndpointState::Unknown));
        assert_eq!(judged(&panicked, 7, &policy), retry(3, EndpointState::Unknown));
        assert!(may_attempt(8, &policy), "3 attempts of the policy and 5 interrupted ones");
        assert!(!may_attempt(9, &policy));
    }

    #[test]
    fn a_job_is_given_up_when_it_has_blocked_its_ordered_lane_for_too_long() {
        let policy = RetryPolicy::try_list(vec![40 * SECOND], Some(9), 0.0).unwrap();
        let ordered = |result| {
            let progress = JobProgress { attempt: 2, give_up_at: Some(at(60)) };
            judge(&result, progress, &policy, &mut StdRng::seed_from_u64(1))
        };
        let timed_out = |seconds| ordered(failed_at(seconds, Failure::TimedOut));
        assert_eq!(timed_out(10), retry(50, EndpointState::Failed));
        assert_eq!(timed_out(50), retry(60, EndpointState::Failed), "last attempt at the end of the time");
        assert_eq!(timed_out(60), Verdict::Dead { cause: Cause::Blocked(Failure::TimedOut) });

        let busy = Failure::Status { status: 429, retry_after: Some(40 * SECOND) };
        let paused = |seconds| ordered(failed_at(seconds, busy.clone()));
        assert_eq!(paused(50), retry(90, EndpointState::Paused), "the endpoint asked for the pause");
        assert_eq!(paused(90), Verdict::Dead { cause: Cause::Blocked(busy.clone()) });

        let local = ordered(failed_at(99, Failure::Local("no descriptors".into())));
        assert_eq!(local, retry(139, EndpointState::NotContacted));

        let panicked = |seconds| ordered(DeliveryResult::Panicked { at: at(seconds) });
        assert_eq!(panicked(50), retry(60, EndpointState::Unknown));
        assert_eq!(panicked(60), Verdict::Dead { cause: Cause::Interrupted });

        let success = DeliveryResult::Attempted(Outcome { at: at(99), result: Ok(200) });
        assert_eq!(ordered(success), Verdict::Done);
    }

    fn any_failure() -> impl Strategy<Value = Failure> {
        prop_oneof![
            (400_u16..600, proptest::option::of(0_u64..10_000)).prop_map(|(status, seconds)| {
                Failure::Status { status, retry_after: seconds.map(Duration::from_secs) }
            }),
            Just(Failure::TimedOut),
            Just(Failure::Connect("refused".into())),
            Just(Failure::Local("no descriptors".into())),
        ]
    }

    proptest! {
        #[test]
        fn a_retry_is_never_due_in_the_past(
            failure in any_failure(), ended in 0_u32..1_000, attempt in 1_u32..20,
            give_up in proptest::option::of(0_u32..1_000), seed: u64,
        ) {
            let progress = JobProgress { attempt, give_up_at: give_up.map(at) };
            let rng = &mut StdRng::seed_from_u64(seed);
            let policy = RetryPolicy::default();
            for result in [failed_at(ended, failure), DeliveryResult::Panicked { at: at(ended) }] {
                if let Verdict::Retry { at: due, .. } = judge(&result, progress, &policy, rng) {
                    prop_assert!(due > at(ended), "{:?}", result);
                }
            }
        }
    }
}
