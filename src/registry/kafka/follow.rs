//! Following the log on a thread of its own.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rdkafka::error::KafkaError;
use tokio::sync::watch;

use super::format::{AssembledChange, ChangeAssembler, LogRecord, META, Meta, VERSION};
use super::reader::{LoadedLog, LogReader, is_gone, load, version_after};
use crate::common::crypto::vault::Vault;
use crate::common::kafka::KafkaConfig;
use crate::common::task::report_panic;
use crate::registry::error::StoreError;
use crate::registry::limits::Limits;
use crate::registry::record;
use crate::registry::replica::Replica;
use crate::registry::state::{Change, State};

/// Time between two checks that the log is still the one that was opened.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// A server that was disconnected for longer reads all records again. Deletions that it missed may have been compacted
/// away, one day after they were written at the earliest.
const MAX_DISCONNECTED: Duration = Duration::from_secs(3_600);
/// Delay between attempts to read all records.
const RELOAD_DELAY: Duration = Duration::from_secs(1);

/// The log with this server's copy of the registry. Shared by the thread that follows the log and the tasks that wait
/// for it.
pub(super) struct FollowedLog {
    pub(super) config: KafkaConfig,
    /// Id of the registry.
    pub(super) id: String,
    pub(super) replica: Replica,
    pub(super) reader: RwLock<Arc<LogReader>>,
    /// Notified after each change that was applied.
    pub(super) progress: watch::Sender<Progress>,
}

/// Progress of the thread that follows the log.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Progress {
    /// Times that the end of the log was reached.
    pub(super) ends: u64,
    /// Whether the log was deleted or replaced by another.
    pub(super) is_gone: bool,
}

