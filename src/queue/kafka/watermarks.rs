//! Partitions of a topic, and the offsets that each of them holds.
//!
//! Each function blocks. Errors that Kafka calls retriable, such as a missing leader right after a topic was made, are
//! retried until `timeout` is over.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::metadata::MetadataPartition;

use crate::common::kafka::retriable::{is_retriable_code, retry_until};
use crate::common::kafka::{KafkaContext, is_not_permitted};

/// Offsets of each partition.
pub(super) type Ranges = BTreeMap<i32, Range<i64>>;

/// Returns the partitions of a topic; none where the topic is missing.
pub(super) fn partitions(
    consumer: &BaseConsumer<KafkaContext>,
    topic: &str,
    timeout: Duration,
) -> KafkaResult<Vec<i32>> {
    retry_until(timeout, |left| {
        let metadata = consumer.fetch_metadata(Some(topic), left)?;
        let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
            return Ok(Vec::new());
        };
        match found.error().map(RDKafkaErrorCode::from) {
            None => Ok(found.partitions().iter().map(MetadataPartition::id).collect()),
            // The caller says that the topic is missing, which is better than an error after the whole timeout.
            Some(RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition) => {
                Ok(Vec::new())
            }
            Some(code) if is_not_permitted(code) || is_retriable_code(code) => {
                Err(KafkaError::MetadataFetch(code))
            }
            Some(_) => Ok(Vec::new()),
        }
    })
}

/// Returns the offsets that one partition holds now.
pub(super) fn range(
    consumer: &BaseConsumer<KafkaContext>,
    topic: &str,
    partition: i32,
    timeout: Duration,
) -> KafkaResult<Range<i64>> {
    let (start, end) = retry_until(timeout, |left| consumer.fetch_watermarks(topic, partition, left))?;
    Ok(start..end)
}

/// Returns the offsets that each partition of a topic holds now.
pub(super) fn ranges(
    consumer: &BaseConsumer<KafkaContext>,
    topic: &str,
    timeout: Duration,
) -> KafkaResult<Ranges> {
    let of_partition = |partition| Ok((partition, range(consumer, topic, partition, timeout)?));
    partitions(consumer, topic, timeout)?.into_iter().map(of_partition).collect()
}
