//! What becomes of an attempt: the retry policy and the verdict, as pure functions.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use rand::{Rng, RngExt as _};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::clock::after;

/// The longest a customer's `Retry-After` is honoured.
pub const MOST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Standard Webhooks' recommended delays: 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h.
const STANDARD_SECONDS: [u64; 9] = [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400];

/// How often and how far apart a job is retried.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    delays: Delays,
    retries: u32,
    jitter: f64,
}

#[derive(Debug, Clone, PartialEq)]
enum Delays {
    Exponential { base: Duration, factor: f64, cap: Duration },
    List(Vec<Duration>),
}

/// The policy makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RetryPolicyError {
    /// A delay of nothing would hammer the customer.
    #[error("a retry delay must be at least 1 ms and at most 30 days")]
    Delay,
    /// A list without delays.
    #[error("a list of retry delays needs at least one")]
    Empty,
    /// The factor shrinks the delays.
    #[error("the retry factor must be between 1 and 100")]
    Factor,
    /// The jitter isn't a share.
    #[error("the retry jitter must be between 0 and 1")]
    Jitter,
}

impl RetryPolicy {
    /// The share by which delays vary, both ways, so that jobs that failed together don't return together.
    pub const JITTER: f64 = 0.2;

    const SHORTEST: Duration = Duration::from_millis(1);
    const LONGEST: Duration = Duration::from_secs(30 * 86_400);

    /// Delays of `base`, growing by `factor` up to `cap`, `retries` times, each varied by ± `jitter` of itself.
    ///
    /// # Errors
    /// A delay, the factor or the jitter is out of range.
    pub fn try_exponential(
        base: Duration,
        factor: f64,
        cap: Duration,
        retries: u32,
        jitter: f64,
    ) -> Result<Self, RetryPolicyError> {
        check_delay(base)?;
        check_delay(cap)?;
        if !(1.0..=100.0).contains(&factor) {
            return Err(RetryPolicyError::Factor);
        }
        Self { delays: Delays::Exponential { base, factor, cap }, retries, jitter }.checked()
    }

    /// Delays one by one; `retries` beyond the list repeat its last, and none given means the list's length.
    ///
    /// # Errors
    /// A delay or the jitter is out of range, or there is no delay.
    pub fn try_list(
        delays: Vec<Duration>,
        retries: Option<u32>,
        jitter: f64,
    ) -> Result<Self, RetryPolicyError> {
        if delays.is_empty() {
            return Err(RetryPolicyError::Empty);
        }
        delays.iter().copied().try_for_each(check_delay)?;
        let retries = retries.unwrap_or_else(|| u32::try_from(delays.len()).unwrap_or(u32::MAX));
        Self { delays: Delays::List(delays), retries, jitter }.checked()
    }

    /// The schedule that Standard Webhooks recommends: nine retries over three days.
    #[must_use]
    pub fn standard() -> Self {
        let delays = STANDARD_SECONDS.map(Duration::from_secs).to_vec();
        Self { delays: Delays::List(delays), retries: 9, jitter: Self::JITTER }
    }

    fn checked(self) -> Result<Self, RetryPolicyError> {
        if (0.0..=1.0).contains(&self.jitter) { Ok(self) } else { Err(RetryPolicyError::Jitter) }
    }

    /// How often a job is tried again after its first attempt.
    #[must_use]
    pub fn retries(&self) -> u32 {
        self.retries
    }

    /// The delay before the `retry`th retry, counted from 1, without jitter.
    #[must_use]
    pub fn delay(&self, retry: u32) -> Duration {
        let steps = retry.saturating_sub(1);
        match &self.delays {
            Delays::Exponential { base, factor, cap } => {
                let growth = factor.powf(f64::from(steps));
                let seconds = (base.as_secs_f64() * growth).min(cap.as_secs_f64());
                Duration::try_from_secs_f64(seconds).unwrap_or(*cap)
            }
            Delays::List(delays) => {
                let index = usize::try_from(steps).unwrap_or(usize::MAX);
                delays.get(index).or(delays.last()).copied().unwrap_or(Self::LONGEST)
            }
        }
    }

