//! Reading the log: all of it at first, then what is added, for ever.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::MetadataTopic;
use rdkafka::{Offset, TopicPartitionList};

use super::log::{Entry, Gathering, META, Meta, VERSION, Whole};
use super::{Core, own_of};
use crate::common::kafka::retriable::{is_retriable_code, retry_until};
use crate::common::kafka::{KafkaConfig, KafkaContext, hear, without_value};
use crate::registry::record;
use crate::registry::state::{Change, Position, State};
use crate::registry::store::StoreError;

/// How long the broker holds a question for new records, which is also how long a look from the start of where this
/// server is may have to wait.
const HOLD: Duration = Duration::from_millis(100);
/// How often it is looked at whether the log is still the one that was read.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Who was away for longer reads all records anew: deletions that it missed may have been compacted away, a day after
/// they were made at the soonest.
const MOST_AWAY: Duration = Duration::from_secs(3_600);
/// Between attempts to read all records.
const PAUSE: Duration = Duration::from_secs(1);

/// The log's one partition, read by this server alone: no consumer group.
pub(super) struct Log {
    consumer: BaseConsumer<KafkaContext>,
    pub(super) context: KafkaContext,
    topic: String,
    timeout: Duration,
}

/// All that there is.
pub(super) struct Loaded {
    pub(super) log: Log,
    pub(super) meta: Option<Meta>,
    pub(super) records: HashMap<String, String>,
    pub(super) at: Position,
}

impl Log {
    fn open(config: &KafkaConfig) -> Result<Self, StoreError> {
        let doing = "open the registry";
        let failed = |source| StoreError::Kafka { doing, source };
        let (context, topic) = (KafkaContext::default(), config.topics.registry.clone());
        let consumer: BaseConsumer<KafkaContext> = config
            .client()
            // Never joined, and nothing is committed: a consumer without one reads nothing.
            .set("group.id", "whk-registry")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .set("fetch.wait.max.ms", HOLD.as_millis().to_string())
            .set("fetch.error.backoff.ms", "100")
            .create_with_context(context.clone())
            .map_err(|error| failed(without_value(error)))?;
        let metadata = retry_until(config.timeout, |left| {
            let metadata = consumer.fetch_metadata(Some(&topic), left)?;
            let code =
                metadata.topics().iter().find(|found| found.name() == topic).and_then(MetadataTopic::error);
            match code.map(RDKafkaErrorCode::from) {
                Some(code)
                    if code != RDKafkaErrorCode::UnknownTopicOrPartition && is_retriable_code(code) =>
                {
                    Err(KafkaError::MetadataFetch(code))
                }
                _ => Ok(metadata),
            }
        });
        let metadata = metadata.inspect_err(|_| hear(&consumer)).map_err(failed)?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        match found.map(|found| (found.error().map(RDKafkaErrorCode::from), found)) {
            Some((None, found)) if found.partitions().len() == 1 => {}
            Some((None, found)) => {
                return Err(StoreError::Partitions { topic, found: found.partitions().len() });
            }
            None | Some((Some(RDKafkaErrorCode::UnknownTopicOrPartition), _)) => {
                return Err(StoreError::NoTopic(topic));
            }
            Some((Some(code), _)) => return Err(failed(KafkaError::MetadataFetch(code))),
        }
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(&topic, 0, Offset::Beginning).map_err(failed)?;
        consumer.assign(&assignment).map_err(failed)?;
        Ok(Self { consumer, context, topic, timeout: config.timeout })
    }

    /// The offset after the last record that can be read now. Blocks.
    pub(super) fn end(&self) -> Result<i64, StoreError> {
        let watermarks = retry_until(self.timeout, |left| {
            match self.consumer.fetch_watermarks(&self.topic, 0, left) {
                // Retriable for Kafka, but here the topic existed before.
                Err(error) if is_gone(&error) => Ok(None),
                answer => answer.map(Some),
            }
        });
        match watermarks {
            Ok(Some((_, end))) => {
                self.context.is_back();
                Ok(end)
            }
            Ok(None) => Err(StoreError::Gone),
            Err(source) => Err(StoreError::Kafka { doing: "read the registry", source }),
        }
    }

    /// Reads from there again, so that the end is told of again. Blocks.
    pub(super) fn seek(&self, offset: i64) -> Result<(), StoreError> {
        let sought = self.consumer.seek(&self.topic, 0, Offset::Offset(offset), self.timeout);
        sought.map_err(|source| StoreError::Kafka { doing: "read the registry", source })
    }
}

