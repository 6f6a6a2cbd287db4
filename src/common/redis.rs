//! Redis, Redis Cluster or Valkey: configuration, a shared connection, scripts, and wake-ups.
//!
//! A command ends within [`MAX_WAIT`], with or without an answer. The connection is re-established without limit, so a
//! later command works as soon as Redis does.

mod config;
mod connection;
mod failure;
mod script;
mod subscription;
#[cfg(test)]
mod tests;

pub use self::config::{RedisConfig, RedisConfigError};
pub use self::connection::RedisConnection;
pub use self::failure::{MAX_WAIT, RedisFailure};
pub use self::script::RedisScript;
pub use self::subscription::subscribe;
