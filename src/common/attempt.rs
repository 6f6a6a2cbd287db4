//! The record of one attempt, which is kept with its message.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::retry::{Failure, Outcome};

/// Maximum number of attempts kept per message. The oldest are removed first.
pub const KEPT_ATTEMPTS: usize = 10;

/// Record of one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Attempt {
    /// Start of the attempt
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Duration in milliseconds
    pub latency_ms: u64,
    /// HTTP status, if the endpoint answered
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Reason of the failure, if the attempt failed
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Attempt {
    /// Makes the record of an attempt that started at `at` and ended with `outcome`.
    #[must_use]
    pub fn new(at: Timestamp, outcome: &Outcome) -> Self {
        let latency_ms = u64::try_from(outcome.at.duration_since(at).as_millis()).unwrap_or_default();
        let (status, error) = match &outcome.result {
            Ok(status) => (Some(*status), None),
            Err(failure @ Failure::Status { status, .. }) => (Some(*status), Some(failure.to_string())),
            // Customers see this record, so it doesn't reveal the state of this machine.
            Err(Failure::Local(_)) => (None, Some("the request couldn't be sent".to_owned())),
            Err(failure) => (None, Some(failure.to_string())),
        };
        Self { at, latency_ms, status, error }
    }
}

/// Adds an attempt to those of a message. Removes the oldest if there are more than [`KEPT_ATTEMPTS`].
pub fn keep(attempts: &mut Vec<Attempt>, attempt: Attempt) {
    let too_many = attempts.len().saturating_add(1).saturating_sub(KEPT_ATTEMPTS);
    attempts.drain(..too_many.min(attempts.len()));
    attempts.push(attempt);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::common::clock::after;

    #[test]
    fn the_latest_attempts_are_kept() {
        let at = |second| after(Timestamp::UNIX_EPOCH, Duration::from_secs(second));
        let mut attempts = Vec::new();
        for second in 0..12 {
            let outcome = Outcome { at: at(second + 1), result: Ok(200) };
            keep(&mut attempts, Attempt::new(at(second), &outcome));
        }
        assert_eq!(attempts.len(), KEPT_ATTEMPTS);
        assert_eq!((attempts[0].at, attempts[9].at, attempts[9].latency_ms), (at(2), at(11), 1_000));
    }

    #[test]
    fn a_local_failure_shows_no_details_of_this_machine() {
        let failed = |failure| {
            Attempt::new(Timestamp::UNIX_EPOCH, &Outcome { at: Timestamp::UNIX_EPOCH, result: Err(failure) })
        };
        let local = failed(Failure::Local("too many open files".into()));
        assert_eq!((local.status, local.error.as_deref()), (None, Some("the request couldn't be sent")));
        let refused = failed(Failure::Status { status: 500, retry_after: None });
        assert_eq!((refused.status, refused.error.as_deref()), (Some(500), Some("answered 500")));
    }
}
