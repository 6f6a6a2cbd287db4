//! The registry in Kafka: servers with the same `--kafka-registry-topic` share it.
//!
//! ```text
//! topic    one partition, compacted: the latest record of each key stays
//! key      as record.rs has it; or `meta`
//! value    JSON as record.rs has it; none where it is deleted. Of `meta`:
//!          {"v":1,"id":"…","check":"…"}: the format; an id, made with the registry; a known text sealed with the
//!          secret key, to tell a wrong one at once
//! header   whk-change: {"v":1,"id":"…","n":2,"of":3}: the second of the three records of that change
//! ```
//!
//! A change is one transaction. All servers write with the same `transactional.id`, so that Kafka lets only the last of
//! them write that asked to: who still may knows that nobody else has changed anything since it asked and read the log
//! to its end. So a change is decided on by the latest state, names stay unique and limits hold, however many servers
//! change at once. A server that was fenced off asks again, reads, and decides again.
//!
//! Each server reads the log from its start to its end, and then follows it; the records of a change are seen together.
//! A record that is damaged is told of in the log and passed over, with the others followed.

mod log;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::RngExt as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::sync::{Mutex, watch};
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use uuid::Uuid;

use self::log::{META, Meta, VERSION};
pub(super) use self::reader::Follower;
use self::reader::{Loaded, Log, load, state_of};
use self::writer::{Unwritten, Writer};
use super::record::{self, Write};
use super::refresh::{FAILURE_HOLDS, Outcome, Shared};
use super::state::{Change, State};
use super::store::StoreError;
use super::{Limits, OpenError, RegistryError, sealed};
use crate::common::crypto::vault::Vault;
use crate::common::data_dir::DataDirError;
use crate::common::kafka::{KafkaConfig, KafkaContext};

/// Where it is, for those whose secret key doesn't fit.
const PLACE: &str = "Kafka";
/// Times that a change is decided on before it is given up.
const MOST_TRIES: u32 = 40;
/// Who was fenced off waits for a random part of this, more each time: the other needs a moment to be done.
const PAUSE: Duration = Duration::from_millis(40);
const MOST_PAUSE: Duration = Duration::from_millis(800);
/// How long what was added to the log may take to come, before its end is asked for again.
const COMES_BY_ITSELF: Duration = Duration::from_millis(60);

/// See the module's page.
pub(super) struct KafkaStore {
    core: Arc<Core>,
    /// Held by the one change that is being made; none where another server may have the right to write.
    writer: Mutex<Option<Writer>>,
    /// When the right to write couldn't be had: for a moment others that wait are told so as well.
    failed: std::sync::Mutex<Option<(Instant, Arc<StoreError>)>>,
    /// Changes that this server tried to write.
    tried: AtomicU64,
    /// Up to where it was made sure that all is known.
    known: Arc<AtomicI64>,
    news: Shared,
    strangers: Shared,
}

/// What following shares with looking and changing.
pub(super) struct Core {
    config: KafkaConfig,
    /// Of the registry.
    id: String,
    /// What the ids of this server's own changes begin with.
    server: String,
    vault: Vault,
    limits: Limits,
    state: Arc<RwLock<State>>,
    log: RwLock<Arc<Log>>,
    progress: watch::Sender<Progress>,
}

/// How far the log was followed. Each change is told to those who wait.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    /// Times that its end was reached.
    ends: u64,
    /// Whether it isn't there any more, or is another.
    is_gone: bool,
}

/// A change whose end isn't known.
struct Open<T> {
    own: u64,
    result: T,
    error: KafkaError,
}

