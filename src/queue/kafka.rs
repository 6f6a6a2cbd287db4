//! The queue in Apache Kafka: publishers write to its topics, consumers of one group deliver from them, as many as the
//! load needs.
//!
//! ```text
//! events         jobs as they are published; all of a tenant in one partition, so that its order is kept
//! events.retry   jobs that wait for longer than their partition should be held up for, in the partition of the same
//!                number: retries that are far away, and those of endpoints that stand still
//! events.dlq     dead letters, in the partition of the same number; compacted
//! ```
//!
//! What was answered is acknowledged by all in-sync replicas of its partition: how many those are is the topic's
//! `min.insync.replicas`. What a record holds stands in `record`, what a consumer commits in `offsets`, what it holds of
//! its partitions in `held`.
//!
//! Kafka's promise differs from that of the other queues in this:
//!
//! - A push is atomic for each record alone: where it fails in the middle, some of its jobs may be there. Published again
//!   under the same ids they come twice, unless a consumer holds the first of them at that moment.
//! - How much a tenant, or all of them, have queued isn't bounded here, but by the topics' retention and Kafka's quotas.
//! - What becomes of a message is told of the dead alone.
//! - Attempts at a job are counted by the consumer that holds it: where its partition goes to another before it was
//!   settled, that one begins to count anew.

mod consumer;
mod dead;
mod group;
mod held;
mod lag;
mod offsets;
mod producer;
mod record;
mod scan;
#[cfg(test)]
mod tests;
mod topics;
mod watermarks;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use tokio::sync::Notify;

use self::consumer::Consumer;
use self::dead::Counted;
pub use self::group::GroupConfig;
use self::held::Log;
use self::lag::{Lag, LogLag};
use self::producer::Producer;
use self::record::Record;
use super::{
    Capabilities, Depth, Lease, Queue, QueueConfig, QueueError, Settlement, TenantUsage, record as job_record,
};
use crate::common::clock::Clock;
use crate::common::job::{Job, Lane};
use crate::common::kafka::retriable::retry_until;
use crate::common::kafka::{Batching, Compression, KafkaConfig, without_value};

/// Kafka can't be used as it is.
#[derive(Debug, thiserror::Error)]
pub enum OpenKafkaError {
    /// No broker answers, or refuses.
    #[error("reach Kafka at {brokers}; see --kafka-brokers, or --kafka-username where it refuses")]
    Unreachable {
        /// Where it was looked for.
        brokers: String,
        /// What librdkafka said.
        source: KafkaError,
    },
    /// The client can't be made with these settings. What it says may repeat one of them.
    #[error("the settings of Kafka can't be used: {0}; see the --kafka-… flags")]
    Settings(String),
    /// A topic is missing.
    #[error("topic {0} is missing; `whk kafka-setup` makes it")]
    Missing(String),
    /// Jobs stay in the partition of the same number.
    #[error(
        "{first} has {of_first} partitions and {second} {of_second}: they must have as many; see `whk kafka-setup`"
    )]
    Unequal {
        /// A topic.
        first: String,
        /// Its partitions.
        of_first: usize,
        /// Another.
        second: String,
        /// Its partitions.
        of_second: usize,
    },
}

/// Opens the queue to publish to. `group` is the consumer group that delivers the jobs.
///
/// # Errors
/// Kafka can't be reached, or its topics aren't there.
pub async fn open(
    kafka: &KafkaConfig,
    batching: Batching,
    group: &str,
    config: &QueueConfig,
) -> Result<Arc<dyn Queue>, OpenKafkaError> {
    Ok(Arc::new(KafkaQueue::publish(kafka, batching, group, config).await?))
}

/// See the module's page.
pub struct KafkaQueue {
    kafka: KafkaConfig,
    producer: Producer,
    /// Where it only publishes there is none.
    consumer: Option<Consumer>,
    lag: Lag,
    keeps_order: bool,
    counted: Counted,
    is_closed: AtomicBool,
    closed: Notify,
}

impl KafkaQueue {
    /// A queue to publish to; what is told of its depth is what `group` has left to do.
    ///
    /// # Errors
    /// Kafka can't be reached, or its topics aren't there.
    pub async fn publish(
        kafka: &KafkaConfig,
        batching: Batching,
        group: &str,
        config: &QueueConfig,
    ) -> Result<Self, OpenKafkaError> {
        let lag = Lag::open(kafka, group)?;
        topics::check(&lag, kafka).await?;
        Ok(Self {
            kafka: kafka.clone(),
            producer: Producer::open(kafka, batching).map_err(OpenKafkaError::of_settings)?,
            consumer: None,
            lag,
            keeps_order: config.ordered,
            counted: Counted::default(),
            is_closed: AtomicBool::new(false),
            closed: Notify::new(),
        })
    }