/// Reads all of it, to its end. Fails where nothing comes for as long as a request may take. Blocks.
pub(super) fn load(config: &KafkaConfig, server: &str) -> Result<Loaded, StoreError> {
    let log = Log::open(config)?;
    let mut records = HashMap::new();
    let (mut gathering, mut at) = (Gathering::default(), Position::default());
    let mut heard = Instant::now();
    let keep = |records: &mut HashMap<String, String>, at: &mut Position, whole: Whole| {
        for (key, value) in whole.writes {
            match value {
                Some(value) => drop(records.insert(key, value)),
                None => drop(records.remove(&key)),
            }
        }
        at.own = own_of(server, &whole.id).unwrap_or(at.own);
        at.version = after(whole.offset);
        at.mark = whole.id;
    };
    loop {
        match log.consumer.poll(HOLD) {
            Some(Ok(message)) => {
                heard = Instant::now();
                for whole in gathering.take(Entry::of(&message)) {
                    keep(&mut records, &mut at, whole);
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) => break,
            Some(Err(error)) => tracing::debug!(%error, "read the registry"),
            None => {}
        }
        if heard.elapsed() > log.timeout {
            let source = KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut);
            return Err(StoreError::Kafka { doing: "read the registry", source });
        }
    }
    if let Some(whole) = gathering.end() {
        keep(&mut records, &mut at, whole);
    }
    log.context.is_back();
    let meta = records.remove(META).map(|json| {
        let damaged = |_| StoreError::Damaged { record: META.into(), reason: "it isn't JSON of ours".into() };
        serde_json::from_str::<Meta>(&json).map_err(damaged)
    });
    let meta = meta.transpose()?;
    match meta.as_ref().map(|meta| meta.v).filter(|found| *found > VERSION) {
        Some(found) => Err(StoreError::NewerInKafka { found, known: VERSION }),
        None => Ok(Loaded { log, meta, records, at }),
    }
}

fn after(offset: i64) -> u64 {
    u64::try_from(offset.saturating_add(1)).unwrap_or_default()
}

fn is_gone(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{
        AutoOffsetReset, OffsetOutOfRange, UnknownPartition, UnknownTopic, UnknownTopicId,
        UnknownTopicOrPartition,
    };
    matches!(
        error.rdkafka_error_code(),
        Some(
            AutoOffsetReset
                | OffsetOutOfRange
                | UnknownPartition
                | UnknownTopic
                | UnknownTopicId
                | UnknownTopicOrPartition
        )
    )
}

impl Core {
    /// Follows the log until it is told to stop. Blocks.
    pub(super) fn follow_for_ever(&self, stop: &AtomicBool) {
        let mut log = self.log();
        let (mut gathering, mut taken) = (Gathering::default(), i64::MIN);
        let (mut looked, mut answered) = (Instant::now(), Instant::now());
        while !stop.load(Ordering::Relaxed) {
            let mut is_lost = false;
            match log.consumer.poll(HOLD) {
                Some(Ok(message)) => {
                    answered = Instant::now();
                    let entry = Entry::of(&message);
                    // Those that were read before, where the end was asked for again.
                    if entry.offset > taken {
                        taken = entry.offset;
                        for whole in gathering.take(entry) {
                            is_lost |= !self.follow(whole);
                        }
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    answered = Instant::now();
                    if let Some(whole) = gathering.end() {
                        is_lost |= !self.follow(whole);
                    }
                    self.progress.send_modify(|progress| progress.ends = progress.ends.saturating_add(1));
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "follow the registry");
                    is_lost = is_gone(&error);
                }
                None => {}
            }
            if looked.elapsed() >= LOOK_EVERY {
                looked = Instant::now();
                match log.end() {
                    Ok(end) => {
                        is_lost |= end < self.next() || answered.elapsed() > MOST_AWAY;
                        answered = Instant::now();
                    }
                    Err(StoreError::Gone) => is_lost = true,
                    Err(error) => tracing::debug!(%error, "follow the registry"),
                }
            }
            if is_lost {
                self.load_at_last(stop);
                log = self.log();
                (gathering, taken) = (Gathering::default(), i64::MIN);
                (looked, answered) = (Instant::now(), Instant::now());
            }
        }
    }

