//! The retry policy: the number of retries and the delay before each.

use std::time::Duration;

use rand::{Rng, RngExt as _};

/// Delays that Standard Webhooks recommends, in seconds: 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h.
const STANDARD_SECONDS: [u64; 9] = [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400];

/// Upper bound of the default policy's delays: one hour.
const DEFAULT_CAP: Duration = Duration::from_secs(3600);

/// Number of retries of a job, and the delays before them.
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

/// Refusal of a retry policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RetryPolicyError {
    /// A delay is out of range. A delay of zero would flood the endpoint.
    #[error("a retry delay must be at least 1 ms and at most 30 days")]
    Delay,
    /// The list of delays is empty.
    #[error("a list of retry delays needs at least one")]
    Empty,
    /// The factor is out of range. A factor below 1 would shrink the delays.
    #[error("the retry factor must be between 1 and 100")]
    Factor,
    /// The jitter is not a share between 0 and 1.
    #[error("the retry jitter must be between 0 and 1")]
    Jitter,
}

impl RetryPolicy {
    /// Default jitter: each delay varies by up to 20 % in both directions, so that jobs that failed together aren't
    /// retried together.
    pub const JITTER: f64 = 0.2;

    const MIN_DELAY: Duration = Duration::from_millis(1);
    const MAX_DELAY: Duration = Duration::from_secs(30 * 86_400);

    /// Makes a policy of `retries` delays that start at `base` and grow by `factor` up to `cap`. `jitter` is the share
    /// by which each delay varies in both directions.
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

    /// Makes a policy of explicit delays. The default for `retries` is the length of the list. More retries repeat
    /// the last delay.
    ///
    /// # Errors
    /// A delay or the jitter is out of range, or the list is empty.
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

    /// Returns the schedule that Standard Webhooks recommends: nine retries within about three days.
    #[must_use]
    pub fn standard() -> Self {
        let delays = STANDARD_SECONDS.map(Duration::from_secs).to_vec();
        Self { delays: Delays::List(delays), retries: 9, jitter: Self::JITTER }
    }

    fn checked(self) -> Result<Self, RetryPolicyError> {
        if (0.0..=1.0).contains(&self.jitter) { Ok(self) } else { Err(RetryPolicyError::Jitter) }
    }

    /// Returns the number of retries after the first attempt.
    #[must_use]
    pub fn retries(&self) -> u32 {
        self.retries
    }

    /// Returns the delay before retry number `retry`, counted from 1, without jitter.
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
                delays.get(index).or(delays.last()).copied().unwrap_or(Self::MAX_DELAY)
            }
        }
    }

    /// Returns the delay before retry number `retry`, counted from 1, with jitter.
    pub fn jittered_delay(&self, retry: u32, rng: &mut impl Rng) -> Duration {
        let varied = self.delay(retry).mul_f64(1.0 + self.jitter * (2.0 * rng.random::<f64>() - 1.0));
        varied.max(Self::MIN_DELAY)
    }
}

impl Default for RetryPolicy {
    /// Returns the schedule of the Deno scripts: 1, 2, 4, 8 and 16 seconds.
    fn default() -> Self {
        let exponential = Delays::Exponential { base: Duration::from_secs(1), factor: 2.0, cap: DEFAULT_CAP };
        Self { delays: exponential, retries: 5, jitter: Self::JITTER }
    }
}

fn check_delay(delay: Duration) -> Result<(), RetryPolicyError> {
    let allowed = RetryPolicy::MIN_DELAY..=RetryPolicy::MAX_DELAY;
    if allowed.contains(&delay) { Ok(()) } else { Err(RetryPolicyError::Delay) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_default_is_the_schedule_of_the_scripts() {
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
    fn values_out_of_range_are_refused() {
        let exponential =
            |base, factor, jitter| RetryPolicy::try_exponential(base, factor, SECOND, 1, jitter);
        assert_eq!(exponential(Duration::ZERO, 2.0, 0.2), Err(RetryPolicyError::Delay));
        assert_eq!(exponential(SECOND, 0.5, 0.2), Err(RetryPolicyError::Factor));
        assert_eq!(exponential(SECOND, f64::NAN, 0.2), Err(RetryPolicyError::Factor));
        assert_eq!(exponential(SECOND, 2.0, 1.5), Err(RetryPolicyError::Jitter));
        assert_eq!(RetryPolicy::try_list(vec![], None, 0.0), Err(RetryPolicyError::Empty));
        assert_eq!(RetryPolicy::try_list(vec![Duration::MAX], None, 0.0), Err(RetryPolicyError::Delay));
    }

    proptest! {
        #[test]
        fn delays_grow_up_to_the_cap_and_jitter_stays_within_its_share(
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
