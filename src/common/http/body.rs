//! Bodies of bounded size.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Body;

/// Failure to read a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The body is longer than the limit in bytes.
    #[error("body over {0} bytes")]
    TooLarge(usize),
    /// The body wasn't complete within the time limit.
    #[error("body not complete within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The connection broke before the end of the body.
    #[error("body broke off")]
    Broken,
}

/// Reads a whole body of at most `limit` bytes within `time`. A body that arrives in one frame isn't copied.
///
/// # Errors
/// The body is too long or too slow, or the connection breaks.
pub async fn read_body<B>(body: B, limit: usize, time: Duration) -> Result<Bytes, BodyError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if usize::try_from(body.size_hint().lower()).map_or(true, |length| length > limit) {
        return Err(BodyError::TooLarge(limit));
    }
    match tokio::time::timeout(time, Limited::new(body, limit).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(BodyError::TooLarge(limit)),
        Ok(Err(_)) => Err(BodyError::Broken),
        Err(_) => Err(BodyError::TimedOut(time)),
    }
}
