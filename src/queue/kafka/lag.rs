//! What a consumer group has left to do, as Kafka tells it: what every tool calls its lag.

use std::sync::Arc;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::metadata::Metadata;
use rdkafka::{Offset, TopicPartitionList};

use super::OpenKafkaError;
use super::topics::AskContext;
use crate::common::kafka::KafkaConfig;
use crate::queue::{Depth, QueueError};

/// Asks Kafka, without taking part in the group.
pub(super) struct Lag(Arc<BaseConsumer<AskContext>>);

impl Lag {
    pub(super) fn open(kafka: &KafkaConfig, group: &str) -> Result<Self, OpenKafkaError> {
        let consumer = kafka
            .client()
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .create_with_context(AskContext);
        Ok(Self(Arc::new(consumer.map_err(OpenKafkaError::of_settings)?)))
    }

    /// Lets `ask` ask on a thread that may wait.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&BaseConsumer<AskContext>) -> KafkaResult<T> + Send + 'static,
    ) -> KafkaResult<T> {
        let consumer = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || ask(&consumer)).await.unwrap_or(Err(KafkaError::Canceled))
    }

    /// Jobs that aren't settled, and those in `events.retry` of them; the dead.
    pub(super) async fn depth(&self, kafka: &KafkaConfig) -> Result<Depth, QueueError> {
        let (topics, timeout) = (kafka.topics.clone(), kafka.timeout);
        let depth = self.ask(move |consumer| {
            let metadata = consumer.fetch_metadata(None, timeout)?;
            let mut list = TopicPartitionList::new();
            for topic in [&topics.events, &topics.retry] {
                for partition in partitions(&metadata, topic) {
                    list.add_partition(topic, partition);
                }
            }
            let committed = consumer.committed_offsets(list, timeout)?;
            let mut depth = Depth::default();
            for element in committed.elements() {
                let (start, end) =
                    consumer.fetch_watermarks(element.topic(), element.partition(), timeout)?;
                let from = match element.offset() {
                    Offset::Offset(offset) => offset.clamp(start, end),
                    _ => start,
                };
                let left = u64::try_from(end.saturating_sub(from)).unwrap_or_default();
                let state =
                    if element.topic() == topics.events { &mut depth.ready } else { &mut depth.delayed };
                *state = state.saturating_add(left);
            }
            Ok(depth)
        });
        depth.await.map_err(|error| QueueError::Unavailable("ask Kafka for the group's lag", error.into()))
    }
}

/// The partitions of a topic; none where it is missing.
pub(super) fn partitions(metadata: &Metadata, topic: &str) -> Vec<i32> {
    let found = metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none());
    found
        .into_iter()
        .flat_map(|topic| topic.partitions())
        .map(rdkafka::metadata::MetadataPartition::id)
        .collect()
}