    /// The delay before the `retry`th retry, with jitter.
    pub fn jittered_delay(&self, retry: u32, rng: &mut impl Rng) -> Duration {
        let varied = self.delay(retry).mul_f64(1.0 + self.jitter * (2.0 * rng.random::<f64>() - 1.0));
        varied.max(Self::SHORTEST)
    }
}

impl Default for RetryPolicy {
    /// The scripts': 1, 2, 4, 8 and 16 seconds.
    fn default() -> Self {
        let exponential =
            Delays::Exponential { base: Duration::from_secs(1), factor: 2.0, cap: MOST_RETRY_AFTER };
        Self { delays: exponential, retries: 5, jitter: Self::JITTER }
    }
}

fn check_delay(delay: Duration) -> Result<(), RetryPolicyError> {
    let allowed = RetryPolicy::SHORTEST..=RetryPolicy::LONGEST;
    if allowed.contains(&delay) { Ok(()) } else { Err(RetryPolicyError::Delay) }
}

/// How one attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// When it ended.
    pub at: Timestamp,
    /// What the customer or the network did.
    pub result: Result<u16, Failure>,
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The customer answered, but not with 2xx.
    #[error("answered {status}")]
    Status {
        /// The HTTP status.
        status: u16,
        /// How long the customer asks to be left alone (429 and 503 only).
        retry_after: Option<Duration>,
    },
    /// No complete answer within the time limit.
    #[error("no complete answer within the time limit")]
    TimedOut,
    /// No connection: the name isn't known, the port is closed, TLS fails.
    #[error("connect: {0}")]
    Connect(String),
    /// The connection broke, or what came isn't HTTP.
    #[error("{0}")]
    Broken(String),
    /// More of a response than is read.
    #[error("response over {0} bytes")]
    ResponseTooLarge(usize),
    /// The address may not be called.
    #[error("{0}")]
    Refused(String),
    /// This machine couldn't send: nothing was learnt of the customer.
    #[error("on this machine: {0}")]
    Local(String),
}

/// What is done with a job after an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The customer has it.
    Done,
    /// Try again at that time.
    Retry {
        /// When it is due.
        at: Timestamp,
        /// What the failure says of the endpoint.
        endpoint: EndpointState,
    },
    /// Try no more: to the dead letters.
    Dead {
        /// Why.
        cause: Cause,
    },
    /// Its endpoint or tenant was deleted: nobody is left to deliver it to, or to replay it for.
    Dropped,
}

/// What a failed attempt says of its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointState {
    /// It failed: send it less.
    Failed,
    /// It asked to be left alone until the retry is due.
    Paused,
    /// Nothing: its answer was to what it no longer is.
    Unknown,
    /// Nothing: the request never left this machine. It uses up no retry.
    NotAsked,
}

/// Why a job is dead, with what there is to say about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// The last retry failed.
    Exhausted(Failure),
    /// It held up those behind it in its ordered lane for longer than it may.
    Blocked(Failure),
    /// The customer answered 410: it wants nothing more here.
    Gone,
    /// The egress guard or the URL rules refuse the address: no retry would change that.
    Refused(String),
    /// The endpoint is disabled: nothing was sent.
    Disabled,
    /// Attempt after attempt was broken off before there was a verdict.
    Interrupted,
    /// What was stored of it can't be read any more.
    Damaged(String),
}

impl Cause {
    /// Which cause it is.
    #[must_use]
    pub fn kind(&self) -> CauseKind {
        match self {
            Self::Exhausted(_) => CauseKind::Exhausted,
            Self::Blocked(_) => CauseKind::Blocked,
            Self::Gone => CauseKind::Gone,
            Self::Refused(_) => CauseKind::Refused,
            Self::Disabled => CauseKind::Disabled,
            Self::Interrupted => CauseKind::Interrupted,
            Self::Damaged(_) => CauseKind::Damaged,
        }
    }
}

