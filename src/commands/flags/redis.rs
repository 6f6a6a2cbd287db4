//! The flags about Redis, for the commands that connect to it.

use std::path::PathBuf;

use anyhow::Context as _;

use crate::common::redis::{RedisConfig, RedisConfigError};
use crate::exit::UsageError;

/// The flags about Redis.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Redis")]
pub(crate) struct RedisArgs {
    /// Redis server for --queue redis and --registry redis: redis://[user:password@]host[:port][/database], or rediss://
    /// for TLS. Several URLs, separated by commas, are the nodes of a Redis Cluster
    #[arg(
        long,
        env = "REDIS_URL",
        hide_env_values = true,
        default_value = "redis://127.0.0.1:6379",
        value_name = "URL"
    )]
    redis_url: RedisUrls,
    /// Prefix of all keys in Redis. Servers with the same prefix share their jobs and tenants; give unrelated servers
    /// different ones
    #[arg(long, default_value = "whk", value_name = "TEXT")]
    redis_prefix: String,
    /// File with the root certificates (PEM) to trust for Redis, instead of the public ones
    #[arg(long, value_name = "FILE")]
    redis_ca_file: Option<PathBuf>,
}

/// The value of `--redis-url`. `Debug` hides it, because it may contain a password.
#[derive(Clone)]
struct RedisUrls(String);

impl std::str::FromStr for RedisUrls {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl std::fmt::Debug for RedisUrls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

impl RedisArgs {
    /// Returns the configuration of the connection.
    ///
    /// # Errors
    /// A flag's value can't be used, or the certificates can't be read.
    pub(crate) fn config(&self) -> anyhow::Result<RedisConfig> {
        let usage = |error: RedisConfigError| UsageError(error.to_string());
        let config = RedisConfig::parse(&self.redis_url.0, &self.redis_prefix).map_err(usage)?;
        let Some(path) = &self.redis_ca_file else { return Ok(config) };
        let pem = std::fs::read(path).with_context(|| format!("--redis-ca-file: read {}", path.display()))?;
        Ok(config.with_roots(pem).map_err(usage)?)
    }
}
