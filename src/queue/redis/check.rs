//! The check at start-up: whether this Redis can be used, and which of its settings lose jobs.

use std::collections::HashMap;

use super::error::OpenRedisError;
use crate::common::redis::{RedisConfig, RedisConnection};

/// Oldest supported version. Script flags need 7.0; Valkey reports 7.2.
const MIN_VERSION: (u32, u32) = (7, 0);

/// Checks every configured node, and warns of settings that lose jobs.
pub(super) async fn check(redis: &RedisConfig) -> Result<(), OpenRedisError> {
    let mut reached = None;
    for node in redis.nodes() {
        // A cluster works without one of its nodes.
        match check_node(redis, &node).await {
            Err(error @ OpenRedisError::Unusable { .. }) if redis.is_cluster() => {
                reached = reached.or(Some(Err(error)))
            }
            checked => {
                checked?;
                reached = Some(Ok(()));
            }
        }
    }
    reached.unwrap_or(Ok(()))
}

async fn check_node(redis: &RedisConfig, node: &RedisConfig) -> Result<(), OpenRedisError> {
    let at = node.to_string();
    let connection =
        RedisConnection::open(node).await.map_err(|error| OpenRedisError::unusable(node, error))?;
    let info: String =
        connection.query(&redis::cmd("INFO")).await.map_err(|error| OpenRedisError::unusable(node, error))?;
    let info = ServerInfo::parse(&info);
    if info.version().is_some_and(|version| version < MIN_VERSION) {
        return Err(OpenRedisError::TooOld { at, version: info.get("redis_version").to_owned() });
    }
    match (info.get("cluster_enabled") == "1", redis.is_cluster()) {
        (true, false) => return Err(OpenRedisError::IsCluster { at }),
        (false, true) => return Err(OpenRedisError::NoCluster { at }),
        _ => {}
    }
    let mut get = redis::cmd("CONFIG");
    get.arg("GET").arg(&["appendonly", "appendfsync", "maxmemory-policy"]);
    match connection.query::<HashMap<String, String>>(&get).await {
        Ok(settings) if !settings.is_empty() => warn_of(&at, &settings),
        _ => tracing::warn!(
            redis = at,
            "the settings of Redis can't be read (CONFIG GET), so it can't be checked whether it loses jobs; set \
             appendonly to yes and maxmemory-policy to noeviction"
        ),
    }
    Ok(())
}

/// Logs the settings that lose jobs.
fn warn_of(at: &str, settings: &HashMap<String, String>) {
    let value = |name: &str| settings.get(name).map_or("", String::as_str);
    match (value("appendonly"), value("appendfsync")) {
        ("yes", "always") | ("", _) => {}
        ("yes", "no") => tracing::warn!(
            redis = at,
            "appendfsync is no: a power failure loses the acknowledged events of about the last 30 seconds; set it to \
             everysec or always"
        ),
        ("yes", _) => tracing::info!(
            redis = at,
            "appendfsync is everysec: a power failure loses up to two seconds of acknowledged events; with always it \
             loses none"
        ),
        _ => tracing::warn!(
            redis = at,
            "appendonly is no: a restart of Redis loses the acknowledged events since its last snapshot; set it to yes"
        ),
    }
    if !matches!(value("maxmemory-policy"), "noeviction" | "") {
        tracing::warn!(
            redis = at,
            policy = value("maxmemory-policy"),
            "maxmemory-policy isn't noeviction: Redis deletes jobs when its memory is full; set it to noeviction"
        );
    }
}

/// The fields of an answer to `INFO`, by name.
struct ServerInfo<'t>(HashMap<&'t str, &'t str>);

impl<'t> ServerInfo<'t> {
    fn parse(text: &'t str) -> Self {
        Self(text.lines().filter_map(|line| line.trim_end().split_once(':')).collect())
    }

    fn get(&self, name: &str) -> &str {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// Returns the major and minor version, if they can be read.
    fn version(&self) -> Option<(u32, u32)> {
        let mut parts = self.get("redis_version").split('.').map(str::parse);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_parsed() {
        let info = ServerInfo::parse("# Server\r\nredis_version:6.2.14\r\ncluster_enabled:0\r\n");
        assert_eq!(info.version(), Some((6, 2)));
        assert!(info.version() < Some(MIN_VERSION));
        assert_eq!(info.get("cluster_enabled"), "0");
        assert_eq!(ServerInfo::parse("").version(), None);
    }
}
