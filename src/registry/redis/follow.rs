//! Following what other servers change, and reading all records where that is what it takes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use redis::Cmd;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::{FORMAT, RedisStore, refuse_newer};
use crate::common::redis::{RedisConfig, subscribe};
use crate::registry::record::{self, Write};
use crate::registry::refresh::Outcome;
use crate::registry::state::{Position, State};
use crate::registry::store::StoreError;

/// Changes that are asked for at a time.
const PAGE: usize = 256;
/// Records that are asked for at a time: enough to be quick, few enough not to hold up the others that use Redis.
const RECORDS: usize = 1_000;
/// Times that reading all records is begun, before it is given up because others change them faster.
const MOST_LOADS: usize = 5;
/// Between attempts to catch up while Redis is away, at first and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How long a change of another server may go unseen where the word of it was lost.
const MOST_UNSEEN: Duration = Duration::from_secs(1);

/// Follows until it is dropped.
pub(in crate::registry) struct Follower {
    _listening: AbortOnDropHandle<()>,
    _following: AbortOnDropHandle<()>,
}

/// What Redis says of changes since one that is known.
enum News {
    /// There are none.
    Same,
    /// That one isn't kept any more.
    Anew,
    /// These; whether there may be more.
    Entries(Vec<Entry>, bool),
}

/// One change.
struct Entry {
    version: u64,
    mark: String,
    writes: Vec<Write>,
}

impl Follower {
    /// Follows what other servers change, over a connection of its own that tells when to look.
    pub(in crate::registry) fn start(store: &Arc<RedisStore>, config: &RedisConfig) -> Self {
        let heard = Arc::new(Notify::new());
        let (store, wake) = (Arc::clone(store), Arc::clone(&heard));
        // Heard also when the connection was made again: who missed something looks then.
        let channel = format!("{}:changed", store.tag);
        let listening = subscribe(config.clone(), channel, move |_| wake.notify_one());
        let following = AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                // A connection that died silently brings no word: then it looks for itself, one small question.
                let _ = tokio::time::timeout(MOST_UNSEEN, heard.notified()).await;
                store.catch_up_at_last().await;
            }
        }));
        Self { _listening: listening, _following: following }
    }

    /// Follows nothing: what others change is seen only where it is asked for.
    #[cfg(test)]
    pub(in crate::registry) fn deaf() -> Self {
        let nothing = || AbortOnDropHandle::new(tokio::spawn(async {}));
        Self { _listening: nothing(), _following: nothing() }
    }
}

impl RedisStore {
    /// Catches up, waiting for Redis where it is away. What can't be read is left until the next change.
    async fn catch_up_at_last(&self) {
        let mut pause = BACKOFF.0;
        let mut is_told = false;
        while let Err(error) = self.catch_up().await {
            let is_away = matches!(*error, StoreError::Redis { .. });
            if !is_told {
                is_told = true;
                let error = format!("{:#}", anyhow::Error::from(error));
                tracing::error!(%error, "follow the registry; this server goes on with what it knows of tenants");
            }
            if !is_away {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2).min(BACKOFF.1);
        }
        if is_told {
            tracing::info!("the registry is followed again");
        }
    }

    /// Follows all changes that were made before now.
    pub(super) async fn follow_news(&self) -> Outcome {
        loop {
            let at = self.read().at.clone();
            let followed = match self.news_since(&at).await {
                Ok(News::Same) => return Ok(()),
                Ok(News::Entries(entries, more)) => self.follow(&entries).map(|()| more),
                Ok(News::Anew) => self.load().await.map(|()| false),
                Err(error) => Err(error),
            };
            match followed {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                // It may have been put right, or deleted, since.
                Err(StoreError::Damaged { record, reason }) => {
                    tracing::warn!(%record, %reason, "a change of the registry can't be followed; all is read anew");
                    return self.load().await.map_err(Arc::new);
                }
                Err(error) => return Err(Arc::new(error)),
            }
        }
    }

    async fn news_since(&self, at: &Position) -> Result<News, StoreError> {
        let answer: Vec<String> = self
            .call(&self.scripts.news, "read what was changed of the registry", |command| {
                command.arg(&self.id).arg(at.version).arg(&at.mark).arg(PAGE);
            })
            .await?;
        let mut parts = answer.into_iter();
        match parts.next().as_deref() {
            Some("same") => return Ok(News::Same),
            Some("anew") => return Ok(News::Anew),
            Some("news") => {}
            _ => return Err(StoreError::Gone),
        }
        refuse_newer(parts.next().map(|format| format.parse().unwrap_or(FORMAT)))?;
        let mut entries = Vec::new();
        while let (Some(id), Some(mark), Some(writes)) = (parts.next(), parts.next(), parts.next()) {
            let damaged = || StoreError::Damaged {
                record: format!("change {id}"),
                reason: "it isn't what was written".into(),
            };
            let version =
                id.strip_suffix("-0").and_then(|version| version.parse().ok()).ok_or_else(damaged)?;
            let writes = serde_json::from_str(&writes).map_err(|_| damaged())?;
            entries.push(Entry { version, mark, writes });
        }
        let more = entries.len() >= PAGE;
        Ok(News::Entries(entries, more))
    }