impl KafkaStore {
    /// Opens the registry, and makes it where there is none. `vault` gets whether a new secret key may be made.
    pub(super) async fn open(
        config: &KafkaConfig,
        limits: Limits,
        vault: impl FnOnce(bool) -> Result<Vault, DataDirError>,
    ) -> Result<Arc<Self>, OpenError> {
        let server = Uuid::new_v4().simple().to_string();
        let mut loaded = read_all(config, &server).await?;
        let is_new = loaded.meta.is_none();
        let vault = vault(is_new).map_err(|source| match is_new {
            true => OpenError::DataDir(source),
            false => OpenError::SharedKey { place: PLACE, source },
        })?;
        if is_new {
            let check = STANDARD.encode(sealed::check_value(&vault).map_err(StoreError::Seal)?);
            loaded = make(config, &server, check).await?;
        }
        let Loaded { log, meta, records, at } = loaded;
        let Meta { id, check, .. } = meta.ok_or(StoreError::Contended)?;
        // Another server may have made it meanwhile.
        sealed::check(&vault, &STANDARD.decode(check).unwrap_or_default())
            .map_err(|source| StoreError::WrongSharedKey { place: PLACE, source })?;
        let core = Core {
            config: config.clone(),
            id,
            server,
            vault,
            limits,
            state: Arc::new(RwLock::new(State::new(limits))),
            log: RwLock::new(Arc::new(log)),
            progress: watch::Sender::new(Progress::default()),
        };
        // Away from the threads that serve: the secrets of thousands of endpoints take a while to open.
        let reading = spawn_blocking(move || {
            let mut state = state_of(records, &core);
            state.at = at;
            *core.locked() = state;
            core
        });
        let core = reading.await.map_err(|_| StoreError::Contended)?;
        Ok(Arc::new(Self {
            core: Arc::new(core),
            writer: Mutex::new(None),
            failed: std::sync::Mutex::default(),
            tried: AtomicU64::new(0),
            known: Arc::default(),
            news: Shared::new(Duration::ZERO),
            strangers: Shared::for_strangers(),
        }))
    }

    /// What is known, for look-ups.
    pub(super) fn state(&self) -> Arc<RwLock<State>> {
        Arc::clone(&self.core.state)
    }

    /// What follows the log.
    pub(super) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Decides on changes by what there is, and writes them down if nobody changed it meanwhile; else decides again.
    pub(super) async fn change<T>(
        &self,
        decide: impl FnOnce(&State) -> Result<(Vec<Change>, T), RegistryError> + Clone,
    ) -> Result<T, RegistryError> {
        let mut held = self.writer.lock().await;
        let mut open: Option<Open<T>> = None;
        for tried in 0..MOST_TRIES {
            if tried > 0 && held.is_none() {
                back_off(tried).await;
            }
            if open.is_none() {
                let at = self.core.read().at.clone();
                match self.core.decide(decide.clone()) {
                    Ok((_, writes, _)) if !writes.is_empty() => {}
                    // What this server hasn't heard of yet may say otherwise.
                    nothing => {
                        self.catch_up().await.map_err(RegistryError::Behind)?;
                        if self.core.read().at == at {
                            return nothing.map(|(_, _, result)| result);
                        }
                        continue;
                    }
                }
            }
            if held.is_none() {
                let taken = self.take_over().await;
                *held = match (taken, open.take()) {
                    // Whatever was begun before is done or undone by now.
                    (Ok(writer), Some(before)) if self.core.read().at.own >= before.own => {
                        *held = Some(writer);
                        return Ok(before.result);
                    }
                    (Ok(writer), _) => Some(writer),
                    (Err(_), Some(before)) => return Err(RegistryError::Unsure(writing(before.error))),
                    (Err(error), None) => return Err(RegistryError::Behind(error)),
                };
            }
            let Some(writer) = held.take() else { continue };
            let next = self.core.next();
            let (writes, result) = match self.core.decide(decide.clone()) {
                Ok((_, writes, result)) if !writes.is_empty() => (writes, result),
                // Decided on by what was just read to its end.
                _ => {
                    *held = Some(writer);
                    continue;
                }
            };
            let own = self.tried.fetch_add(1, Ordering::Relaxed).saturating_add(1);
            let (kept, written) = writer.write(&format!("{}.{own}", self.core.server), &writes, next).await;
            *held = kept;
            match written {
                Ok(()) => {
                    let seen = self.seen(own).await;
                    // Who hasn't seen its own change must not decide on the next one before it has read the log again.
                    if seen.is_err()
                        && let Some(writer) = held.take()
                    {
                        writer.let_go();
                    }
                    return seen.map(|()| result);
                }
                Err(Unwritten::Fenced) => {}
                Err(Unwritten::Foreign) => return Err(StoreError::Gone.into()),
                Err(Unwritten::Failed(error)) => return Err(writing(error).into()),
                Err(Unwritten::Unknown(error)) => open = Some(Open { own, result, error }),
            }
        }
        match open {
            Some(open) => Err(RegistryError::Unsure(writing(open.error))),
            None => Err(StoreError::Contended.into()),
        }
    }

