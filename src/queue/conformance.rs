//! Conformance tests: one test for each promise of the [`Queue`] trait. Each backend runs them all:
//! `conformance!(name, Harness)` makes the tests `name::case`.
//!
//! The tests use real time, because a backend may have a clock of its own. Waits are short and have deadlines.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::print_stdout,
    reason = "these functions are tests, but the lints see only those marked as tests"
)]

pub(super) mod claims;
pub(super) mod dead;
pub(super) mod limits;
pub(super) mod model;
pub(super) mod order;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use super::dead::DeadFilter;
use super::{Lease, Queue, QueueConfig, Settlement, tests};
use crate::common::attempt::Attempt;
use crate::common::clock::{Clock, after};
use crate::common::endpoint_url::EndpointUrl;
use crate::common::id::{EndpointId, MessageId, TenantId};
use crate::common::job::{Job, Target};
use crate::common::retry::{EndpointState, RetryPolicy, Verdict};

/// A backend under test, with a queue of its own that is empty at first.
pub(super) trait Harness: Sized {
    /// Whether jobs survive [`Harness::reopen`].
    const DURABLE: bool;

    /// Whether the count of attempts survives [`Harness::reopen`].
    const KEEPS_COUNT: bool = Self::DURABLE;
    /// Whether queued and delivered messages can be looked up by id.
    const KNOWS_MESSAGES: bool = true;

    /// Opens an empty queue. Panics if the service that it needs is not running.
    async fn start(config: QueueConfig) -> Self;

    /// Returns the queue.
    fn queue(&self) -> &Arc<dyn Queue>;

    /// Returns the clock with which the queue was opened.
    fn clock(&self) -> Clock;

    /// Opens the queue again as if the process had ended and another had started.
    async fn reopen(&mut self);
}

/// Calls the macro `$then` with its arguments and the list of all cases.
macro_rules! with_cases {
    ($then:ident! $($arguments:tt)*) => {
        $then! { $($arguments)*
            claims::a_claimed_job_equals_the_pushed_one,
            claims::concurrent_claims_never_share_a_job,
            claims::an_expired_lease_is_leased_again_as_the_next_attempt,
            claims::a_dropped_claim_loses_nothing,
            claims::a_waiting_claim_is_woken_by_a_push,
            claims::a_retry_is_hidden_until_due_and_wakes_a_claim,
            claims::attempts_are_counted,
            claims::an_attempt_that_was_not_sent_uses_up_no_retry,
            claims::released_jobs_are_due_at_once,
            claims::settling_twice_is_harmless,
            claims::settling_an_expired_lease_is_harmless,
            claims::unsettled_jobs_survive_or_are_reported,
            claims::a_closed_queue_refuses_pushes,
            order::ordered_lanes_keep_their_order_under_retries,
            order::jobs_can_ask_for_order,
            order::only_the_lane_that_fails_waits,
            order::a_lane_that_hangs_delays_no_other,
            order::lanes_take_turns,
            order::a_failing_lane_is_probed,
            order::a_paused_lane_is_sent_nothing,
            dead::dead_letters_are_listed_and_filtered,
            dead::dead_letters_are_paged,
            dead::a_dead_letter_has_its_body_and_attempts,
            dead::replayed_jobs_start_over_in_order,
            dead::a_replay_without_room_changes_nothing,
            dead::purged_dead_letters_are_deleted,
            dead::dead_letters_survive_a_restart,
            dead::messages_have_a_state_and_attempts,
            dead::history_is_bounded,
            limits::a_full_queue_refuses_whole_pushes_until_there_is_room,
            limits::bytes_are_bounded,
            limits::a_queued_job_is_not_queued_twice,
            limits::usage_is_counted_by_tenant,
            limits::depth_counts_every_state,
            limits::large_pushes_are_all_or_nothing,
            model::random_calls_agree_with_a_model,
        }
    };
}

/// Runs every case against one backend, in a module of that name.
///
/// A backend may except cases. Each exception states its reason, which the test run prints. A name that is not a case
/// does not compile:
///
/// ```ignore
/// conformance!(kafka, super::Kafka, except
///     limits::bytes_are_bounded: "Kafka's own quotas bound what is queued",
/// );
/// ```
macro_rules! conformance {
    ($name:ident, $harness:ty) => {
        $crate::queue::conformance::conformance!($name, $harness, except);
    };
    ($name:ident, $harness:ty, except $($module:ident::$case:ident: $reason:literal),* $(,)?) => {
        mod $name {
            use $crate::queue::conformance::{define_is_case, define_test_of_case, test_cases, with_cases};

            with_cases! { define_is_case! }
            // Called once without a name, so that the macro is used even if nothing is excepted.
            is_case! {}
            $(is_case! { $module::$case })*
            define_test_of_case! { ($) $harness, $($module::$case: $reason),* }
            with_cases! { test_cases! }
        }
    };
}

