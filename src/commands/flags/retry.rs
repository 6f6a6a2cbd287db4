//! The flags about retries, for the commands that deliver.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::value::duration;
use crate::common::retry::{RetryPolicy, RetryPolicyError};
use crate::exit::UsageError;

/// The flags about retries.
#[derive(Debug, Args)]
#[command(next_help_heading = "Retries")]
pub(crate) struct RetryArgs {
    /// Number of retries after the first attempt; then the job is dead-lettered. Default: 5, or one for each delay given
    #[arg(long, env = "MAX_RETRIES", value_name = "COUNT")]
    max_retries: Option<u32>,
    /// Delays before each retry, in milliseconds, separated by commas: 1000,60000 for example. The last delay repeats up to
    /// --max-retries
    #[arg(
        long,
        env = "RETRY_DELAYS",
        value_name = "MS,…",
        value_delimiter = ',',
        value_parser = milliseconds
    )]
    retry_delays: Option<Vec<Duration>>,
    /// Predefined list of delays. Overrides --retry-delays, --retry-base, --retry-factor and --retry-cap
    #[arg(long, value_enum, value_name = "NAME")]
    retry_schedule: Option<Schedule>,
    /// Delay before the first retry, if neither --retry-delays nor --retry-schedule is given
    #[arg(long, value_parser = duration, default_value = "1s", value_name = "DURATION")]
    retry_base: Duration,
    /// Factor by which the delay grows from one retry to the next
    #[arg(long, default_value_t = 2.0, value_name = "FACTOR")]
    retry_factor: f64,
    /// Maximum delay between retries
    #[arg(long, value_parser = duration, default_value = "1h", value_name = "DURATION")]
    retry_cap: Duration,
    /// Random variation of each delay, as a share from 0 to 1: 0.2 is ±20 %. Spreads retries of many jobs over time
    #[arg(long, default_value_t = RetryPolicy::JITTER, value_name = "SHARE")]
    retry_jitter: f64,
}

/// The value of `--retry-schedule`.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Schedule {
    /// The Deno scripts' delays: 1, 2, 4, 8 and 16 s
    Scripts,
    /// The delays of Standard Webhooks, about three days in all: 5 s, 5 min, 30 min, 2, 5, 10, 14, 20 and 24 h
    Standard,
}

/// Default number of retries: the Deno scripts'.
const RETRIES: u32 = 5;

impl RetryArgs {
    /// Returns the policy that the flags describe.
    ///
    /// # Errors
    /// The values don't make a policy.
    pub(crate) fn policy(&self) -> anyhow::Result<RetryPolicy> {
        self.try_policy().map_err(|error| UsageError(format!("retry flags: {error}")).into())
    }

    fn try_policy(&self) -> Result<RetryPolicy, RetryPolicyError> {
        if let Some(schedule) = self.retry_schedule {
            let named = schedule.policy();
            let delays = (1..=named.retries()).map(|retry| named.delay(retry)).collect();
            return RetryPolicy::try_list(delays, self.max_retries, self.retry_jitter);
        }
        if let Some(delays) = &self.retry_delays {
            return RetryPolicy::try_list(delays.clone(), self.max_retries, self.retry_jitter);
        }
        let retries = self.max_retries.unwrap_or(RETRIES);
        let Self { retry_base, retry_factor, retry_cap, retry_jitter, .. } = *self;
        RetryPolicy::try_exponential(retry_base, retry_factor, retry_cap, retries, retry_jitter)
    }
}

impl Schedule {
    fn policy(self) -> RetryPolicy {
        match self {
            Self::Scripts => RetryPolicy::default(),
            Self::Standard => RetryPolicy::standard(),
        }
    }
}

/// Parses whole milliseconds. White space around the number is allowed, as the Deno scripts allow it.
fn milliseconds(text: &str) -> Result<Duration, String> {
    let number = text.trim().parse().map_err(|_| "expected whole milliseconds, separated by commas")?;
    Ok(Duration::from_millis(number))
}