    /// Takes the right to write, and reads what others wrote until then.
    async fn take_over(&self) -> Result<Writer, Arc<StoreError>> {
        if self.core.progress.borrow().is_gone {
            return Err(Arc::new(StoreError::Gone));
        }
        if let Some((at, error)) = &*self.failed()
            && at.elapsed() < FAILURE_HOLDS
        {
            return Err(Arc::clone(error));
        }
        let context = self.core.log().context.clone();
        let writer = Writer::take(&self.core.config, context).await.map_err(|source| {
            let error = Arc::new(writing(source));
            *self.failed() = Some((Instant::now(), Arc::clone(&error)));
            error
        })?;
        match self.catch_up().await {
            Ok(()) => Ok(writer),
            Err(error) => {
                writer.let_go();
                Err(error)
            }
        }
    }

    fn failed(&self) -> MutexGuard<'_, Option<(Instant, Arc<StoreError>)>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a change of this server's own is followed, and so can be read by others too.
    async fn seen(&self, own: u64) -> Result<(), RegistryError> {
        let mut progress = self.core.progress.subscribe();
        let followed = async {
            loop {
                progress.borrow_and_update();
                if self.core.read().at.own >= own {
                    return Ok(());
                }
                // The sender is part of the store.
                if progress.changed().await.is_err() || progress.borrow().is_gone {
                    return Err(StoreError::Gone);
                }
            }
        };
        let timed_out = || Err(writing(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut)));
        let followed = tokio::time::timeout(self.core.config.timeout, followed).await;
        followed.unwrap_or_else(|_| timed_out()).map_err(RegistryError::Unsure)
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
    async fn catch_up(&self) -> Outcome {
        self.news.insist(self.follow_news()).await
    }

    async fn follow_news(&self) -> Outcome {
        self.followed_to_the_end().await.map_err(Arc::new)
    }

    async fn followed_to_the_end(&self) -> Result<(), StoreError> {
        let core = &self.core;
        if core.progress.borrow().is_gone {
            return Err(StoreError::Gone);
        }
        let log = core.log();
        let end = blocking(move || log.end()).await?;
        if end < core.next() {
            return Err(StoreError::Gone);
        }
        let mut progress = core.progress.subscribe();
        // After the last change comes the mark of its end, which isn't a record; another change takes two places more.
        let is_there = || core.next().saturating_add(1) >= end || self.known.load(Ordering::Relaxed) >= end;
        let came = progress.wait_for(|progress| progress.is_gone || is_there());
        let has_come = tokio::time::timeout(COMES_BY_ITSELF, came).await.is_ok();
        if has_come && is_there() {
            return Ok(());
        }
        // What is left may be no record at all. The end is told of once, so it is asked for again.
        let deadline = Instant::now().checked_add(core.config.timeout);
        loop {
            let (log, from, told) = (core.log(), core.next(), progress.clone());
            // What is told before that is of an end from before: librdkafka drops it once it reads from elsewhere.
            let sought = blocking(move || {
                let sought = log.seek(from);
                Ok((sought, told.borrow().ends))
            });
            let (sought, before) = sought.await?;
            let came = progress.wait_for(|now| now.is_gone || now.ends > before || is_there());
            match tokio::time::timeout(Duration::from_secs(1), came).await {
                Ok(Ok(now)) if !now.is_gone => break,
                Ok(_) => return Err(StoreError::Gone),
                Err(_) if deadline.is_none_or(|deadline| Instant::now() < deadline) => {}
                Err(_) => {
                    let timed_out = KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut);
                    let failed = StoreError::Kafka { doing: "read the registry", source: timed_out };
                    return Err(sought.err().unwrap_or(failed));
                }
            }
        }
        self.known.fetch_max(end, Ordering::Relaxed);
        Ok(())
    }
}