/// Defines `is_case!`, which compiles only for the name of a case.
macro_rules! define_is_case {
    ($($module:ident::$case:ident,)*) => {
        macro_rules! is_case {
            () => {};
            $(($module::$case) => {};)*
        }
    };
}

/// Defines `test_of_case!`, which makes the test of one case, or an ignored test if the case is excepted.
macro_rules! define_test_of_case {
    // The dollar sign is an argument because a macro can't write one into a macro that it defines.
    (($dollar:tt) $harness:ty, $($module:ident::$case:ident: $reason:literal),*) => {
        macro_rules! test_of_case {
            $(($module::$case) => {
                #[test]
                #[ignore = $reason]
                fn $case() {}
            };)*
            ($dollar module:ident::$dollar case:ident) => {
                #[tokio::test]
                async fn $dollar case() {
                    $crate::queue::conformance::$dollar module::$dollar case::<$harness>().await;
                }
            };
        }
    };
}

/// Makes the tests of all cases with `test_of_case!`.
macro_rules! test_cases {
    ($($module:ident::$case:ident,)*) => {
        $(test_of_case! { $module::$case })*
    };
}

pub(super) use {conformance, define_is_case, define_test_of_case, test_cases, with_cases};

/// Deadline of every wait, longer than any of them should take.
const DEADLINE: Duration = Duration::from_secs(20);
/// Time after which a claim without result counts as waiting.
const CLAIM_TIMEOUT: Duration = Duration::from_millis(60);

pub(super) fn config() -> QueueConfig {
    let retry = RetryPolicy::try_list(vec![Duration::from_millis(200)], None, 0.0).unwrap();
    QueueConfig { retry, max_bytes: 1_000_000, ..tests::config(false) }
}

fn ordered() -> QueueConfig {
    QueueConfig { ordered: true, ..config() }
}

pub(super) fn job(lane: &str) -> Job {
    let target = Target::Url(EndpointUrl::parse(&format!("https://{lane}.example/?token=secret")).unwrap());
    Job { lane: target.lane(), target, ..tests::job(lane) }
}

fn job_of(tenant: TenantId, endpoint: EndpointId) -> Job {
    let target = Target::Endpoint(tenant, endpoint);
    Job { lane: target.lane(), target, tenant: tenant.to_string().into(), ..tests::job("") }
}

fn ids(jobs: &[Job]) -> Vec<MessageId> {
    jobs.iter().map(|job| job.id).collect()
}

pub(super) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("the wait ended before its deadline")
}

/// Claims up to `max` jobs, waiting until there is one.
pub(super) async fn claim(queue: &Arc<dyn Queue>, max: usize) -> Vec<Lease> {
    within(queue.claim(max)).await.unwrap()
}

pub(super) async fn claim_one(queue: &Arc<dyn Queue>) -> Lease {
    let mut claimed = claim(queue, 1).await;
    assert_eq!(claimed.len(), 1);
    claimed.remove(0)
}

/// Claims up to `max` jobs that are due now. Returns none if there is none.
async fn claim_now(queue: &Arc<dyn Queue>, max: usize) -> Vec<Lease> {
    tokio::time::timeout(CLAIM_TIMEOUT, queue.claim(max)).await.map(Result::unwrap).unwrap_or_default()
}

fn attempt(status: u16) -> Attempt {
    Attempt {
        at: Timestamp::from_microsecond(1_700_000_000_123_456).unwrap(),
        latency_ms: 12,
        status: Some(status),
        error: None,
    }
}

pub(super) async fn settle(queue: &Arc<dyn Queue>, lease: Lease, verdict: Verdict) {
    within(queue.settle(&[Settlement { lease, verdict, attempt: Some(attempt(500)) }])).await.unwrap();
}

pub(super) async fn done(queue: &Arc<dyn Queue>, lease: Lease) {
    settle(queue, lease, Verdict::Done).await;
}

pub(super) fn retry(clock: Clock, delay: Duration, endpoint: EndpointState) -> Verdict {
    Verdict::Retry { at: after(clock.now(), delay), endpoint }
}

fn milliseconds(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Pushes jobs and makes them dead letters, one after the other.
async fn bury(queue: &Arc<dyn Queue>, jobs: Vec<Job>) {
    for job in jobs {
        let id = job.id;
        queue.push(vec![job]).await.unwrap();
        let lease = claim_one(queue).await;
        assert_eq!(lease.job.id, id);
        let cause = crate::common::retry::Cause::Disabled;
        settle(queue, lease, Verdict::Dead { cause }).await;
    }
}

fn all_dead() -> DeadFilter {
    DeadFilter::default()
}

fn body(size: usize) -> Bytes {
    (0..size).map(|at| u8::try_from(at % 256).unwrap()).collect::<Vec<_>>().into()
}
