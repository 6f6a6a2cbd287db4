//! Errors as `application/problem+json` (RFC 9457).

use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use serde::Serialize;

use crate::common::crypto::legacy::LegacyError;
use crate::common::http::BodyError;
use crate::publish::PublishError;

/// Seconds after which a publisher that was refused for want of room tries again.
const TRY_AGAIN_SECONDS: u16 = 1;

/// What went wrong, and what to do about it. Never holds a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    detail: String,
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
        Self { status, detail: detail.into() }
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
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, TRY_AGAIN_SECONDS.into());
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
            PublishError::Queue(error) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, format!("{error}; try again"))
            }
            PublishError::Legacy(_) | PublishError::Seal(_) | PublishError::Write(_) => {
                tracing::error!(error = %format!("{:#}", anyhow::Error::from(error)), "publish failed");
                Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "the event couldn't be sealed; see the server's log",
                )
            }
        }
    }
}