impl Core {
    fn decide<T>(
        &self,
        decide: impl FnOnce(&State) -> Result<(Vec<Change>, T), RegistryError>,
    ) -> Result<(Vec<Change>, Vec<Write>, T), RegistryError> {
        let state = self.read();
        let (changes, result) = decide(&state)?;
        let writes = record::writes(&changes, &state, &self.vault).map_err(StoreError::Seal)?;
        Ok((changes, writes, result))
    }

    /// The place in the log after the last change that was followed.
    fn next(&self) -> i64 {
        i64::try_from(self.read().at.version).unwrap_or(i64::MAX)
    }

    fn log(&self) -> Arc<Log> {
        Arc::clone(&self.log.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace_log(&self, log: Log) {
        *self.log.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(log);
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn locked(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number of the change with that id, if it is that server's own.
fn own_of(server: &str, id: &str) -> Option<u64> {
    id.strip_prefix(server)?.strip_prefix('.')?.parse().ok()
}

fn writing(source: KafkaError) -> StoreError {
    StoreError::Kafka { doing: "write the registry", source }
}

async fn back_off(tried: u32) {
    let most = PAUSE.saturating_mul(tried).min(MOST_PAUSE);
    let part: f64 = rand::rng().random();
    tokio::time::sleep(most.mul_f64(part)).await;
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let broken = |_| StoreError::Kafka { doing: "read the registry", source: KafkaError::Canceled };
    spawn_blocking(work).await.map_err(broken)?
}

async fn read_all(config: &KafkaConfig, server: &str) -> Result<Loaded, StoreError> {
    let (config, server) = (config.clone(), server.to_owned());
    let loaded = blocking(move || load(&config, &server)).await?;
    if loaded.meta.is_none() && !loaded.records.is_empty() {
        let reason = "it is missing, though other records are there".into();
        return Err(StoreError::Damaged { record: META.into(), reason });
    }
    Ok(loaded)
}

/// Makes the registry, unless another server does so first.
async fn make(config: &KafkaConfig, server: &str, check: String) -> Result<Loaded, StoreError> {
    let meta = Meta { v: VERSION, id: Uuid::new_v4().simple().to_string(), check };
    let write = (META.to_owned(), Some(serde_json::to_string(&meta).unwrap_or_default()));
    let mut is_written = false;
    for tried in 0..MOST_TRIES {
        if tried > 0 {
            back_off(tried).await;
        }
        let writer = match is_written {
            true => None,
            false => Some(Writer::take(config, KafkaContext::default()).await.map_err(writing)?),
        };
        let loaded = read_all(config, server).await?;
        if loaded.meta.is_some() {
            return Ok(loaded);
        }
        if let Some(writer) = writer {
            let (_, written) = writer.write(&format!("{server}.0"), std::slice::from_ref(&write), 0).await;
            match written {
                Ok(()) => is_written = true,
                Err(Unwritten::Failed(error)) => return Err(writing(error)),
                Err(_) => {}
            }
        }
    }
    Err(StoreError::Contended)
}
