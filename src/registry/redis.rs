//! The registry in Redis: servers with the same `--redis-prefix` share it.
//!
//! ```text
//! {prefix:registry}:meta      hash: format; id, made with the registry; version and mark of the last change; check,
//!                             a known text sealed with the secret key, to tell a wrong one at once
//! {prefix:registry}:records   hash: a field a record (record.rs); what is deleted goes at once
//! {prefix:registry}:changes   stream: an entry a change, with the id `<version>-0`, a mark that no other has, and
//!                             what it wrote; the oldest of more than MOST_CHANGES go
//! {prefix:registry}:changed   channel: told of each change
//! ```
//!
//! A change is decided on by what this server knows, and is written only if nobody made another since: else the server
//! catches up and decides again. So names stay unique and limits hold, however many servers change at once. Each of
//! them follows the others by the stream, woken by the channel, and reads all records anew where the stream doesn't
//! go back far enough, or Redis has lost changes.

mod follow;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use redis::{Cmd, FromRedisValue};
use uuid::Uuid;

pub(super) use self::follow::Follower;
use super::record::{self, Write};
use super::refresh::{Outcome, Shared};
use super::state::{Change, Position, State};
use super::store::StoreError;
use super::{Limits, OpenError, RegistryError, sealed};
use crate::common::crypto::vault::Vault;
use crate::common::data_dir::DataDirError;
use crate::common::redis::{RedisConfig, RedisConnection, RedisScript};

/// What this code reads and writes.
const FORMAT: u64 = 1;
/// Changes that are kept for those who follow: some MB. Who is further behind reads all records.
const MOST_CHANGES: u64 = 4_096;
/// Times that a change is decided on before it is given up: of ten servers that change all the time, each still gets
/// its turn.
const MOST_TRIES: usize = 100;

/// See the module's page.
pub(super) struct RedisStore {
    connection: RedisConnection,
    scripts: Scripts,
    /// What all keys begin with; its braces keep them on one node of a cluster.
    tag: String,
    /// Of the registry.
    id: String,
    /// What the marks of this server's own changes begin with.
    server: String,
    /// Changes that this server tried to write.
    tried: AtomicU64,
    vault: Arc<Vault>,
    limits: Limits,
    state: Arc<RwLock<State>>,
    news: Shared,
    strangers: Shared,
}

struct Scripts {
    init: RedisScript,
    change: RedisScript,
    news: RedisScript,
}

/// What was decided on, and by what.
struct Decided<T> {
    at: Position,
    outcome: Result<(Vec<Change>, Vec<Write>, T), RegistryError>,
}

/// What became of a write.
enum Written {
    Done,
    /// Others were first.
    Behind,
}

