//! The queue in Apache Kafka. Servers publish jobs to its topics, and the consumers of one group deliver them.
//!
//! ```text
//! events         published jobs; all jobs of a tenant are in one partition, which keeps their order
//! events.retry   jobs that wait too long to stay in `events`: distant retries, and jobs of endpoints whose lanes are
//!                blocked; in the partition of the same number
//! events.dlq     dead letters, in the partition of the same number; compacted
//! ```
//!
//! All in-sync replicas of a partition acknowledge a job before its publisher is answered. The topic's
//! `min.insync.replicas` sets how many replicas that is. `record` defines the records, `offsets` the committed offsets,
//! and `held` the jobs that a consumer holds of its partitions.
//!
//! Kafka's promise differs from that of the other queues:
//!
//! - A push is atomic per record. If it fails in the middle, some of its jobs may be stored. Jobs that are published again
//!   under the same ids are delivered twice, unless a consumer holds the first copy at that moment.
//! - The queue doesn't limit the jobs of a tenant or of all tenants. The retention of the topics and Kafka's quotas do.
//! - Only dead letters can be looked up by message id.
//! - The consumer that holds a job counts its attempts. If the partition moves to another consumer before the job is
//!   settled, the count starts again.

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

/// Kafka can't be used for the queue.
#[derive(Debug, thiserror::Error)]
pub enum OpenKafkaError {
    /// No broker answers, or the brokers refuse the client.
    #[error("reach Kafka at {brokers}; see --kafka-brokers, or --kafka-username if it refuses the client")]
    Unreachable {
        /// Addresses of the brokers.
        brokers: String,
        /// The error that librdkafka reported.
        source: KafkaError,
    },
    /// The client can't be created with these settings. The text may quote a setting.
    #[error("the settings of Kafka can't be used: {0}; see the --kafka-… flags")]
    Settings(String),
    /// A topic is missing.
    #[error("topic {0} is missing; `whk kafka-setup` creates it")]
    Missing(String),
    /// Two topics have different numbers of partitions. A job stays in the partition of the same number.
    #[error(
        "{first} has {of_first} partitions and {second} {of_second}: the numbers must be equal; see `whk kafka-setup`"
    )]
    Unequal {
        /// Name of one topic.
        first: String,
        /// Number of its partitions.
        of_first: usize,
        /// Name of the other topic.
        second: String,
        /// Number of its partitions.
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

/// The queue in Kafka. The module's page describes its topics and promises.
pub struct KafkaQueue {
    kafka: KafkaConfig,
    producer: Producer,
    /// `None` in a server, which only publishes.
    consumer: Option<Consumer>,
    lag: Lag,
    keeps_order: bool,
    counted: Counted,
    is_closed: AtomicBool,
    closed: Notify,
}

impl KafkaQueue {
    /// Opens a queue for publishing. Its depth counts the jobs that `group` has not settled.
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

    /// Opens a queue for publishing and for claiming jobs, as one consumer of a group.
    ///
    /// # Errors
    /// Kafka can't be reached, or its topics aren't there.
    pub async fn consume(
        kafka: &KafkaConfig,
        group: &GroupConfig,
        config: QueueConfig,
        clock: Clock,
    ) -> Result<Self, OpenKafkaError> {
        // Kafka limits the compressed size of a record. With the strongest compression, a record that a server could write to
        // `events` fits the other topics as well.
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
            // The consumer keeps order if this server asks for it.
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
        // Consumers deliver, so a server waits until the queue is closed.
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

    /// Checks that Kafka answers, and that the group accepts this process.
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

    /// Counts exactly for the partitions of this process. For other partitions it counts the jobs that aren't committed.
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
