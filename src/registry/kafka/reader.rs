//! Reading the log: one consumer without a group, from the first record to the end.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::metadata::MetadataTopic;
use rdkafka::{Offset, TopicPartitionList};

use super::format::{AssembledChange, ChangeAssembler, LogRecord, META, Meta, VERSION};
use crate::common::kafka::retriable::{is_retriable_code, retry_until};
use crate::common::kafka::{KafkaConfig, KafkaContext, log_errors, without_value};
use crate::registry::error::StoreError;
use crate::registry::record;
use crate::registry::replica::ServerId;
use crate::registry::state::Position;

/// Time that the broker holds a fetch when there is nothing new. A seek may have to wait for that as well.
const FETCH_WAIT: Duration = Duration::from_millis(100);

/// Consumer of the log's one partition, without a consumer group.
pub(super) struct LogReader {
    consumer: BaseConsumer<KafkaContext>,
    pub(super) context: KafkaContext,
    topic: String,
    timeout: Duration,
}

/// All records of the log at one time.
pub(super) struct LoadedLog {
    /// Reader that continues after the last record.
    pub(super) reader: LogReader,
    /// The meta record. `None` if the registry doesn't exist yet.
    pub(super) meta: Option<Meta>,
    pub(super) records: HashMap<String, String>,
    pub(super) at: Position,
}

impl LogReader {
    /// Opens the log at its first record. Blocks.
    fn open(config: &KafkaConfig) -> Result<Self, StoreError> {
        let failed =
            |source: KafkaError| StoreError::Kafka { doing: "open the registry", source: source.into() };
        let (context, topic) = (KafkaContext::default(), config.topics.registry.clone());
        let consumer: BaseConsumer<KafkaContext> = config
            .client()
            // librdkafka reads nothing without a group id. The group is never joined, and no offset is committed.
            .set("group.id", "whk-registry")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .set("fetch.wait.max.ms", FETCH_WAIT.as_millis().to_string())
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
        let metadata = metadata.inspect_err(|_| log_errors(&consumer)).map_err(failed)?;
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

    /// Waits for the next record or event, for at most [`FETCH_WAIT`]. Blocks.
    pub(super) fn poll(&self) -> Option<KafkaResult<BorrowedMessage<'_>>> {
        self.consumer.poll(FETCH_WAIT)
    }

    /// Returns the offset after the last record that can be read now. Blocks.
    pub(super) fn end(&self) -> Result<i64, StoreError> {
        let watermarks = retry_until(self.timeout, |left| {
            match self.consumer.fetch_watermarks(&self.topic, 0, left) {
                // Kafka calls this retriable, but the topic existed before.
                Err(error) if is_gone(&error) => Ok(None),
                answer => answer.map(Some),
            }
        });
        match watermarks {
            Ok(Some((_, end))) => {
                self.context.broker_answered();
                Ok(end)
            }
            Ok(None) => Err(StoreError::Gone),
            Err(source) => Err(reading(source)),
        }
    }

    /// Reads again from `offset`, so that librdkafka reports the end of the partition once more. Blocks.
    pub(super) fn seek(&self, offset: i64) -> Result<(), StoreError> {
        self.consumer.seek(&self.topic, 0, Offset::Offset(offset), self.timeout).map_err(reading)
    }
}

/// Reads the whole log. Blocks.
///
/// # Errors
/// The topic can't be used, its meta record can't be parsed, or nothing is received for the timeout of a request.
pub(super) fn load(config: &KafkaConfig, server: &ServerId) -> Result<LoadedLog, StoreError> {
    let reader = LogReader::open(config)?;
    let mut records = HashMap::new();
    let (mut assembler, mut at) = (ChangeAssembler::default(), Position::default());
    let mut last_received = Instant::now();
    let keep = |records: &mut HashMap<String, String>, at: &mut Position, change: AssembledChange| {
        record::merge(records, change.writes);
        at.own = server.own_of(&change.id).unwrap_or(at.own);
        at.version = version_after(change.offset);
        at.mark = change.id;
    };
    loop {
        match reader.poll() {
            Some(Ok(message)) => {
                last_received = Instant::now();
                for change in assembler.add(LogRecord::parse(&message)) {
                    keep(&mut records, &mut at, change);
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) => break,
            Some(Err(error)) => tracing::debug!(%error, "read the registry"),
            None => {}
        }
        if last_received.elapsed() > reader.timeout {
            return Err(reading(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut)));
        }
    }
    if let Some(change) = assembler.finish() {
        keep(&mut records, &mut at, change);
    }
    reader.context.broker_answered();
    let meta = records.remove(META).map(|json| {
        let damaged =
            |_| StoreError::Damaged { record: META.into(), reason: "it isn't JSON of whk's".into() };
        serde_json::from_str::<Meta>(&json).map_err(damaged)
    });
    let meta = meta.transpose()?;
    match meta.as_ref().map(|meta| meta.v).filter(|found| *found > VERSION) {
        Some(found) => Err(StoreError::NewerInKafka { found, known: VERSION }),
        None => Ok(LoadedLog { reader, meta, records, at }),
    }
}

/// Returns the version of the registry after the record at `offset`: the offset of the next one.
pub(super) fn version_after(offset: i64) -> u64 {
    u64::try_from(offset.saturating_add(1)).unwrap_or_default()
}

/// Returns the error of a read that failed.
pub(super) fn reading(source: KafkaError) -> StoreError {
    StoreError::Kafka { doing: "read the registry", source: source.into() }
}

/// Whether the topic was deleted, or replaced by a shorter one.
pub(super) fn is_gone(error: &KafkaError) -> bool {
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
