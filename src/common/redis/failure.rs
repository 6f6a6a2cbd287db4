//! Failures of commands.

use std::time::Duration;

use redis::{ErrorKind, RedisError};

/// Maximum time of a command, including the time to connect.
pub const MAX_WAIT: Duration = Duration::from_secs(4);

/// A command failed.
#[derive(Debug, thiserror::Error)]
pub enum RedisFailure {
    /// Redis can't be reached or didn't answer in time. It may or may not have executed the command.
    #[error("no answer from Redis within {} s", MAX_WAIT.as_secs())]
    TimedOut,
    /// Redis refused the command, or the connection broke.
    #[error(transparent)]
    Failed(RedisError),
    /// The answer has another type than expected. The error doesn't contain the answer, which may be a payload.
    #[error("Redis gave an unexpected answer")]
    Unexpected,
}

impl From<RedisError> for RedisFailure {
    fn from(error: RedisError) -> Self {
        match error.kind() {
            ErrorKind::UnexpectedReturnType | ErrorKind::Parse => Self::Unexpected,
            _ => Self::Failed(error),
        }
    }
}

impl RedisFailure {
    /// Returns the code of a refusal, such as `OOM`.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::TimedOut | Self::Unexpected => None,
            Self::Failed(error) => error.code(),
        }
    }
}
