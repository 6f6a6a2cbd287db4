//! A connection that many callers share.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::cluster_async::ClusterConnection;
use redis::{AsyncConnectionConfig, Cmd, ErrorKind, FromRedisValue, RedisError, ServerErrorKind};

use super::config::{CONNECT_TIME, MAX_BACKOFF, MIN_BACKOFF, RESPONSE_TIME, RedisConfig};
use super::failure::{MAX_WAIT, RedisFailure};
use super::script::RedisScript;

/// A connection to Redis, which is re-established when it breaks. Clones share it.
#[derive(Clone)]
pub struct RedisConnection(Arc<Link>);

/// The connection to a server or to a cluster.
enum Link {
    Single { config: RedisConfig, manager: Mutex<ConnectionManager> },
    Cluster { config: RedisConfig, connection: Mutex<Option<ClusterConnection>> },
}

impl RedisConnection {
    /// Connects.
    ///
    /// # Errors
    /// Redis can't be reached, refuses the password, or isn't a cluster although several URLs are configured.
    pub async fn open(config: &RedisConfig) -> Result<Self, RedisFailure> {
        let connection = Self::lazy(config)?;
        if !config.is_cluster() {
            // The manager retries silently. A connection of its own reports the reason of a failure.
            let settings = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT_TIME));
            config.client()?.get_multiplexed_async_connection_with_config(&settings).await?;
        }
        connection.query::<()>(&redis::cmd("PING")).await?;
        Ok(connection)
    }

    /// Creates a connection that connects at its first command.
    ///
    /// # Errors
    /// The configuration can't be used.
    pub fn lazy(config: &RedisConfig) -> Result<Self, RedisFailure> {
        let config = config.clone();
        Ok(Self(Arc::new(if config.is_cluster() {
            Link::Cluster { config, connection: Mutex::new(None) }
        } else {
            let manager = Mutex::new(new_manager(&config)?);
            Link::Single { config, manager }
        })))
    }

    /// Returns whether this is a connection to a cluster.
    #[must_use]
    pub fn is_cluster(&self) -> bool {
        matches!(&*self.0, Link::Cluster { .. })
    }

    /// Sends one command.
    ///
    /// If the future is dropped, Redis may still execute the command.
    ///
    /// # Errors
    /// Redis doesn't answer within [`MAX_WAIT`], or refuses the command.
    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisFailure> {
        let answer = tokio::time::timeout(MAX_WAIT, self.send(command));
        answer.await.map_err(|_| RedisFailure::TimedOut)?
    }

    async fn send<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisFailure> {
        match &*self.0 {
            Link::Single { config, manager } => {
                let mut current = lock(manager).clone();
                let answer = query(command, &mut current).await;
                // The server behind this name has become a replica. A new connection reaches its successor.
                if answer.as_ref().is_err_and(|error| is_kind(error, ServerErrorKind::ReadOnly)) {
                    *lock(manager) = new_manager(config)?;
                }
                Ok(answer?)
            }
            Link::Cluster { config, connection } => {
                let current = lock(connection).clone();
                let mut current = match current {
                    Some(current) => current,
                    None => {
                        let new = config.cluster_client()?.get_async_connection().await?;
                        lock(connection).get_or_insert(new).clone()
                    }
                };
                Ok(query(command, &mut current).await?)
            }
        }
    }

    /// Calls a script on the node that has `key`.
    ///
    /// Sends only the script's hash. If Redis doesn't know the script, as after `SCRIPT FLUSH`, a restart or a failover,
    /// sends its text too.
    ///
    /// # Errors
    /// Redis doesn't answer within [`MAX_WAIT`], or refuses the command.
    pub async fn call<T: FromRedisValue>(
        &self,
        script: &RedisScript,
        key: &str,
        add_args: impl Fn(&mut Cmd),
    ) -> Result<T, RedisFailure> {
        let command = |name: &str, body: &str| {
            let mut command = redis::cmd(name);
            command.arg(body).arg(1).arg(key);
            add_args(&mut command);
            command
        };
        match self.query(&command("EVALSHA", &script.hash)).await {
            Err(RedisFailure::Failed(error)) if is_kind(&error, ServerErrorKind::NoScript) => {
                self.query(&command("EVAL", &script.text)).await
            }
            answer => answer,
        }
    }
}

impl fmt::Debug for RedisConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Link::Single { config, .. } | Link::Cluster { config, .. } => config.fmt(f),
        }
    }
}

async fn query<T: FromRedisValue>(command: &Cmd, to: &mut impl ConnectionLike) -> Result<T, RedisError> {
    command.query_async(to).await
}

fn is_kind(error: &RedisError, kind: ServerErrorKind) -> bool {
    error.kind() == ErrorKind::Server(kind)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn new_manager(config: &RedisConfig) -> Result<ConnectionManager, RedisError> {
    let settings = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(CONNECT_TIME))
        .set_response_timeout(Some(RESPONSE_TIME))
        .set_min_delay(MIN_BACKOFF)
        .set_max_delay(MAX_BACKOFF)
        // The manager never gives up. Each command stops waiting after `MAX_WAIT`.
        .set_number_of_retries(usize::MAX);
    ConnectionManager::new_lazy_with_config(config.client()?, settings)
}
