//! Opens a queue. No other code picks a backend.

use std::path::Path;
use std::sync::Arc;

use super::disk::{DiskError, DiskQueue};
use super::kafka::{self, OpenKafkaError};
use super::memory::MemoryQueue;
use super::redis::{OpenRedisError, RedisQueue};
use super::{Queue, QueueConfig};
use crate::common::clock::Clock;
use crate::common::kafka::{Batching, KafkaConfig};
use crate::common::redis::RedisConfig;

/// A backend, with its location.
#[derive(Debug, Clone, Copy)]
pub enum Backend<'a> {
    /// The memory of this process.
    Memory,
    /// The SQLite file at that path. No other process may use it at the same time.
    Disk(&'a Path),
    /// The Redis or Valkey server, or cluster, of that configuration.
    Redis(&'a RedisConfig),
    /// The Kafka cluster of that configuration: the producer's batching, and the consumer group that delivers the jobs.
    Kafka(&'a KafkaConfig, Batching, &'a str),
}

/// The queue could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenQueueError {
    /// The SQLite file can't be opened.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Kafka can't be reached or used.
    #[error("open the queue in Kafka")]
    Kafka(#[from] OpenKafkaError),
    /// Redis can't be reached or used.
    #[error("open the queue in Redis")]
    Redis(#[from] OpenRedisError),
}

/// Opens the queue of `backend`.
///
/// # Errors
/// The backend's storage can't be reached, or can't be used by this version.
pub async fn open(
    backend: Backend<'_>,
    config: QueueConfig,
    clock: Clock,
) -> Result<Arc<dyn Queue>, OpenQueueError> {
    Ok(match backend {
        Backend::Memory => Arc::new(MemoryQueue::new(config, clock)),
        Backend::Disk(path) => Arc::new(DiskQueue::open(path, config, clock)?),
        Backend::Kafka(place, batching, group) => kafka::open(place, batching, group, &config).await?,
        Backend::Redis(redis) => Arc::new(RedisQueue::open(redis, config, clock).await?),
    })
}