/// The causes by name, as they are stored, filtered by and shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CauseKind {
    /// The last retry failed
    Exhausted,
    /// It held up an ordered endpoint for longer than it may
    Blocked,
    /// The customer answered 410
    Gone,
    /// The address may not be called
    Refused,
    /// The endpoint is disabled
    Disabled,
    /// Attempt after attempt was broken off
    Interrupted,
    /// What was stored of it can't be read
    Damaged,
}

impl CauseKind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Exhausted,
        Self::Blocked,
        Self::Gone,
        Self::Refused,
        Self::Disabled,
        Self::Interrupted,
        Self::Damaged,
    ];

    /// Its name, as serde has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exhausted => "exhausted",
            Self::Blocked => "blocked",
            Self::Gone => "gone",
            Self::Refused => "refused",
            Self::Disabled => "disabled",
            Self::Interrupted => "interrupted",
            Self::Damaged => "damaged",
        }
    }

    /// The cause of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// Whose failure it is.
    #[must_use]
    pub fn fault(self) -> Fault {
        match self {
            Self::Exhausted | Self::Blocked | Self::Gone | Self::Refused | Self::Disabled => Fault::Customer,
            Self::Interrupted | Self::Damaged => Fault::System,
        }
    }
}

/// Whose failure a dead letter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The endpoint didn't take it, or can't
    Customer,
    /// Whoever runs whk
    System,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exhausted(failure) => write!(f, "retries exhausted: {failure}"),
            Self::Blocked(failure) => write!(f, "held up its endpoint for too long: {failure}"),
            Self::Interrupted => f.write_str("every attempt was broken off"),
            Self::Damaged(reason) => write!(f, "damaged in the queue: {reason}"),
            Self::Gone => f.write_str("answered 410 Gone"),
            Self::Refused(reason) => f.write_str(reason),
            Self::Disabled => f.write_str("the endpoint is disabled"),
        }
    }
}

/// Decides what becomes of a job whose `attempt`th attempt (counted from 1) ended with `outcome`.
pub fn judge(outcome: &Outcome, attempt: u32, policy: &RetryPolicy, rng: &mut impl Rng) -> Verdict {
    let failure = match &outcome.result {
        Ok(_) => return Verdict::Done,
        Err(Failure::Status { status: 410, .. }) => return Verdict::Dead { cause: Cause::Gone },
        Err(Failure::Refused(reason)) => return Verdict::Dead { cause: Cause::Refused(reason.clone()) },
        Err(failure) => failure,
    };
    let delay = policy.jittered_delay(attempt, rng);
    let (delay, endpoint) = match failure {
        // However often this machine fails, the customer's event isn't given up for it.
        Failure::Local(_) => (delay, EndpointState::NotAsked),
        _ if attempt > policy.retries() => return Verdict::Dead { cause: Cause::Exhausted(failure.clone()) },
        Failure::Status { retry_after: Some(asked), .. } => {
            (delay.max((*asked).min(MOST_RETRY_AFTER)), EndpointState::Paused)
        }
        _ => (delay, EndpointState::Failed),
    };
    Verdict::Retry { at: after(outcome.at, delay), endpoint }
}

