//! The outcome of one attempt.

use std::time::Duration;

use jiff::Timestamp;

/// End of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Time at which the attempt ended.
    pub at: Timestamp,
    /// HTTP status of a successful attempt (2xx), or the failure.
    pub result: Result<u16, Failure>,
}

impl Outcome {
    /// Whether the endpoint answered 410 Gone.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self.result, Err(Failure::Status { status: 410, .. }))
    }
}

/// Failure of one attempt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The endpoint answered with a status other than 2xx.
    #[error("answered {status}")]
    Status {
        /// HTTP status.
        status: u16,
        /// Delay that a 429 or 503 asks for in its `Retry-After` header.
        retry_after: Option<Duration>,
    },
    /// No complete response arrived within the time limit.
    #[error("no complete response within the time limit")]
    TimedOut,
    /// No connection was made: the name is unknown, the port is closed, or TLS failed.
    #[error("connect: {0}")]
    Connect(String),
    /// The connection broke, or the response isn't HTTP.
    #[error("{0}")]
    Broken(String),
    /// The response is longer than the limit in bytes.
    #[error("response over {0} bytes")]
    ResponseTooLarge(usize),
    /// The egress guard refused the address.
    #[error("{0}")]
    Refused(String),
    /// This machine couldn't send the request, so the failure says nothing about the endpoint.
    #[error("on this machine: {0}")]
    Local(String),
}
