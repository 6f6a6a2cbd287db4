//! What a consumer group has left to do, as Kafka tells it: what every tool calls its lag.

use std::ops::Range;
use std::sync::Arc;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{Offset, TopicPartitionList};

use super::OpenKafkaError;
use super::held::Log;
use super::offsets::settled_beyond;
use super::watermarks::{partitions, range};
use crate::common::kafka::retriable::retry_until;
use crate::common::kafka::{KafkaConfig, KafkaContext, log_errors};
use crate::queue::QueueError;

/// Asks Kafka, without taking part in the group.
pub(super) struct Lag(Arc<BaseConsumer<KafkaContext>>);

impl Lag {
    pub(super) fn open(kafka: &KafkaConfig, group: &str) -> Result<Self, OpenKafkaError> {
        let consumer = kafka
            .client()
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .create_with_context(KafkaContext::default());
        Ok(Self(Arc::new(consumer.map_err(OpenKafkaError::of_settings)?)))
    }

    /// Lets `ask` ask on a thread that may wait.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&BaseConsumer<KafkaContext>) -> KafkaResult<T> + Send + 'static,
    ) -> KafkaResult<T> {
        let consumer = Arc::clone(&self.0);
        let asked =
            tokio::task::spawn_blocking(move || ask(&consumer).inspect_err(|_| log_errors(&consumer)));
        asked.await.unwrap_or(Err(KafkaError::Canceled))
    }

    /// What is left of each log, whoever reads it.
    pub(super) async fn of_logs(&self, kafka: &KafkaConfig) -> Result<Vec<LogLag>, QueueError> {
        let (topics, timeout) = (kafka.topics.clone(), kafka.timeout);
        let lags = self.ask(move |consumer| {
            let mut list = TopicPartitionList::new();
            for topic in [&topics.events, &topics.retry] {
                for partition in partitions(consumer, topic, timeout)? {
                    list.add_partition(topic, partition);
                }
            }
            let committed = retry_until(timeout, |left| consumer.committed_offsets(list.clone(), left))?;
            let lag = |element: &TopicPartitionListElem<'_>| {
                let (topic, partition) = (element.topic(), element.partition());
                let Range { start, end } = range(consumer, topic, partition, timeout)?;
                let (from, settled) = match element.offset() {
                    Offset::Offset(offset) if (start..=end).contains(&offset) => {
                        (offset, settled_beyond(offset, element.metadata()))
                    }
                    _ => (start, Vec::new()),
                };
                let settled = settled
                    .iter()
                    .fold(0_i64, |sum, run| sum.saturating_add(run.end.saturating_sub(run.start)));
                let left = end.saturating_sub(from).saturating_sub(settled);
                let log = if topic == topics.events { Log::Events } else { Log::Retry };
                Ok(LogLag { log, partition, left, end })
            };
            committed.elements().iter().map(lag).collect()
        });
        lags.await.map_err(|error| QueueError::Unavailable("ask Kafka for the group's lag", error.into()))
    }
}

/// How far a group is with one log.
#[derive(Debug, Clone, Copy)]
pub(super) struct LogLag {
    pub(super) log: Log,
    pub(super) partition: i32,
    /// Records that aren't known to be settled.
    pub(super) left: i64,
    /// Where it ends.
    pub(super) end: i64,
}
