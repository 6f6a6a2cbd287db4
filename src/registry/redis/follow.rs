//! Following the changes of other servers, and reading all records if the stream doesn't reach back far enough.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use redis::Cmd;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::{FORMAT, RedisStore, refuse_newer};
use crate::common::redis::{RedisConfig, subscribe};
use crate::common::task;
use crate::registry::error::StoreError;
use crate::registry::record::{self, Write};
use crate::registry::shared_log::SharedLog as _;
use crate::registry::single_flight::Outcome;
use crate::registry::state::{Position, State};

/// Maximum number of changes read per call.
const CHANGES_PAGE: usize = 256;
/// Records read per call: enough to be quick, and few enough not to hold up other clients of Redis.
const RECORDS_PAGE: usize = 1_000;
/// Attempts to read all records before it is given up because other servers change them faster.
const MAX_LOADS: usize = 5;
/// First and longest delay between attempts to catch up while Redis can't be reached.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Maximum time until a change of another server is read if its notification was lost.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Tasks that follow the changes of other servers, until this is dropped.
pub(in crate::registry) struct Follower {
    _subscription: AbortOnDropHandle<()>,
    _following: AbortOnDropHandle<()>,
}

/// Changes in the stream after a known one.
enum ChangesSince {
    /// No change was written since.
    Same,
    /// The stream doesn't hold the known change any more.
    Trimmed,
    /// Changes in order, and whether there may be more.
    Page(Vec<LoggedChange>, bool),
}

/// An entry of the stream.
struct LoggedChange {
    version: u64,
    mark: String,
    writes: Vec<Write>,
}

impl Follower {
    /// Subscribes to the channel on a connection of its own, and follows the stream whenever it is notified.
    pub(in crate::registry) fn start(store: &Arc<RedisStore>, config: &RedisConfig) -> Self {
        let changed = Arc::new(Notify::new());
        let (store, wake) = (Arc::clone(store), Arc::clone(&changed));
        // A reconnect notifies as well, since messages may have been missed.
        let channel = format!("{}:changed", store.tag);
        let subscription = subscribe(config.clone(), channel, move |_| wake.notify_one());
        let following = AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                // A connection that died silently brings no message, so this also polls: one small command.
                let _ = tokio::time::timeout(POLL_INTERVAL, changed.notified()).await;
                // A panic is logged and counted, and the next round starts over.
                let store = Arc::clone(&store);
                let catching_up = task::spawn("registry_follower", async move {
                    store.catch_up_with_backoff().await;
                });
                drop(AbortOnDropHandle::new(catching_up).await);
            }
        }));
        Self { _subscription: subscription, _following: following }
    }

    /// Follows nothing. The server sees the changes of others only when it refreshes.
    #[cfg(test)]
    pub(in crate::registry) fn unnotified() -> Self {
        let nothing = || AbortOnDropHandle::new(tokio::spawn(async {}));
        Self { _subscription: nothing(), _following: nothing() }
    }
}

impl RedisStore {
    /// Catches up, retrying while Redis can't be reached. A change that can't be read is left until the next one.
    async fn catch_up_with_backoff(&self) {
        let mut pause = BACKOFF.0;
        let mut is_logged = false;
        while let Err(error) = self.catch_up().await {
            let is_unreachable = matches!(*error, StoreError::Redis { .. });
            if !is_logged {
                is_logged = true;
                let error = format!("{:#}", anyhow::Error::from(error));
                tracing::error!(%error, "can't follow the registry; this server continues with the tenants it knows");
            }
            if !is_unreachable {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2).min(BACKOFF.1);
        }
        if is_logged {
            tracing::info!("the registry is followed again");
        }
    }

    /// Applies all changes that were written before this call.
    pub(super) async fn follow_changes(&self) -> Outcome {
        loop {
            let at = self.replica.position();
            let followed = match self.changes_since(&at).await {
                Ok(ChangesSince::Same) => return Ok(()),
                Ok(ChangesSince::Page(page, more)) => self.apply(page).map(|()| more),
                Ok(ChangesSince::Trimmed) => self.load().await.map(|()| false),
                Err(error) => Err(error),
            };
            match followed {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                // The record may have been repaired or deleted since.
                Err(StoreError::Damaged { record, reason }) => {
                    tracing::warn!(%record, %reason, "a change of the registry can't be read; all records are read again");
                    return self.load().await.map_err(Arc::new);
                }
                Err(error) => return Err(Arc::new(error)),
            }
        }
    }

