//! What is found out at the start: whether this Redis can be used, and what it would lose.

use std::collections::HashMap;

use crate::common::redis::{RedisConfig, RedisConnection, RedisFailure};
use crate::queue::QueueError;

/// Scripts that say what they may do are of this version; Valkey says that it is 7.2.
const OLDEST: (u32, u32) = (7, 0);

/// Redis can't be used as it is.
#[derive(Debug, thiserror::Error)]
pub enum OpenRedisError {
    /// It can't be reached, or refuses.
    #[error("Redis at {at} can't be used; see --redis-url")]
    Unusable {
        /// Its host and port.
        at: String,
        /// What it said.
        source: RedisFailure,
    },
    /// It can't be worked with.
    #[error("the queue in Redis can't be opened")]
    Queue(#[source] QueueError),
    /// It is too old.
    #[error("Redis at {at} is of version {version}, and 7.0 or newer is needed")]
    TooOld {
        /// Its host and port.
        at: String,
        /// What it says.
        version: String,
    },
    /// It isn't what the number of URLs says.
    #[error("Redis at {at} is a cluster: --redis-url takes several of its nodes, with commas between them")]
    IsCluster {
        /// Its host and port.
        at: String,
    },
    /// It isn't what the number of URLs says.
    #[error("Redis at {at} is no cluster: --redis-url takes several URLs for the nodes of one cluster alone")]
    NoCluster {
        /// Its host and port.
        at: String,
    },
    /// A newer whk uses the keys, or another program.
    #[error(
        "the keys that begin with {prefix} are laid out by a newer whk or another program; see --redis-prefix"
    )]
    Layout {
        /// What they begin with.
        prefix: String,
    },
}

impl OpenRedisError {
    pub(super) fn of(redis: &RedisConfig, source: RedisFailure) -> Self {
        Self::Unusable { at: redis.to_string(), source }
    }
}

/// Checks every node that is named, and warns of settings that lose jobs.
pub(super) async fn check(redis: &RedisConfig) -> Result<(), OpenRedisError> {
    let mut reached = None;
    for node in redis.nodes() {
        // A cluster goes on without one of its nodes.
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
    let connection = RedisConnection::open(node).await.map_err(|error| OpenRedisError::of(node, error))?;
    let info: String =
        connection.query(&redis::cmd("INFO")).await.map_err(|error| OpenRedisError::of(node, error))?;
    let info = Info::parse(&info);
    if info.version().is_some_and(|version| version < OLDEST) {
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
        Ok(settings) => warn_of(&at, &settings),
        Err(_) => tracing::warn!(
            redis = at,
            "Redis doesn't let its settings be read, so it isn't known what it would lose: it should have appendonly \
             yes, and maxmemory-policy noeviction"
        ),
    }
    Ok(())
}

fn warn_of(at: &str, settings: &HashMap<String, String>) {
    let of = |name: &str| settings.get(name).map_or("", String::as_str);
    match (of("appendonly"), of("appendfsync")) {
        ("yes", "always") | ("", _) => {}
        ("yes", "no") => tracing::warn!(
            redis = at,
            "appendfsync is no: a power failure loses the events of the last half minute or so, though they were \
             acknowledged; set it to everysec or always"
        ),
        ("yes", _) => tracing::info!(
            redis = at,
            "appendfsync is everysec: a power failure loses up to two seconds of acknowledged events; always loses none"
        ),
        _ => tracing::warn!(
            redis = at,
            "appendonly is no: when Redis restarts, acknowledged events since its last snapshot are lost; set it to yes"
        ),
    }
    if !matches!(of("maxmemory-policy"), "noeviction" | "") {
        tracing::warn!(
            redis = at,
            policy = of("maxmemory-policy"),
            "maxmemory-policy isn't noeviction: when memory runs short Redis throws jobs away; set it to noeviction"
        );
    }
}

/// What `INFO` says, by name.
struct Info<'t>(HashMap<&'t str, &'t str>);

impl<'t> Info<'t> {
    fn parse(text: &'t str) -> Self {
        Self(text.lines().filter_map(|line| line.trim_end().split_once(':')).collect())
    }

    fn get(&self, name: &str) -> &str {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// Major and minor, where it says so.
    fn version(&self) -> Option<(u32, u32)> {
        let mut parts = self.get("redis_version").split('.').map(str::parse);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        let info = Info::parse("# Server\r\nredis_version:6.2.14\r\ncluster_enabled:0\r\n");
        assert_eq!(info.version(), Some((6, 2)));
        assert!(info.version() < Some(OLDEST));
        assert_eq!(info.get("cluster_enabled"), "0");
        assert_eq!(Info::parse("").version(), None);
    }
}