    /// Follows changes in memory, those that weren't yet.
    fn follow(&self, entries: &[Entry]) -> Result<(), StoreError> {
        for entry in entries {
            let changes = entry.writes.iter().map(|write| record::read(write, &self.vault));
            let changes = changes.collect::<Result<Vec<_>, _>>()?;
            let mut state = self.locked();
            if state.at.version < entry.version {
                changes.into_iter().for_each(|change| state.apply(change));
                let own = self.own_of(&entry.mark).unwrap_or(state.at.own);
                state.at = Position { version: entry.version, mark: entry.mark.clone(), own };
            }
        }
        Ok(())
    }

    /// Reads all records, and goes on with these alone.
    pub(super) async fn load(&self) -> Result<(), StoreError> {
        for _ in 0..MOST_LOADS {
            let Some((records, at)) = self.all_records().await? else { continue };
            let mut state = self.state_of(records).await?;
            let mut current = self.locked();
            let own = self.own_of(&at.mark).unwrap_or(current.at.own);
            let (was, is) = (current.at.version, at.version);
            state.at = Position { own, ..at };
            state.inherit_rates(&current);
            let old = std::mem::replace(&mut *current, state);
            drop(current);
            drop(old);
            if is < was {
                tracing::error!(
                    was,
                    is,
                    "Redis has lost changes of the registry; this server follows what is there"
                );
            }
            return Ok(());
        }
        Err(StoreError::Contended)
    }

    /// Reads records away from the threads that serve: the secrets of thousands of endpoints take a while to open.
    async fn state_of(&self, records: HashMap<String, String>) -> Result<State, StoreError> {
        let (vault, limits) = (Arc::clone(&self.vault), self.limits);
        let reading = tokio::task::spawn_blocking(move || {
            let writes = records.into_iter().map(|(key, value)| (key, Some(value)));
            let mut state = State::new(limits);
            record::read_all(writes, &vault)?.into_iter().for_each(|change| state.apply(change));
            Ok(state)
        });
        let broken = |_| StoreError::Damaged { record: "it".into(), reason: "its reader broke down".into() };
        reading.await.map_err(broken)?
    }

    /// All records as they were at one moment: read page by page, and then what was changed meanwhile on top.
    async fn all_records(&self) -> Result<Option<(HashMap<String, String>, Position)>, StoreError> {
        let mut at = self.position().await?;
        let mut records: HashMap<String, String> = HashMap::new();
        let mut cursor = 0_u64;
        loop {
            let mut scan = redis::cmd("HSCAN");
            scan.arg(format!("{}:records", self.tag)).arg(cursor).arg("COUNT").arg(RECORDS);
            let (next, page): (u64, Vec<(String, String)>) = self.query(&scan).await?;
            records.extend(page);
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        loop {
            match self.news_since(&at).await? {
                News::Same => return Ok(Some((records, at))),
                News::Anew => return Ok(None),
                News::Entries(entries, _) => {
                    for Entry { version, mark, writes } in entries {
                        for (key, value) in writes {
                            match value {
                                Some(value) => drop(records.insert(key, value)),
                                None => drop(records.remove(&key)),
                            }
                        }
                        at = Position { version, mark, ..at };
                    }
                }
            }
        }
    }

    /// Where the registry is now.
    async fn position(&self) -> Result<Position, StoreError> {
        let mut look = redis::cmd("HMGET");
        look.arg(format!("{}:meta", self.tag)).arg("id").arg("version").arg("mark");
        let (id, version, mark): (Option<String>, Option<u64>, Option<String>) = self.query(&look).await?;
        match (id, version, mark) {
            (Some(id), Some(version), Some(mark)) if id == self.id => {
                Ok(Position { version, mark, ..Position::default() })
            }
            _ => Err(StoreError::Gone),
        }
    }

    async fn query<T: redis::FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        let answer = self.connection.query(command).await;
        answer.map_err(|source| StoreError::Redis { doing: "read the registry", source })
    }
}
