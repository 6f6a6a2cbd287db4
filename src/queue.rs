//! The queue: jobs wait here between publish and delivery. [`open`] is the only place that picks a backend.
//!
//! [`lanes`] schedules (which job is next), [`throttle`] holds failing endpoints back, [`memory`] is the
//! backend that lives in this process, [`disk`] the one that outlives it, [`redis`] the one that servers share, [`kafka`] the
//! one that consumers on many machines deliver from.
//! [`dead`] is what became of jobs that were given up, [`message`] what is known of each message, [`record`] how a job
//! is written.

#[cfg(test)]
mod conformance;
pub mod dead;
pub mod disk;
pub mod kafka;
pub mod lanes;
pub mod memory;
pub mod message;
pub mod record;
pub mod redis;
#[cfg(test)]
mod tests;
pub mod throttle;
mod usage;

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use clap::ValueEnum;
use jiff::Timestamp;
use serde::Serialize;

use self::kafka::{Batching, KafkaQueue, OpenKafkaError};
use self::redis::{OpenRedisError, RedisQueue};
use crate::common::attempt::Attempt;
use crate::common::clock::Clock;
use crate::common::job::{Job, Lane};
use crate::common::kafka::KafkaConfig;
use crate::common::redis::RedisConfig;
use crate::common::retry::{RetryPolicy, Verdict};
use dead::DeadLetters;
use disk::{DiskError, DiskQueue};
use memory::MemoryQueue;
use message::Messages;

/// Why the queue didn't do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// No room: the publisher tries again later.
    #[error("the queue is full")]
    Full,
    /// The batch would find no room in an empty queue either.
    #[error("the event makes more jobs, or more bytes of them, than the queue holds")]
    TooLarge,
    /// The queue takes no more jobs, since the process is stopping.
    #[error("the queue is closed")]
    Closed,
    /// What the queue is kept in can't be reached or written: nothing has changed, as far as can be told from here.
    #[error("{0}")]
    Unavailable(&'static str, #[source] Box<dyn Error + Send + Sync>),
}

/// At-least-once: a crash may deliver twice, never lose (but see each backend's promise).
#[async_trait]
pub trait Queue: DeadLetters + Messages + Send + Sync {
    /// All of `jobs` or none; as durable as the backend promises when it returns. A job whose id is that of a queued
    /// one is that one, published again: it isn't queued twice. Dropping the future may queue them or not.
    async fn push(&self, jobs: Vec<Job>) -> Result<(), QueueError>;

    /// Waits until a job is due, then leases up to `max`, fairly over lanes; ordered: one a lane.
    /// An empty answer means: closed, and nothing is left for this process to do.
    ///
    /// Cancel-safe: dropping the future loses nothing.
    async fn claim(&self, max: usize) -> Result<Vec<Lease>, QueueError>;

    /// Done, retry or dead, each in one atomic step; repeating it after an error is harmless, and so is settling a
    /// lease that ran out.
    async fn settle(&self, settlements: &[Settlement]) -> Result<(), QueueError>;

    /// Whether jobs can be taken and given out now.
    async fn ready(&self) -> Result<(), QueueError> {
        self.depth().await.map(drop)
    }

    /// How many jobs are in which state.
    async fn depth(&self) -> Result<Depth, QueueError>;

    /// What each of `tenants` has in the queue for its endpoints. Jobs of direct mode are nobody's.
    async fn queued(&self, tenants: &[String]) -> Result<Vec<Queued>, QueueError>;

    /// Makes the jobs of `lanes` due at once: what was learnt of their endpoints no longer holds, since these
    /// were changed, disabled or deleted.
    async fn release(&self, lanes: &[Lane]) -> Result<(), QueueError>;

    /// Takes no more jobs. A queue that ends with the process goes on to give out what it holds; a durable one gives
    /// out no more and keeps them for the next.
    fn close(&self);

    /// The jobs that end with this process, as far as they aren't settled. A durable queue has none.
    fn abandoned(&self) -> Vec<Arc<Job>>;
}

/// A claimed job: settle it, or it is claimed again after [`QueueConfig::lease`].
#[derive(Debug)]
pub struct Lease {
    /// What is to be delivered.
    pub job: Arc<Job>,
    /// Which attempt this is, counted from 1.
    pub attempt: u32,
    /// When the first attempt was made, as far as the backend knows; now, if this is it.
    pub first_attempt_at: Timestamp,
    /// Whether those behind it in its lane wait for it.
    pub ordered: bool,
    id: LeaseId,
}

