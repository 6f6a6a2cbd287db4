//! Errors of the queue in Redis.

use crate::common::redis::{RedisConfig, RedisFailure};
use crate::queue::QueueError;

/// The queue in Redis can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenRedisError {
    /// Redis can't be reached, or refuses a command.
    #[error("Redis at {at} can't be used; see --redis-url")]
    Unusable {
        /// Host and port.
        at: String,
        /// The reason.
        source: RedisFailure,
    },
    /// The first call of a script failed.
    #[error("the queue in Redis can't be opened")]
    Queue(#[source] QueueError),
    /// Redis is too old.
    #[error("Redis at {at} has version {version}, and 7.0 or newer is needed")]
    TooOld {
        /// Host and port.
        at: String,
        /// Version that Redis reports.
        version: String,
    },
    /// Redis is part of a cluster, and only one URL was given.
    #[error("Redis at {at} is a cluster; pass several of its nodes to --redis-url, separated by commas")]
    IsCluster {
        /// Host and port.
        at: String,
    },
    /// Redis isn't part of a cluster, and several URLs were given.
    #[error("Redis at {at} isn't a cluster; pass only its URL to --redis-url")]
    NoCluster {
        /// Host and port.
        at: String,
    },
    /// A newer version of whk, or another program, has written the keys.
    #[error(
        "a newer version of whk or another program has written the keys that begin with {prefix}; see --redis-prefix"
    )]
    Layout {
        /// Prefix of the keys.
        prefix: String,
    },
}

impl OpenRedisError {
    pub(super) fn unusable(redis: &RedisConfig, source: RedisFailure) -> Self {
        Self::Unusable { at: redis.to_string(), source }
    }
}

/// Converts a failed command into an error of the queue that names the likely cause.
pub(super) fn unavailable(error: RedisFailure) -> QueueError {
    let reason = match error.code() {
        Some("OOM") => "Redis has no memory left (maxmemory)",
        Some("READONLY") => "Redis is a read-only replica",
        Some("LOADING") => "Redis is loading its data",
        Some("MASTERDOWN" | "CLUSTERDOWN") => "a part of Redis is down",
        Some("NOPERM" | "NOAUTH" | "WRONGPASS") => "Redis denies access",
        Some("MISCONF") => "Redis can't write to its disk",
        Some(_) => "Redis refused the command",
        None if matches!(error, RedisFailure::Unexpected) => "Redis gave an unexpected answer",
        None => "Redis can't be reached",
    };
    QueueError::Unavailable(reason, Box::new(error))
}
