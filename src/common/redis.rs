//! Redis, or a Redis Cluster, or Valkey: where it is, a connection that many share, scripts, wake-ups.
//!
//! A command ends within [`MOST_WAIT`], with an answer or without one; the connection is made again for ever, so the
//! next one finds out whether Redis is back.

mod config;
mod subscription;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::cluster_async::ClusterConnection;
use redis::{AsyncConnectionConfig, Cmd, ErrorKind, FromRedisValue, RedisError, ServerErrorKind};
use sha1::{Digest as _, Sha1};

pub use self::config::{RedisConfig, RedisConfigError};
pub use self::subscription::subscribe;

/// How long an answer may take: longer than any of our scripts, shorter than a publisher waits.
const RESPONSE_TIME: Duration = Duration::from_secs(3);
/// How long a connection may take.
const CONNECT_TIME: Duration = Duration::from_secs(2);
/// How long a command may take, with a connection that has to be made first.
pub const MOST_WAIT: Duration = Duration::from_secs(4);
/// Between attempts to connect, at first and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Redis didn't do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RedisFailure {
    /// It can't be reached, or doesn't answer: what was asked may have been done or not.
    #[error("no answer from Redis within {} s", MOST_WAIT.as_secs())]
    TimedOut,
    /// It refused, or the connection broke.
    #[error(transparent)]
    Failed(RedisError),
    /// It answered something else than was asked for. What, isn't said: it may be a payload.
    #[error("Redis answered something unexpected")]
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
    /// The word that a refusal begins with, such as `OOM`.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::TimedOut | Self::Unexpected => None,
            Self::Failed(error) => error.code(),
        }
    }
}

/// A connection that is made when it is first used, and again when it breaks. Clones share it.
#[derive(Clone)]
pub struct RedisConnection(Arc<Inner>);

enum Inner {
    Single { config: RedisConfig, shared: Mutex<ConnectionManager> },
    Cluster { config: RedisConfig, shared: Mutex<Option<ClusterConnection>> },
}

impl RedisConnection {
    /// Connects.
    ///
    /// # Errors
    /// Redis can't be reached, refuses the password, or isn't the cluster that several URLs say it is.
    pub async fn open(config: &RedisConfig) -> Result<Self, RedisFailure> {
        let connection = Self::lazy(config)?;
        if !config.is_cluster() {
            // By hand, since the manager goes on trying where this tells what is wrong.
            let settings = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT_TIME));
            config.client()?.get_multiplexed_async_connection_with_config(&settings).await?;
        }
        connection.query::<()>(&redis::cmd("PING")).await?;
        Ok(connection)
    }

    /// A connection that is made when it is first used.
    ///
    /// # Errors
    /// The configuration can't be used.
    pub fn lazy(config: &RedisConfig) -> Result<Self, RedisFailure> {
        let config = config.clone();
        Ok(Self(Arc::new(if config.is_cluster() {
            Inner::Cluster { config, shared: Mutex::new(None) }
        } else {
            let shared = Mutex::new(manager(&config)?);
            Inner::Single { config, shared }
        })))
    }

    /// Whether it is to a cluster.
    #[must_use]
    pub fn is_cluster(&self) -> bool {
        matches!(&*self.0, Inner::Cluster { .. })
    }

    /// Sends one command.
    ///
    /// # Errors
    /// There is no answer in time, or it is a refusal.
    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisFailure> {
        let answered = tokio::time::timeout(MOST_WAIT, self.send(command));
        answered.await.map_err(|_| RedisFailure::TimedOut)?
    }

    async fn send<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisFailure> {
        match &*self.0 {
            Inner::Single { config, shared } => {
                let mut manager = lock(shared).clone();
                let answer = query(command, &mut manager).await;
                // A replica now, behind the same name: only a new connection reaches the one that took over.
                if answer.as_ref().is_err_and(|error| is(error, ServerErrorKind::ReadOnly)) {
                    *lock(shared) = self::manager(config)?;
                }
                Ok(answer?)
            }
            Inner::Cluster { config, shared } => {
                let known = lock(shared).clone();
                let mut connection = match known {
                    Some(connection) => connection,
                    None => {
                        let connection = config.cluster_client()?.get_async_connection().await?;
                        lock(shared).get_or_insert(connection).clone()
                    }
                };
                Ok(query(command, &mut connection).await?)
            }
        }
    }

    /// Calls a script on the node that has `key`; with its text where Redis doesn't know it, as after `SCRIPT FLUSH`,
    /// a restart or a failover.
    ///
    /// # Errors
    /// There is no answer in time, or it is a refusal.
    pub async fn call<T: FromRedisValue>(
        &self,
        script: &RedisScript,
        key: &str,
        fill: impl Fn(&mut Cmd),
    ) -> Result<T, RedisFailure> {
        let command = |name: &str, body: &str| {
            let mut command = redis::cmd(name);
            command.arg(body).arg(1).arg(key);
            fill(&mut command);
            command
        };
        match self.query(&command("EVALSHA", &script.hash)).await {
            Err(RedisFailure::Failed(error)) if is(&error, ServerErrorKind::NoScript) => {
                self.query(&command("EVAL", &script.text)).await
            }
            answer => answer,
        }
    }
}

impl std::fmt::Debug for RedisConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &*self.0 {
            Inner::Single { config, .. } | Inner::Cluster { config, .. } => config.fmt(f),
        }
    }
}

async fn query<T: FromRedisValue>(command: &Cmd, to: &mut impl ConnectionLike) -> Result<T, RedisError> {
    command.query_async(to).await
}

fn is(error: &RedisError, kind: ServerErrorKind) -> bool {
    error.kind() == ErrorKind::Server(kind)
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn manager(config: &RedisConfig) -> Result<ConnectionManager, RedisError> {
    let settings = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(CONNECT_TIME))
        .set_response_timeout(Some(RESPONSE_TIME))
        .set_min_delay(BACKOFF.0)
        .set_max_delay(BACKOFF.1)
        // Whoever waits for it gives up after `MOST_WAIT`; it itself never does.
        .set_number_of_retries(usize::MAX);
    ConnectionManager::new_lazy_with_config(config.client()?, settings)
}

/// A Lua script and the hash that Redis knows it by.
#[derive(Debug)]
pub struct RedisScript {
    text: Cow<'static, str>,
    hash: String,
}

impl RedisScript {
    /// The script of that text.
    #[must_use]
    pub fn new(text: impl Into<Cow<'static, str>>) -> Self {
        let text = text.into();
        let hash = Sha1::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        Self { text, hash }
    }
}