/// Names one lease for good: where it is kept, and a number that no later lease there has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LeaseId {
    slot: usize,
    serial: u64,
}

/// What became of a lease.
#[derive(Debug)]
pub struct Settlement {
    /// Which.
    pub lease: Lease,
    /// What is done with its job.
    pub verdict: Verdict,
    /// The attempt that was made, if one was.
    pub attempt: Option<Attempt>,
}

impl Settlement {
    /// Attempts that were made in all.
    #[must_use]
    pub fn attempts_made(&self) -> u32 {
        self.lease.attempt.saturating_sub(u32::from(self.attempt.is_none()))
    }
}

/// Jobs by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Depth {
    /// Due now.
    pub ready: u64,
    /// Waiting for a retry's time.
    pub delayed: u64,
    /// Being delivered.
    pub leased: u64,
    /// Dead letters.
    pub dead: u64,
}

impl Depth {
    /// Jobs that are still to be delivered.
    #[must_use]
    pub fn unsettled(&self) -> u64 {
        self.ready.saturating_add(self.delayed).saturating_add(self.leased)
    }
}

/// A tenant's jobs that aren't settled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Queued {
    /// How many.
    pub jobs: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
}

/// Where jobs are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum QueueKind {
    /// In the data dir, for this process alone: what is answered 202 survives a crash and a loss of power
    #[default]
    Disk,
    /// In this process alone: a crash loses what wasn't delivered, SIGTERM delivers it or says what is left
    Memory,
    /// In Redis or Valkey 7.0 or newer, or a cluster of them: as durable as that is, shared by all servers with its
    /// --redis-prefix.
    Redis,
    /// In Apache Kafka, acknowledged by all in-sync replicas; `whk consume-kafka` delivers from there
    Kafka,
}

/// What every backend is told.
#[derive(Debug, Clone)]
pub struct QueueConfig {
    /// Whether every lane keeps strict order, waiting for its head while that is retried. Otherwise those do whose
    /// jobs ask for it.
    pub ordered: bool,
    /// Unsettled jobs that are held; one more is refused.
    pub max_jobs: usize,
    /// Bytes of their bodies that are held.
    pub max_bytes: usize,
    /// Leases that are out at once.
    pub in_flight: usize,
    /// Leases of one lane that are out at once, when it does well.
    pub lane_in_flight: u32,
    /// How long a lease lasts: longer than any attempt.
    pub lease: Duration,
    /// The delays by which an endpoint that fails is probed.
    pub retry: RetryPolicy,
    /// Delivered messages that are remembered with their attempts: the latest.
    pub history: usize,
}

/// A backend with what it needs to be opened.
#[derive(Debug, Clone, Copy)]
pub enum Backend<'a> {
    /// See [`QueueKind::Memory`].
    Memory,
    /// See [`QueueKind::Disk`]: in that file, which no other process uses.
    Disk(&'a Path),
    /// See [`QueueKind::Redis`].
    Redis(&'a RedisConfig),
    /// See [`QueueKind::Kafka`]: to publish to, and the group that delivers from there.
    Kafka(&'a KafkaConfig, Batching, &'a str),
}

/// The queue couldn't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenQueueError {
    /// For what the disk says.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// For what Kafka says, or doesn't.
    #[error("open the queue in Kafka")]
    Kafka(#[from] OpenKafkaError),
    /// For what Redis says, or doesn't.
    #[error("open the queue in Redis")]
    Redis(#[from] OpenRedisError),
}

/// Opens the queue.
///
/// # Errors
/// What it is kept in can't be reached or used.
pub async fn open(
    backend: Backend<'_>,
    config: QueueConfig,
    clock: Clock,
) -> Result<Arc<dyn Queue>, OpenQueueError> {
    Ok(match backend {
        Backend::Memory => Arc::new(MemoryQueue::new(config, clock)),
        Backend::Disk(path) => Arc::new(DiskQueue::open(path, config, clock)?),
        Backend::Kafka(kafka, batching, group) => {
            Arc::new(KafkaQueue::publish(kafka, batching, group, &config).await?)
        }
        Backend::Redis(redis) => Arc::new(RedisQueue::open(redis, config, clock).await?),
    })
}
