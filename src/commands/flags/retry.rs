//! The flags about retries, for every command that delivers.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::value::duration;
use crate::common::retry::{RetryPolicy, RetryPolicyError};
use crate::exit::UsageError;

/// When a failed delivery is tried again.
#[derive(Debug, Args)]
#[command(next_help_heading = "Retries")]
pub(crate) struct RetryArgs {
    /// Retries after the first attempt; then the job is dead-lettered
    #[arg(long, env = "MAX_RETRIES", value_name = "COUNT")]
    max_retries: Option<u32>,
    /// Delays in milliseconds, comma-separated; the last repeats up to --max-retries
    #[arg(
        long,
        env = "RETRY_DELAYS",
        value_name = "MS,…",
        value_delimiter = ',',
        value_parser = milliseconds
    )]
    retry_delays: Option<Vec<Duration>>,
    /// A schedule by name, before any other: scripts = 1, 2, 4, 8, 16 s; standard = 5 s, 5 min, 30 min, 2, 5, 10, 14, 20 and 24 h
    #[arg(long, value_enum, value_name = "NAME")]
    retry_schedule: Option<Schedule>,
    /// First delay, where neither delays nor a schedule are given
    #[arg(long, value_parser = duration, default_value = "1s", value_name = "DURATION")]
    retry_base: Duration,
    /// What each delay is multiplied by to give the next
    #[arg(long, default_value_t = 2.0, value_name = "FACTOR")]
    retry_factor: f64,
    /// Longest delay
    #[arg(long, value_parser = duration, default_value = "1h", value_name = "DURATION")]
    retry_cap: Duration,
    /// Share by which delays vary at random, 0 to 1
    #[arg(long, default_value_t = RetryPolicy::JITTER, value_name = "SHARE")]
    retry_jitter: f64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Schedule {
    Scripts,
    Standard,
}

/// Retries where nothing else is said: the scripts'.
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

/// As the scripts do, with white space around the number.
fn milliseconds(text: &str) -> Result<Duration, String> {
    let number = text.trim().parse().map_err(|_| "whole milliseconds, separated by commas, are needed")?;
    Ok(Duration::from_millis(number))
}
