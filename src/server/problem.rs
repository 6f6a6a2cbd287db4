//! Errors as `application/problem+json` (RFC 9457).

use std::fmt::Display;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;

use crate::common::crypto::legacy::LegacyError;
use crate::common::http::BodyError;
use crate::publish::PublishError;
use crate::queue::QueueError;
use crate::registry::RegistryError;

/// Seconds after which a publisher that was refused for want of room tries again.
const TRY_AGAIN_SECONDS: u64 = 1;

/// What went wrong, and what to do about it. Never holds a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    /// Seconds after which it may be tried again.
    retry_after: Option<u64>,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'a str,
}

impl Problem {
    /// A problem of that status.
    #[must_use]
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let retry_after = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(TRY_AGAIN_SECONDS);
        Self { status, detail: detail.into(), retry_after }
    }

    /// 429: too much of something, until some time has passed.
    #[must_use]
    pub fn too_many(detail: impl Into<String>, retry_after: Option<Duration>) -> Self {
        // Rounded up: a second early is one refusal more.
        let retry_after = retry_after.map(|wait| wait.as_secs().saturating_add(1));
        Self { retry_after, ..Self::new(StatusCode::TOO_MANY_REQUESTS, detail) }
    }

    /// 400.
    #[must_use]
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let body = Body { r#type: "about:blank", title, status: self.status.as_u16(), detail: &self.detail };
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
        let status = match error {
            BodyError::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            BodyError::TimedOut(_) => StatusCode::REQUEST_TIMEOUT,
            BodyError::Broken => StatusCode::BAD_REQUEST,
        };
        Self::new(status, format!("request {error}"))
    }
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Refused(refusal) => Self::bad_request(format!("'url': {refusal}")),
            PublishError::Legacy(error @ LegacyError::TooLarge { .. }) => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, error.to_string())
            }
            error @ (PublishError::TooFast { .. }
            | PublishError::TooManyQueued { .. }
            | PublishError::TooManyBytesQueued) => {
                let wait = if let PublishError::TooFast { retry_after, .. } = error {
                    Some(retry_after)
                } else {
                    None
                };
                Self::too_many(error.to_string(), wait.or(Some(Duration::ZERO)))
            }
            error @ PublishError::TooLargeForEnvelope => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, error.to_string())
            }
            PublishError::Queue(error) => error.into(),
            PublishError::Registry(error) => error.into(),
            PublishError::Legacy(_)
            | PublishError::Seal(_)
            | PublishError::Key(_)
            | PublishError::Write(_) => {
                tracing::error!(error = %format!("{:#}", anyhow::Error::from(error)), "publish failed");
                Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "the event couldn't be sealed; see the server's log",
                )
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
                format!("{detail}; see --max-queue-size and --max-queue-bytes"),
            ),
            QueueError::Full | QueueError::Closed => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, format!("{detail}; try again"))
            }
            QueueError::Unavailable(..) => {
                tracing::error!(error = %format!("{:#}", anyhow::Error::from(error)), "queue");
                Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    format!(
                        "{detail}; try again, with the same Idempotency-Key where there is one, and see the server's log"
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
                tracing::error!(error = %format!("{:#}", anyhow::Error::from(error)), "registry");
                Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the change can't be written down, and wasn't made; see the server's log",
                )
            }
            RegistryError::Unsure(_) | RegistryError::Behind(_) => {
                tracing::error!(error = %format!("{:#}", anyhow::Error::from(error)), "registry");
                Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    format!("{detail}; try again, and see the server's log"),
                )
            }
            RegistryError::Random(_) | RegistryError::Key(_) => {
                tracing::error!(error = %format!("{:#}", anyhow::Error::from(error)), "registry");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the change wasn't made; see the server's log")
            }
        }
    }
}

/// 400, about one member of a body.
pub(super) fn field(name: &str, error: &impl Display) -> Problem {
    Problem::bad_request(format!("'{name}' {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_can_not_be_reached_says_when_to_come_back_and_nothing_of_its_inside() {
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
