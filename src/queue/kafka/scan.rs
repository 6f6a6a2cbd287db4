//! Reading a topic from one end to the other, outside any group.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::{Message as _, Offset, TopicPartitionList};

use super::watermarks::{Ranges, ranges};
use crate::common::kafka::{KafkaConfig, KafkaContext, without_value};

/// How long it is waited for the next record before it is looked at whether time is over.
const POLL: Duration = Duration::from_millis(100);

/// Reads one topic. All of it blocks.
pub(super) struct Scan {
    consumer: BaseConsumer<KafkaContext>,
    topic: String,
    timeout: Duration,
}

impl Scan {
    pub(super) fn open(kafka: &KafkaConfig, topic: &str) -> KafkaResult<Self> {
        let consumer = kafka
            .client()
            // Never joined, and nothing is committed: a consumer without one reads nothing.
            .set("group.id", "whk-scan")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "earliest")
            .set("fetch.wait.max.ms", "50")
            .create_with_context(KafkaContext::default())
            .map_err(without_value)?;
        Ok(Self { consumer, topic: topic.to_owned(), timeout: kafka.timeout })
    }

    /// What each partition holds now.
    pub(super) fn all(&self) -> KafkaResult<Ranges> {
        ranges(&self.consumer, &self.topic, self.timeout)
    }

    /// Hands over the records in `ranges`, each partition's in order, until it is told to stop. Fails where none comes for
    /// as long as a request may take.
    pub(super) fn read(
        &self,
        ranges: &Ranges,
        mut each: impl FnMut(&BorrowedMessage<'_>) -> ControlFlow<()>,
    ) -> KafkaResult<()> {
        let mut open: Ranges = ranges.clone();
        open.retain(|_, range| !range.is_empty());
        let mut from = TopicPartitionList::new();
        for (partition, range) in &open {
            from.add_partition_offset(&self.topic, *partition, Offset::Offset(range.start))?;
        }
        self.consumer.assign(&from)?;
        let mut heard = Instant::now();
        while !open.is_empty() {
            match self.consumer.poll(POLL) {
                Some(Ok(message)) => {
                    heard = Instant::now();
                    let (partition, offset) = (message.partition(), message.offset());
                    let is_meant = open.get(&partition).is_some_and(|range| range.contains(&offset));
                    if is_meant && each(&message).is_break() {
                        break;
                    }
                    if open.get(&partition).is_some_and(|range| offset.saturating_add(1) >= range.end) {
                        open.remove(&partition);
                    }
                }
                // Its last records may have been compacted away.
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    heard = Instant::now();
                    open.remove(&partition);
                }
                _ if heard.elapsed() >= self.timeout => {
                    return Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut));
                }
                _ => {}
            }
        }
        self.consumer.unassign()
    }
}