    async fn changes_since(&self, at: &Position) -> Result<ChangesSince, StoreError> {
        let answer: Vec<String> = self
            .call(&self.scripts.changes, "read the changes of the registry", |command| {
                command.arg(&self.id).arg(at.version).arg(&at.mark).arg(CHANGES_PAGE);
            })
            .await?;
        let mut parts = answer.into_iter();
        match parts.next().as_deref() {
            Some("same") => return Ok(ChangesSince::Same),
            Some("trimmed") => return Ok(ChangesSince::Trimmed),
            Some("changes") => {}
            _ => return Err(StoreError::Gone),
        }
        refuse_newer(parts.next().map(|format| format.parse().unwrap_or(FORMAT)))?;
        let mut page = Vec::new();
        while let (Some(id), Some(mark), Some(writes)) = (parts.next(), parts.next(), parts.next()) {
            let damaged = || StoreError::Damaged {
                record: format!("change {id}"),
                reason: "it isn't what whk writes".into(),
            };
            let version =
                id.strip_suffix("-0").and_then(|version| version.parse().ok()).ok_or_else(damaged)?;
            let writes = serde_json::from_str(&writes).map_err(|_| damaged())?;
            page.push(LoggedChange { version, mark, writes });
        }
        let more = page.len() >= CHANGES_PAGE;
        Ok(ChangesSince::Page(page, more))
    }

    /// Applies changes that aren't in the replica yet.
    fn apply(&self, page: Vec<LoggedChange>) -> Result<(), StoreError> {
        for LoggedChange { version, mark, writes } in page {
            let changes = writes.iter().map(|write| record::read(write, &self.replica.vault));
            self.replica.apply(version, mark, changes.collect::<Result<_, _>>()?);
        }
        Ok(())
    }

    /// Reads all records and replaces the replica's state with them.
    pub(super) async fn load(&self) -> Result<(), StoreError> {
        for _ in 0..MAX_LOADS {
            let Some((records, at)) = self.all_records().await? else { continue };
            let own = self.replica.server.own_of(&at.mark).unwrap_or_default();
            let state = self.state_of(records).await?;
            self.replica.replace(state, Position { own, ..at }, "Redis");
            return Ok(());
        }
        Err(StoreError::Contended)
    }

    /// Parses records on a blocking thread, because unsealing the secrets of thousands of endpoints takes a while.
    async fn state_of(&self, records: HashMap<String, String>) -> Result<State, StoreError> {
        let (vault, limits) = (Arc::clone(&self.replica.vault), self.replica.limits);
        let parsing = tokio::task::spawn_blocking(move || {
            let writes = records.into_iter().map(|(key, value)| (key, Some(value)));
            let mut state = State::new(limits);
            record::read_all(writes, &vault)?.into_iter().for_each(|change| state.apply(change));
            Ok(state)
        });
        let panicked = |_| StoreError::Damaged {
            record: "the registry".into(),
            reason: "the task that parses its records panicked".into(),
        };
        parsing.await.map_err(panicked)?
    }

    /// Reads all records page by page, and applies the changes that were made meanwhile. Returns `None` if the stream
    /// doesn't reach back to the start of the read.
    async fn all_records(&self) -> Result<Option<(HashMap<String, String>, Position)>, StoreError> {
        let mut at = self.stored_position().await?;
        let mut records: HashMap<String, String> = HashMap::new();
        let mut cursor = 0_u64;
        loop {
            let mut scan = redis::cmd("HSCAN");
            scan.arg(format!("{}:records", self.tag)).arg(cursor).arg("COUNT").arg(RECORDS_PAGE);
            let (next, page): (u64, Vec<(String, String)>) = self.query(&scan).await?;
            records.extend(page);
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        loop {
            match self.changes_since(&at).await? {
                ChangesSince::Same => return Ok(Some((records, at))),
                ChangesSince::Trimmed => return Ok(None),
                ChangesSince::Page(page, _) => {
                    for LoggedChange { version, mark, writes } in page {
                        record::merge(&mut records, writes);
                        at = Position { version, mark, ..at };
                    }
                }
            }
        }
    }

    /// Reads the version and mark of the last change.
    async fn stored_position(&self) -> Result<Position, StoreError> {
        let mut get = redis::cmd("HMGET");
        get.arg(format!("{}:meta", self.tag)).arg("id").arg("version").arg("mark");
        let (id, version, mark): (Option<String>, Option<u64>, Option<String>) = self.query(&get).await?;
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
