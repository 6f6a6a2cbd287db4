//! The flags about Redis, for every command that talks to it.

use std::path::PathBuf;

use anyhow::Context as _;

use crate::common::redis::{RedisConfig, RedisConfigError};
use crate::exit::UsageError;

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Redis")]
pub(crate) struct RedisArgs {
    /// Where --queue redis and --registry redis keep theirs: redis://[user:password@]host[:port][/database], rediss:// for TLS; several
    /// URLs with commas between them are the nodes of a Redis Cluster
    #[arg(
        long,
        env = "REDIS_URL",
        hide_env_values = true,
        default_value = "redis://127.0.0.1:6379",
        value_name = "URL"
    )]
    redis_url: RedisUrls,
    /// What all keys begin with: servers that share it share their jobs and tenants
    #[arg(long, default_value = "whk", value_name = "TEXT")]
    redis_prefix: String,
    /// Certificates (PEM) that Redis' own is checked against, instead of the public ones
    #[arg(long, value_name = "FILE")]
    redis_ca_file: Option<PathBuf>,
}

/// `Debug` hides them, since they may hold passwords.
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
    /// Where Redis is.
    pub(crate) fn config(&self) -> anyhow::Result<RedisConfig> {
        let usage = |error: RedisConfigError| UsageError(error.to_string());
        let config = RedisConfig::parse(&self.redis_url.0, &self.redis_prefix).map_err(usage)?;
        let Some(path) = &self.redis_ca_file else { return Ok(config) };
        let pem = std::fs::read(path).with_context(|| format!("--redis-ca-file: read {}", path.display()))?;
        Ok(config.with_roots(pem).map_err(usage)?)
    }
}