    /// The same, and jobs are claimed from it as well, as one consumer of a group.
    ///
    /// # Errors
    /// Kafka can't be reached, or its topics aren't there.
    pub async fn consume(
        kafka: &KafkaConfig,
        group: &GroupConfig,
        config: QueueConfig,
        clock: Clock,
    ) -> Result<Self, OpenKafkaError> {
        // A topic's limit is that of records as they are compressed: what a server could write to `events`, however that
        // compresses, can be written to the others as well.
        let batching = Batching { compression: Compression::Zstd, ..Batching::default() };
        let queue = Self::publish(kafka, batching, &group.group, &config).await?;
        let consumer = Consumer::join(kafka, group, config, queue.producer.clone(), clock);
        Ok(Self { consumer: Some(consumer.map_err(OpenKafkaError::of_settings)?), ..queue })
    }

    fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }
}

impl OpenKafkaError {
    fn of_settings(error: KafkaError) -> Self {
        Self::Settings(without_value(error).to_string())
    }
}

#[async_trait]
impl Queue for KafkaQueue {
    async fn push(&self, jobs: Vec<Job>) -> Result<(), QueueError> {
        if self.is_closed() {
            return Err(QueueError::Closed);
        }
        let topic: Arc<str> = self.kafka.topics.events.as_str().into();
        let record = |mut job: Job| {
            // Whoever delivers it keeps order as whoever publishes it says.
            job.ordered |= self.keeps_order;
            Record {
                topic: Arc::clone(&topic),
                partition: None,
                key: record::key_of(&job),
                headers: vec![(record::JOB, job_record::encode(&job))],
                value: Some(job.body),
            }
        };
        let records: Vec<Record> = jobs.into_iter().map(record).collect();
        self.producer.write(&records).await
    }

    async fn claim(&self, max: usize) -> Result<Vec<Lease>, QueueError> {
        if let Some(consumer) = &self.consumer {
            return Ok(consumer.claim(max).await);
        }
        // Others deliver.
        let closed = self.closed.notified();
        tokio::pin!(closed);
        closed.as_mut().enable();
        if !self.is_closed() {
            closed.await;
        }
        Ok(Vec::new())
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<(), QueueError> {
        if let Some(consumer) = &self.consumer {
            consumer.settle(settlements);
        }
        Ok(())
    }

    /// Kafka answers, and takes this process into the group.
    async fn ready(&self) -> Result<(), QueueError> {
        let (topic, timeout) = (self.kafka.topics.events.clone(), self.kafka.timeout);
        let asked = self.lag.ask(move |consumer| {
            retry_until(timeout, |left| consumer.fetch_metadata(Some(&topic), left).map(drop))
        });
        asked.await.map_err(|error| QueueError::Unavailable("ask Kafka for its topics", error.into()))?;
        match self.consumer.as_ref().and_then(Consumer::refused) {
            None => Ok(()),
            Some(code) => {
                let source = KafkaError::MessageConsumption(code);
                Err(QueueError::Unavailable("join the consumer group", source.into()))
            }
        }
    }

    /// Of partitions that this process has it is exact; of others it is what their consumers haven't committed.
    async fn depth(&self) -> Result<Depth, QueueError> {
        let lags = self.lag.of_logs(&self.kafka).await?;
        let mut depth = self.consumer.as_ref().map(Consumer::depth).unwrap_or_default();
        for LogLag { log, partition, left, end } in lags {
            let read = self.consumer.as_ref().and_then(|consumer| consumer.next(log, partition));
            let left = read.map_or(left, |next| end.saturating_sub(next));
            let left = u64::try_from(left).unwrap_or_default();
            let state = match log {
                Log::Events => &mut depth.ready,
                Log::Retry => &mut depth.delayed,
            };
            *state = state.saturating_add(left);
        }
        Ok(Depth { dead: self.dead_count().await?, ..depth })
    }

    async fn tenant_usage(&self, tenants: &[String]) -> Result<Vec<TenantUsage>, QueueError> {
        Ok(vec![TenantUsage::default(); tenants.len()])
    }

    async fn release(&self, lanes: &[Lane]) -> Result<(), QueueError> {
        if let Some(consumer) = &self.consumer {
            consumer.release(lanes);
        }
        Ok(())
    }

    fn capabilities(&self) -> Capabilities {
        // Dead letters expire by their topic's retention.
        Capabilities { delivers: self.consumer.is_some(), is_shared: true, expires_dead_letters: true }
    }

    async fn leave(&self, limit: Duration) {
        if let Some(consumer) = &self.consumer {
            consumer.leave(limit).await;
        }
    }

    fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.closed.notify_waiters();
        if let Some(consumer) = &self.consumer {
            consumer.close();
        }
    }

    fn abandoned(&self) -> Vec<Arc<Job>> {
        Vec::new()
    }
}