impl FollowedLog {
    pub(super) fn reader(&self) -> Arc<LogReader> {
        Arc::clone(&self.reader.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the offset after the last change that was applied.
    pub(super) fn next_offset(&self) -> i64 {
        i64::try_from(self.replica.version()).unwrap_or(i64::MAX)
    }

    /// Follows the log until `stop` is set. Blocks.
    fn follow_until(&self, stop: &AtomicBool) {
        let mut reader = self.reader();
        let (mut assembler, mut last_offset) = (ChangeAssembler::default(), i64::MIN);
        let (mut checked, mut connected) = (Instant::now(), Instant::now());
        while !stop.load(Ordering::Relaxed) {
            let mut must_reload = false;
            match reader.poll() {
                Some(Ok(message)) => {
                    connected = Instant::now();
                    let record = LogRecord::parse(&message);
                    // After a seek, records come again.
                    if record.offset > last_offset {
                        last_offset = record.offset;
                        for change in assembler.add(record) {
                            must_reload |= !self.apply(change);
                        }
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    connected = Instant::now();
                    if let Some(change) = assembler.finish() {
                        must_reload |= !self.apply(change);
                    }
                    self.progress.send_modify(|progress| progress.ends = progress.ends.saturating_add(1));
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "follow the registry");
                    must_reload = is_gone(&error);
                }
                None => {}
            }
            if checked.elapsed() >= CHECK_INTERVAL {
                checked = Instant::now();
                match reader.end() {
                    Ok(end) => {
                        must_reload |= end < self.next_offset() || connected.elapsed() > MAX_DISCONNECTED;
                        connected = Instant::now();
                    }
                    Err(StoreError::Gone) => must_reload = true,
                    Err(error) => tracing::debug!(%error, "follow the registry"),
                }
            }
            if must_reload {
                self.reload_until(stop);
                reader = self.reader();
                (assembler, last_offset) = (ChangeAssembler::default(), i64::MIN);
                (checked, connected) = (Instant::now(), Instant::now());
            }
        }
    }

    /// Applies a change, unless it was applied before. Returns false if the log is no longer the one that was opened.
    fn apply(&self, change: AssembledChange) -> bool {
        let mut is_same_log = true;
        let mut changes = Vec::with_capacity(change.writes.len());
        for write in &change.writes {
            match write {
                (key, value) if key == META => {
                    let meta = value.as_deref().and_then(|json| serde_json::from_str::<Meta>(json).ok());
                    is_same_log &= meta.is_some_and(|meta| meta.id == self.id && meta.v <= VERSION);
                }
                write => changes.extend(or_log(record::read(write, &self.replica.vault))),
            }
        }
        if !is_same_log {
            return false;
        }
        self.replica.apply(version_after(change.offset), change.id, changes);
        self.progress.send_modify(|_| ());
        true
    }

    /// Reads all records again, retrying until it succeeds or `stop` is set. Blocks.
    fn reload_until(&self, stop: &AtomicBool) {
        let mut is_logged = false;
        while !stop.load(Ordering::Relaxed) {
            let loaded = load(&self.config, &self.replica.server).and_then(|loaded| {
                let is_same = loaded.meta.as_ref().is_some_and(|meta| meta.id == self.id);
                if is_same { Ok(loaded) } else { Err(StoreError::Gone) }
            });
            match loaded {
                Ok(loaded) => {
                    self.replace(loaded);
                    if is_logged {
                        tracing::info!("the registry is followed again");
                    }
                    return;
                }
                Err(error) => {
                    // Any answer but a Kafka error means that this isn't the log that was opened.
                    let is_gone = !matches!(error, StoreError::Kafka { .. });
                    self.progress.send_modify(|progress| progress.is_gone |= is_gone);
                    if !is_logged {
                        is_logged = true;
                        let is_missing = matches!(error, StoreError::NoTopic(_));
                        let error = if is_missing { StoreError::Gone } else { error };
                        let error = format!("{:#}", anyhow::Error::from(error));
                        tracing::error!(%error, "can't follow the registry; this server continues with the tenants it knows");
                    }
                }
            }
            std::thread::sleep(RELOAD_DELAY);
        }
    }

    fn replace(&self, loaded: LoadedLog) {
        let LoadedLog { reader, records, at, .. } = loaded;
        let state = state_of(records, &self.replica.vault, self.replica.limits);
        self.replica.replace(state, at, "Kafka");
        *self.reader.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(reader);
        self.progress.send_modify(|progress| progress.is_gone = false);
    }
}

/// Builds the state from records. Logs and skips damaged ones, because one of them must not take all tenants away.
pub(super) fn state_of(records: HashMap<String, String>, vault: &Vault, limits: Limits) -> State {
    let writes = records.into_iter().map(|(key, value)| (key, Some(value)));
    let mut changes: Vec<Change> = writes.filter_map(|write| or_log(record::read(&write, vault))).collect();
    record::put_in_order(&mut changes);
    let mut state = State::new(limits);
    changes.into_iter().for_each(|change| state.apply(change));
    state
}

fn or_log(change: Result<Change, StoreError>) -> Option<Change> {
    change.inspect_err(|error| tracing::error!(%error, "a record of the registry is skipped")).ok()
}

/// Thread that follows the log until this is dropped.
pub(in crate::registry) struct Follower(Arc<AtomicBool>);

impl Follower {
    /// Starts the thread. A panic in it is logged and counted, and the log is then read again from its start.
    ///
    /// # Errors
    /// The operating system can't start a thread.
    pub(super) fn start(log: &Arc<FollowedLog>) -> Result<Self, StoreError> {
        let stop = Arc::new(AtomicBool::new(false));
        let (log, stopped) = (Arc::clone(log), Arc::clone(&stop));
        let follow = move || {
            let mut has_panicked = false;
            loop {
                let following = catch_unwind(AssertUnwindSafe(|| {
                    if has_panicked {
                        log.reload_until(&stopped);
                    }
                    log.follow_until(&stopped);
                }));
                if following.is_ok() {
                    return;
                }
                report_panic("registry_follower");
                has_panicked = true;
                std::thread::sleep(RELOAD_DELAY);
            }
        };
        match std::thread::Builder::new().name("registry".into()).spawn(follow) {
            Ok(_) => Ok(Self(stop)),
            Err(error) => Err(StoreError::Thread(error)),
        }
    }

    /// Tells the thread to end, without waiting for it.
    pub(in crate::registry) fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop();
    }
}
