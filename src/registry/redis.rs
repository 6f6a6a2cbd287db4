//! The registry in Redis, shared by all servers with the same `--redis-prefix`.
//!
//! ```text
//! {prefix:registry}:meta      hash: format; id of the registry; version and mark of the last change; check, a known
//!                             text sealed with the secret key, which reveals a wrong key at once
//! {prefix:registry}:records   hash: one field per record (record.rs). Deleted records are removed at once
//! {prefix:registry}:changes   stream: one entry per change, with the id `<version>-0`, a unique mark, and its
//!                             writes. The oldest beyond KEPT_CHANGES are trimmed
//! {prefix:registry}:changed   channel: one message per change
//! ```
//!
//! A change is written by a script that compares the version and mark first (see `shared_log.rs`). Each server follows
//! the others by the stream, woken by the channel. It reads all records again if the stream doesn't reach back far
//! enough, or if Redis has lost changes.

mod follow;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use redis::{Cmd, FromRedisValue};
use uuid::Uuid;

pub(super) use self::follow::Follower;
use super::error::{OpenError, StoreError};
use super::limits::Limits;
use super::record::Write;
use super::replica::{Replica, ServerId};
use super::sealed;
use super::shared_log::{Append, SharedLog};
use super::single_flight::Outcome;
use super::state::{Change, Position};
use crate::common::crypto::vault::Vault;
use crate::common::data_dir::DataDirError;
use crate::common::redis::{RedisConfig, RedisConnection, RedisScript};

/// Newest format that this build reads, and the one that it writes.
const FORMAT: u64 = 1;
/// Changes that the stream keeps: some MB. A server that is further behind reads all records.
const KEPT_CHANGES: u64 = 4_096;

/// Connection to the registry in Redis, and this server's copy of it.
pub(super) struct RedisStore {
    connection: RedisConnection,
    scripts: Scripts,
    /// Common prefix of all keys. Its braces keep them on one node of a cluster.
    tag: String,
    /// Id of the registry.
    id: String,
    replica: Replica,
}

struct Scripts {
    init: RedisScript,
    change: RedisScript,
    changes: RedisScript,
}

impl RedisStore {
    /// Opens the registry, and creates it if it doesn't exist. `vault` gets whether it may create a secret key.
    pub(super) async fn open(
        config: &RedisConfig,
        limits: Limits,
        vault: impl FnOnce(bool) -> Result<Vault, DataDirError>,
    ) -> Result<Arc<Self>, OpenError> {
        let failed = |source| StoreError::Redis { doing: "open the registry", source };
        let connection = RedisConnection::open(config).await.map_err(failed)?;
        let scripts = Scripts {
            init: RedisScript::new(include_str!("redis/init.lua")),
            change: RedisScript::new(include_str!("redis/change.lua")),
            changes: RedisScript::new(include_str!("redis/changes.lua")),
        };
        let tag = format!("{{{}:registry}}", config.prefix());
        let mut get_format = redis::cmd("HGET");
        get_format.arg(format!("{tag}:meta")).arg("format");
        let format: Option<u64> = connection.query(&get_format).await.map_err(failed)?;
        refuse_newer(format)?;
        let vault = vault(format.is_none()).map_err(|source| match format {
            None => OpenError::DataDir(source),
            Some(_) => OpenError::SharedKey { place: "Redis", source },
        })?;
        let server = ServerId::random();
        let check = STANDARD.encode(sealed::check_value(&vault).map_err(StoreError::Seal)?);
        let (format, id, check): (Option<u64>, String, String) = connection
            .call(&scripts.init, &tag, |command| {
                let id = Uuid::new_v4().simple().to_string();
                command.arg(FORMAT).arg(id).arg(server.mark(0)).arg(&check);
            })
            .await
            .map_err(failed)?;
        // Another server may have created the registry since the first look.
        refuse_newer(format)?;
        sealed::check(&vault, &STANDARD.decode(check).unwrap_or_default())
            .map_err(|source| StoreError::WrongSharedKey { place: "Redis", source })?;
        let replica = Replica::new(server, vault, limits);
        let store = Arc::new(Self { connection, scripts, tag, id, replica });
        store.load().await?;
        Ok(store)
    }

    /// Runs the script that writes a change. Returns false if another server wrote one since `at`.
    async fn write(&self, at: &Position, to: &Position, writes: &[Write]) -> Result<bool, StoreError> {
        // Serializing strings can't fail.
        let json = serde_json::to_string(writes).unwrap_or_default();
        let answer: String = self
            .call(&self.scripts.change, "write the registry", |command| {
                command.arg(&self.id).arg(at.version).arg(&at.mark).arg(to.version).arg(&to.mark);
                command.arg(&json).arg(KEPT_CHANGES);
            })
            .await?;
        match answer.as_str() {
            "written" => Ok(true),
            "behind" => Ok(false),
            _ => Err(StoreError::Gone),
        }
    }

    async fn call<T: FromRedisValue>(
        &self,
        script: &RedisScript,
        doing: &'static str,
        fill: impl Fn(&mut Cmd),
    ) -> Result<T, StoreError> {
        let answer = self.connection.call(script, &self.tag, fill).await;
        answer.map_err(|source| StoreError::Redis { doing, source })
    }
}

impl SharedLog for RedisStore {
    /// Ten servers that change the registry all the time still succeed within this many.
    const MAX_ATTEMPTS: u32 = 100;

    type Lease = ();

    fn replica(&self) -> &Replica {
        &self.replica
    }

    async fn follow(&self) -> Outcome {
        self.follow_changes().await
    }

    async fn lease(&self) {}

    async fn renew(&self, _lease: &mut (), _attempt: u32) -> Outcome {
        Ok(())
    }

    async fn append(
        &self,
        _lease: &mut (),
        at: &Position,
        own: u64,
        changes: Vec<Change>,
        writes: &[Write],
    ) -> Append {
        let mark = self.replica.server.mark(own);
        let to = Position { version: at.version.saturating_add(1), mark, own };
        match self.write(at, &to, writes).await {
            Ok(true) => {
                self.replica.apply_own(at, changes, to);
                Append::Done
            }
            Ok(false) => match self.catch_up().await {
                // A cluster's connection repeats a call that broke off, so the other change may be this very one.
                Ok(()) if self.replica.has_own(own) => Append::Done,
                Ok(()) => Append::Lost,
                Err(error) => Append::Behind(error),
            },
            Err(error @ StoreError::Redis { .. }) if !is_refusal(&error) => {
                let caught_up = self.catch_up().await;
                match caught_up {
                    Ok(()) if self.replica.has_own(own) => Append::Done,
                    Ok(()) if self.replica.position().mark == at.mark => Append::Refused(error),
                    _ => Append::Unknown(error),
                }
            }
            Err(error) => Append::Refused(error),
        }
    }
}

/// Whether Redis answered that it didn't run the command. After any other error it may have run it.
fn is_refusal(error: &StoreError) -> bool {
    matches!(error, StoreError::Redis { source, .. } if source.code().is_some())
}

fn refuse_newer(format: Option<u64>) -> Result<(), StoreError> {
    match format.filter(|found| *found > FORMAT) {
        Some(found) => Err(StoreError::NewerInRedis { found, known: FORMAT }),
        None => Ok(()),
    }
}
