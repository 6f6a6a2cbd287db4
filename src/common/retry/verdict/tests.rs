use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: u32) -> Timestamp {
    after(Timestamp::UNIX_EPOCH, Duration::from_secs(seconds.into()))
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