    /// Follows a change in memory, unless that was done. False where the log isn't the one that it was.
    fn follow(&self, whole: Whole) -> bool {
        let mut is_ours = true;
        let mut changes = Vec::with_capacity(whole.writes.len());
        for write in &whole.writes {
            match write {
                (key, value) if key == META => {
                    let meta = value.as_deref().and_then(|json| serde_json::from_str::<Meta>(json).ok());
                    is_ours &= meta.is_some_and(|meta| meta.id == self.id && meta.v <= VERSION);
                }
                write => changes.extend(told(record::read(write, &self.vault))),
            }
        }
        if !is_ours {
            return false;
        }
        let version = after(whole.offset);
        let mut state = self.locked();
        if state.at.version < version {
            changes.into_iter().for_each(|change| state.apply(change));
            let own = own_of(&self.server, &whole.id).unwrap_or(state.at.own);
            state.at = Position { version, mark: whole.id, own };
        }
        drop(state);
        self.progress.send_modify(|_| ());
        true
    }

    /// Reads all records until that works, since they aren't what they were.
    fn load_at_last(&self, stop: &AtomicBool) {
        let mut is_told = false;
        while !stop.load(Ordering::Relaxed) {
            let loaded = load(&self.config, &self.server).and_then(|loaded| {
                let is_same = loaded.meta.as_ref().is_some_and(|meta| meta.id == self.id);
                if is_same { Ok(loaded) } else { Err(StoreError::Gone) }
            });
            match loaded {
                Ok(loaded) => {
                    self.take(loaded);
                    if is_told {
                        tracing::info!("the registry is followed again");
                    }
                    return;
                }
                Err(error) => {
                    // Where it is, and can't be followed, nothing is known of it either.
                    let is_gone = !matches!(error, StoreError::Kafka { .. });
                    self.progress.send_modify(|progress| progress.is_gone |= is_gone);
                    if !is_told {
                        is_told = true;
                        let is_missing = matches!(error, StoreError::NoTopic(_));
                        let error = if is_missing { StoreError::Gone } else { error };
                        let error = format!("{:#}", anyhow::Error::from(error));
                        tracing::error!(%error, "follow the registry; this server goes on with what it knows of tenants");
                    }
                }
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Goes on with these records alone.
    fn take(&self, loaded: Loaded) {
        let Loaded { log, records, at, .. } = loaded;
        let mut state = state_of(records, self);
        let mut current = self.locked();
        let (was, is) = (current.at.version, at.version);
        state.at = Position { own: at.own.max(current.at.own), ..at };
        state.inherit_rates(&current);
        let old = std::mem::replace(&mut *current, state);
        drop(current);
        drop(old);
        self.replace_log(log);
        self.progress.send_modify(|progress| progress.is_gone = false);
        if is < was {
            tracing::error!(
                was,
                is,
                "Kafka has lost changes of the registry; this server follows what is there"
            );
        }
    }
}

/// What records say. Those that are damaged are told of and passed over: one of them must not take all tenants away.
pub(super) fn state_of(records: HashMap<String, String>, core: &Core) -> State {
    let writes = records.into_iter().map(|(key, value)| (key, Some(value)));
    let mut changes: Vec<Change> =
        writes.filter_map(|write| told(record::read(&write, &core.vault))).collect();
    record::put_in_order(&mut changes);
    let mut state = State::new(core.limits);
    changes.into_iter().for_each(|change| state.apply(change));
    state
}

fn told(change: Result<Change, StoreError>) -> Option<Change> {
    change.inspect_err(|error| tracing::error!(%error, "a record of the registry is passed over")).ok()
}

/// A thread that follows until this is dropped.
pub(in crate::registry) struct Follower(Arc<AtomicBool>);

impl Follower {
    /// Follows what is added to the log.
    pub(in crate::registry) fn start(core: &Arc<Core>) -> Result<Self, StoreError> {
        let stop = Arc::new(AtomicBool::new(false));
        let (core, stopped) = (Arc::clone(core), Arc::clone(&stop));
        let follow = move || core.follow_for_ever(&stopped);
        let thread = std::thread::Builder::new().name("registry".into()).spawn(follow);
        match thread {
            Ok(_) => Ok(Self(stop)),
            Err(error) => Err(StoreError::Thread(error)),
        }
    }
}

impl Follower {
    /// Ends the thread, without waiting for that.
    pub(in crate::registry) fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop();
    }
}