/// The verdict on the head of an ordered lane that was first tried at `first_attempt_at`: while it is retried it holds
/// up those behind it, and after `most` it is given up. Its last attempt is made when that time is over, at the latest.
/// What this machine couldn't send isn't given up.
#[must_use]
pub fn unblock(verdict: Verdict, outcome: &Outcome, first_attempt_at: Timestamp, most: Duration) -> Verdict {
    let latest = after(first_attempt_at, most);
    match (verdict, &outcome.result) {
        (Verdict::Retry { endpoint: EndpointState::Failed | EndpointState::Paused, .. }, Err(failure))
            if outcome.at >= latest =>
        {
            Verdict::Dead { cause: Cause::Blocked(failure.clone()) }
        }
        (Verdict::Retry { at, endpoint: EndpointState::Failed }, _) => {
            Verdict::Retry { at: at.min(latest), endpoint: EndpointState::Failed }
        }
        (verdict, _) => verdict,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn failed(failure: Failure) -> Outcome {
        Outcome { at: Timestamp::UNIX_EPOCH, result: Err(failure) }
    }

    fn status(status: u16, retry_after: Option<Duration>) -> Outcome {
        failed(Failure::Status { status, retry_after })
    }

    fn retry_delay(outcome: &Outcome, attempt: u32, policy: &RetryPolicy) -> Duration {
        match judge(outcome, attempt, policy, &mut StdRng::seed_from_u64(1)) {
            Verdict::Retry { at, .. } => Duration::try_from(at.duration_since(outcome.at)).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_default_is_the_scripts_schedule() {
        let policy = RetryPolicy::default();
        let delays: Vec<u64> = (1..=policy.retries()).map(|retry| policy.delay(retry).as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16]);
    }

    #[test]
    fn a_list_repeats_its_last_delay() {
        let policy = RetryPolicy::try_list(vec![SECOND, 3 * SECOND], Some(4), 0.0).unwrap();
        assert_eq!((1..=4).map(|retry| policy.delay(retry).as_secs()).collect::<Vec<_>>(), [1, 3, 3, 3]);
        assert_eq!(RetryPolicy::try_list(vec![SECOND, SECOND], None, 0.0).unwrap().retries(), 2);
    }

    #[test]
    fn nonsense_is_refused() {
        let exponential =
            |base, factor, jitter| RetryPolicy::try_exponential(base, factor, SECOND, 1, jitter);
        assert_eq!(exponential(Duration::ZERO, 2.0, 0.2), Err(RetryPolicyError::Delay));
        assert_eq!(exponential(SECOND, 0.5, 0.2), Err(RetryPolicyError::Factor));
        assert_eq!(exponential(SECOND, f64::NAN, 0.2), Err(RetryPolicyError::Factor));
        assert_eq!(exponential(SECOND, 2.0, 1.5), Err(RetryPolicyError::Jitter));
        assert_eq!(RetryPolicy::try_list(vec![], None, 0.0), Err(RetryPolicyError::Empty));
        assert_eq!(RetryPolicy::try_list(vec![Duration::MAX], None, 0.0), Err(RetryPolicyError::Delay));
    }

    #[test]
    fn success_is_done_and_the_last_failure_is_dead() {
        let rng = &mut StdRng::seed_from_u64(1);
        let policy = RetryPolicy::default();
        let done = Outcome { at: Timestamp::UNIX_EPOCH, result: Ok(204) };
        assert_eq!(judge(&done, 6, &policy, rng), Verdict::Done);
        assert!(matches!(judge(&status(500, None), 5, &policy, rng), Verdict::Retry { .. }));
        let dead = judge(&status(500, None), 6, &policy, rng);
        assert!(matches!(
            dead,
            Verdict::Dead { cause: Cause::Exhausted(Failure::Status { status: 500, .. }) }
        ));
    }

    #[test]
    fn what_no_retry_changes_is_dead_at_once() {
        let rng = &mut StdRng::seed_from_u64(1);
        let policy = RetryPolicy::default();
        assert_eq!(judge(&status(410, None), 1, &policy, rng), Verdict::Dead { cause: Cause::Gone });
        let refused = judge(&failed(Failure::Refused("private address".into())), 1, &policy, rng);
        assert_eq!(refused, Verdict::Dead { cause: Cause::Refused("private address".into()) });
    }

    #[test]
    fn retry_after_is_honoured_between_the_delay_and_an_hour() {
        let policy = RetryPolicy::try_list(vec![10 * SECOND], Some(9), 0.0).unwrap();
        assert_eq!(retry_delay(&status(429, Some(SECOND)), 1, &policy), 10 * SECOND);
        assert_eq!(retry_delay(&status(503, Some(60 * SECOND)), 1, &policy), 60 * SECOND);
        assert_eq!(retry_delay(&status(503, Some(Duration::MAX)), 1, &policy), MOST_RETRY_AFTER);
    }

    #[test]
    fn what_this_machine_can_not_send_is_never_given_up_and_blames_nobody() {
        let outcome = failed(Failure::Local("too many open files".into()));
        let verdict = judge(&outcome, 100, &RetryPolicy::default(), &mut StdRng::seed_from_u64(1));
        assert!(matches!(verdict, Verdict::Retry { endpoint: EndpointState::NotAsked, .. }), "{verdict:?}");
    }

    #[test]
    fn a_head_is_given_up_when_it_has_held_its_lane_for_too_long() {
        let at = |seconds| after(Timestamp::UNIX_EPOCH, seconds * SECOND);
        let retry = |seconds, endpoint| Verdict::Retry { at: at(seconds), endpoint };
        let unblocked = |now, result, verdict| {
            unblock(verdict, &Outcome { at: at(now), result: Err(result) }, at(0), 60 * SECOND)
        };
        let failed = |now, verdict| unblocked(now, Failure::TimedOut, verdict);
        let (down, paused) = (EndpointState::Failed, EndpointState::Paused);
        assert_eq!(failed(10, retry(20, down)), retry(20, down));
        assert_eq!(failed(50, retry(90, down)), retry(60, down), "the last attempt at the end of the time");
        let blocked = Verdict::Dead { cause: Cause::Blocked(Failure::TimedOut) };
        assert_eq!(failed(60, retry(90, down)), blocked);
        assert_eq!(failed(50, retry(90, paused)), retry(90, paused), "it asked for it");
        assert_eq!(failed(90, retry(99, paused)), blocked);
        let local = || Failure::Local("no descriptors".into());
        let not_asked = EndpointState::NotAsked;
        assert_eq!(unblocked(99, local(), retry(100, not_asked)), retry(100, not_asked));
        assert_eq!(failed(99, Verdict::Done), Verdict::Done);
    }

    #[test]
    fn only_who_asks_for_it_is_paused() {
        let verdict = |outcome| judge(&outcome, 1, &RetryPolicy::default(), &mut StdRng::seed_from_u64(1));
        let of = |outcome| match verdict(outcome) {
            Verdict::Retry { endpoint, .. } => endpoint,
            other => panic!("{other:?}"),
        };
        assert_eq!(of(status(503, Some(SECOND))), EndpointState::Paused);
        assert_eq!(of(status(503, None)), EndpointState::Failed);
        assert_eq!(of(failed(Failure::TimedOut)), EndpointState::Failed);
    }

    proptest! {
        #[test]
        fn delays_grow_to_the_cap_and_jitter_stays_in_its_share(
            base_ms in 1_u64..100_000, factor in 1.0_f64..10.0, cap_ms in 1_u64..10_000_000,
            retry in 1_u32..=u32::MAX, jitter in 0.0_f64..=1.0, seed: u64,
        ) {
            let (base, cap) = (Duration::from_millis(base_ms), Duration::from_millis(cap_ms));
            let policy = RetryPolicy::try_exponential(base, factor, cap, 5, jitter).unwrap();
            let delay = policy.delay(retry);
            prop_assert!(delay <= cap);
            prop_assert!(policy.delay(retry.saturating_add(1)) >= delay);
            let jittered = policy.jittered_delay(retry, &mut StdRng::seed_from_u64(seed)).as_secs_f64();
            let spread = (delay.as_secs_f64() * jitter).max(0.001) + 1e-6;
            prop_assert!((jittered - delay.as_secs_f64()).abs() <= spread);
        }
    }
}
