//! Reasons for which deliveries are rejected.

use std::io::ErrorKind;
use std::time::Duration;

use http::StatusCode;

use super::seen::MAX_ID_BYTES;
use crate::common::crypto::envelope::OpenError;
use crate::common::crypto::legacy::LegacyError;
use crate::common::crypto::signature::SignatureError;
use crate::common::http::BodyError;

/// Reason why a delivery is answered with an error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Rejection {
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error(transparent)]
    Signature(#[from] SignatureError),
    #[error("webhook-id is over {MAX_ID_BYTES} bytes")]
    Id,
    #[error("another delivery of this id is in progress")]
    InProgress,
    #[error(transparent)]
    Envelope(#[from] OpenError),
    #[error("the decrypted message isn't a whk message")]
    Message,
    #[error("stdout can't be written: {0}")]
    Stdout(ErrorKind),
    #[error("the application (--forward) can't be reached: {0}")]
    Unreachable(String),
    #[error("the application (--forward) didn't answer within {} s", .0.as_secs())]
    Unanswered(Duration),
}

impl Rejection {
    /// Returns the HTTP status of the response.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Body(BodyError::TooLarge(_)) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Body(BodyError::TimedOut(_)) => StatusCode::REQUEST_TIMEOUT,
            Self::Signature(_) => StatusCode::UNAUTHORIZED,
            Self::InProgress => StatusCode::CONFLICT,
            Self::Stdout(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unreachable(_) => StatusCode::BAD_GATEWAY,
            Self::Unanswered(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::Body(BodyError::Broken) | Self::Id | Self::Envelope(_) | Self::Message => {
                StatusCode::BAD_REQUEST
            }
        }
    }
}

impl From<LegacyError> for Rejection {
    fn from(error: LegacyError) -> Self {
        Self::Envelope(match error {
            LegacyError::Malformed => OpenError::Malformed("a JSON string must hold base64"),
            _ => OpenError::Decrypt,
        })
    }
}