impl RedisStore {
    /// Opens the registry, and makes it where there is none. `vault` gets whether a new secret key may be made.
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
            news: RedisScript::new(include_str!("redis/news.lua")),
        };
        let tag = format!("{{{}:registry}}", config.prefix());
        let mut look = redis::cmd("HGET");
        look.arg(format!("{tag}:meta")).arg("format");
        let format: Option<u64> = connection.query(&look).await.map_err(failed)?;
        refuse_newer(format)?;
        let vault = vault(format.is_none()).map_err(|source| match format {
            None => OpenError::DataDir(source),
            Some(_) => OpenError::SharedKey { place: "Redis", source },
        })?;
        let server = Uuid::new_v4().simple().to_string();
        let check = STANDARD.encode(sealed::check_value(&vault).map_err(StoreError::Seal)?);
        let (format, id, check): (Option<u64>, String, String) = connection
            .call(&scripts.init, &tag, |command| {
                let id = Uuid::new_v4().simple().to_string();
                command.arg(FORMAT).arg(id).arg(format!("{server}.0")).arg(&check);
            })
            .await
            .map_err(failed)?;
        // Another server may have made it meanwhile.
        refuse_newer(format)?;
        sealed::check(&vault, &STANDARD.decode(check).unwrap_or_default())
            .map_err(|source| StoreError::WrongSharedKey { place: "Redis", source })?;
        let store = Arc::new(Self {
            connection,
            scripts,
            tag,
            id,
            server,
            tried: AtomicU64::new(0),
            vault: Arc::new(vault),
            limits,
            state: Arc::new(RwLock::new(State::new(limits))),
            news: Shared::new(Duration::ZERO),
            strangers: Shared::for_strangers(),
        });
        store.load().await?;
        Ok(store)
    }

    /// What is known, for look-ups.
    pub(super) fn state(&self) -> Arc<RwLock<State>> {
        Arc::clone(&self.state)
    }

    /// Decides on changes by what there is, and writes them down if nobody changed it meanwhile; else decides again.
    pub(super) async fn change<T>(
        &self,
        decide: impl FnOnce(&State) -> Result<(Vec<Change>, T), RegistryError> + Clone,
    ) -> Result<T, RegistryError> {
        for _ in 0..MOST_TRIES {
            let Decided { at, outcome } = self.decide(decide.clone());
            let (changes, writes, result) = match outcome {
                Ok(decided) if !decided.0.is_empty() => decided,
                // What this server hasn't heard of yet may say otherwise.
                nothing => {
                    self.catch_up().await.map_err(RegistryError::Behind)?;
                    if self.read().at == at {
                        return nothing.map(|(_, _, result)| result);
                    }
                    continue;
                }
            };
            let own = self.tried.fetch_add(1, Ordering::Relaxed).saturating_add(1);
            let to = Position { version: at.version.saturating_add(1), mark: self.mark(own), own };
            match self.write(&at, &to, &writes).await {
                Ok(Written::Done) => {
                    self.follow_own(&at, changes, to);
                    return Ok(result);
                }
                // A cluster's connection repeats what broke off, so that the change may be this very one.
                Ok(Written::Behind) => {
                    self.catch_up().await.map_err(RegistryError::Behind)?;
                    if self.read().at.own == own {
                        return Ok(result);
                    }
                }
                Err(error @ StoreError::Redis { .. }) if !is_refusal(&error) => {
                    let caught_up = self.catch_up().await;
                    let now = self.read().at.clone();
                    return match caught_up {
                        Ok(()) if now.own == own => Ok(result),
                        Ok(()) if now.mark == at.mark => Err(error.into()),
                        _ => Err(RegistryError::Unsure(error)),
                    };
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Contended.into())
    }

    fn decide<T>(
        &self,
        decide: impl FnOnce(&State) -> Result<(Vec<Change>, T), RegistryError>,
    ) -> Decided<T> {
        let state = self.read();
        let outcome = decide(&state).and_then(|(changes, result)| {
            let writes = record::writes(&changes, &state, &self.vault).map_err(StoreError::Seal)?;
            Ok((changes, writes, result))
        });
        Decided { at: state.at.clone(), outcome }
    }

    async fn write(&self, at: &Position, to: &Position, writes: &[Write]) -> Result<Written, StoreError> {
        // Strings alone: nothing that can't be written.
        let json = serde_json::to_string(writes).unwrap_or_default();
        let answer: String = self
            .call(&self.scripts.change, "write the registry", |command| {
                command.arg(&self.id).arg(at.version).arg(&at.mark).arg(to.version).arg(&to.mark);
                command.arg(&json).arg(MOST_CHANGES);
            })
            .await?;
        match answer.as_str() {
            "written" => Ok(Written::Done),
            "behind" => Ok(Written::Behind),
            _ => Err(StoreError::Gone),
        }
    }

    /// Follows a change that this server wrote, unless that was done since.
    fn follow_own(&self, from: &Position, changes: Vec<Change>, to: Position) {
        let mut state = self.locked();
        if state.at == *from {
            changes.into_iter().for_each(|change| state.apply(change));
            state.at = to;
        }
    }

    /// Makes sure that all is known that was changed before now. Fails at once where it has just failed.
    pub(super) async fn refreshed(&self) -> Outcome {
        self.news.run(self.follow_news()).await
    }

    /// The same for those who may ask as often as they like.
    pub(super) async fn refreshed_for_strangers(&self) -> Outcome {
        self.strangers.run(self.refreshed()).await
    }

    /// Makes sure that all is known that was changed before now.
    pub(super) async fn catch_up(&self) -> Outcome {
        self.news.insist(self.follow_news()).await
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

    /// Names one of this server's own changes.
    fn mark(&self, own: u64) -> String {
        format!("{}.{own}", self.server)
    }

    /// The number of the change with that mark, if it is this server's own.
    fn own_of(&self, mark: &str) -> Option<u64> {
        mark.strip_prefix(&self.server)?.strip_prefix('.')?.parse().ok()
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn locked(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether Redis said that it didn't do it, where otherwise it may have been done.
fn is_refusal(error: &StoreError) -> bool {
    matches!(error, StoreError::Redis { source, .. } if source.code().is_some())
}

fn refuse_newer(format: Option<u64>) -> Result<(), StoreError> {
    match format.filter(|found| *found > FORMAT) {
        Some(found) => Err(StoreError::NewerInRedis { found, known: FORMAT }),
        None => Ok(()),
    }
}
