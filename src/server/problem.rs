//! Errors as `application/problem+json` (RFC 9457).

use std::fmt::Display;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};

use crate::api::ProblemView;
use crate::common::crypto::legacy::LegacyError;
use crate::common::http::BodyError;
use crate::publish::PublishError;
use crate::queue::QueueError;
use crate::registry::RegistryError;

/// Value of `Retry-After` for a full queue or an unreachable store, in seconds. Either may recover at any time.
const UNAVAILABLE_RETRY_SECONDS: u64 = 1;

/// An error response. Its detail says what went wrong and what to do about it, and never holds a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    /// Value of `Retry-After`, in seconds.
    retry_after: Option<u64>,
}

impl Problem {
    /// Creates a problem. A 503 asks the client to try again after a second.
    #[must_use]
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let retry_after = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(UNAVAILABLE_RETRY_SECONDS);
        Self { status, detail: detail.into(), retry_after }
    }

    /// Creates a 429 problem: a limit is reached. `retry_after` is the delay after which a retry may succeed, or `None`
    /// if time alone doesn't help.
    #[must_use]
    pub fn too_many(detail: impl Into<String>, retry_after: Option<Duration>) -> Self {
        // Rounded up, because a retry that is too early is refused again.
        let retry_after = retry_after.map(|wait| wait.as_secs().saturating_add(1));
        Self { retry_after, ..Self::new(StatusCode::TOO_MANY_REQUESTS, detail) }
    }

    /// Creates a 400 problem.
    #[must_use]
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }
}

/// Creates a 400 problem about one member of a body. `error` continues the sentence that starts with its name.
pub(super) fn invalid_field(name: &str, error: &impl Display) -> Problem {
    Problem::bad_request(format!("'{name}' {error}"))
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = ProblemView {
            kind: "about:blank".to_owned(),
            title: self.status.canonical_reason().unwrap_or("Error").to_owned(),
            status: self.status.as_u16(),
            detail: self.detail,
        };
        let body = serde_json::to_vec(&body).unwrap_or_default();
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<BodyError> for Problem {
    fn from(error: BodyError) -> Self {
        let (status, detail) = match error {
            BodyError::TooLarge(max_bytes) => (
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the request's body is larger than the {max_bytes} bytes that this route accepts"),
            ),
            BodyError::TimedOut(limit) => (
                StatusCode::REQUEST_TIMEOUT,
                format!(
                    "the request's body wasn't received within {} s; the operator can raise --request-timeout",
                    limit.as_secs()
                ),
            ),
            BodyError::Broken => (
                StatusCode::BAD_REQUEST,
                "the connection broke before the end of the request's body".to_owned(),
            ),
        };
        Self::new(status, detail)
    }
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Self {
        let detail = error.to_string();
        match error {
            PublishError::Refused(refusal) => Self::bad_request(format!("'url': {refusal}")),
            PublishError::TooFast { retry_after, .. } => Self::too_many(
                format!(
                    "{detail}; try again after the Retry-After delay, or ask the provider for a higher limit"
                ),
                Some(retry_after),
            ),
            PublishError::TooManyQueued { .. } | PublishError::TooManyBytesQueued { .. } => Self::too_many(
                format!(
                    "{detail}; try again when some are delivered, or ask the provider for a higher limit"
                ),
                Some(Duration::ZERO),
            ),
            PublishError::TooLargeForEnvelope => Self::new(StatusCode::PAYLOAD_TOO_LARGE, detail),
            PublishError::Legacy(error @ LegacyError::TooLarge { .. }) => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, error.to_string())
            }
            PublishError::Queue(error) => error.into(),
            PublishError::Registry(error) => error.into(),
            PublishError::Legacy(_)
            | PublishError::Seal(_)
            | PublishError::Key(_)
            | PublishError::Write(_) => {
                tracing::error!(error = %format!("{:#}", anyhow::Error::from(error)), "publishing failed");
                let detail = "the event couldn't be sealed; the operator finds the cause in the server's log";
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
            }
        }
    }
}

impl From<QueueError> for Problem {
    fn from(error: QueueError) -> Self {
        let detail = error.to_string();
        match error {
            QueueError::TooLarge => Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("{detail}; the operator can raise --max-queue-size and --max-queue-bytes"),
            ),
            QueueError::Full | QueueError::Closed => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("{detail}; try again after the Retry-After delay"),
            ),
            QueueError::Unavailable(..) => {
                tracing::error!(error = %format!("{:#}", anyhow::Error::from(error)), "queue unavailable");
                Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    format!(
                        "{detail}; try again after the Retry-After delay, with the same Idempotency-Key if the request \
                         has one; the operator finds the cause in the server's log"
                    ),
                )
            }
        }
    }
}

impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Self {
        let detail = error.to_string();
        match error {
            RegistryError::NoSuch(_) => Self::new(StatusCode::NOT_FOUND, detail),
            RegistryError::Changed => Self::new(StatusCode::PRECONDITION_FAILED, detail),
            RegistryError::Conflict(_) => Self::new(StatusCode::CONFLICT, detail),
            RegistryError::Limit { .. } => Self::too_many(detail, None),
            RegistryError::Store(_) | RegistryError::Stopped => {
                log_registry(error);
                Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the change couldn't be stored and wasn't made; try again, and look for the cause in the server's log",
                )
            }
            RegistryError::Unsure(_) | RegistryError::Behind(_) => {
                log_registry(error);
                Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    format!("{detail}; try again, and look for the cause in the server's log"),
                )
            }
            RegistryError::Random(_) | RegistryError::Key(_) => {
                log_registry(error);
                Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "the change wasn't made; look for the cause in the server's log",
                )
            }
        }
    }
}

fn log_registry(error: RegistryError) {
    tracing::error!(error = %format!("{:#}", anyhow::Error::from(error)), "registry error");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreachable_queue_asks_for_a_retry_and_hides_its_address() {
        let inner = std::io::Error::other("redis://:secret@10.0.0.7 refused");
        let unavailable = || {
            QueueError::Unavailable(
                "the queue can't be reached",
                Box::new(std::io::Error::other(inner.to_string())),
            )
        };
        for problem in [Problem::from(unavailable()), PublishError::Queue(unavailable()).into()] {
            assert_eq!((problem.status, problem.retry_after), (StatusCode::SERVICE_UNAVAILABLE, Some(1)));
            assert!(problem.detail.starts_with("the queue can't be reached"), "{problem:?}");
            assert!(!problem.detail.contains("secret"), "{problem:?}");
        }
        let full = Problem::from(QueueError::Full);
        assert_eq!((full.status, full.retry_after), (StatusCode::SERVICE_UNAVAILABLE, Some(1)));
        assert_eq!(Problem::from(QueueError::TooLarge).status, StatusCode::PAYLOAD_TOO_LARGE);
    }
}
