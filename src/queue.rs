//! The queue: jobs wait here between publish and delivery.
//!
//! - [`open`] picks the backend: [`memory`] (this process alone), [`disk`] (survives a restart), [`redis`] (shared by
//!   servers) or [`kafka`] (shared by consumers on many machines).
//! - [`lanes`] is the scheduler: it decides which job is next. [`throttle`] limits what a failing endpoint is sent.
//! - [`dead`] defines dead letters, [`message`] the state of each message, [`record`] the stored form of a job, and
//!   [`error`] what can go wrong.

#[cfg(test)]
mod conformance;
pub mod dead;
pub mod disk;
pub mod error;
#[cfg_attr(not(feature = "kafka"), path = "queue/without_kafka.rs")]
pub mod kafka;
pub mod lanes;
pub mod memory;
pub mod message;
pub mod open;
pub mod record;
pub mod redis;
#[cfg(test)]
mod tests;
pub mod throttle;
mod usage;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::Serialize;

use self::dead::DeadLetters;
pub use self::error::QueueError;
use self::message::Messages;
use crate::common::attempt::Attempt;
use crate::common::job::{Job, Lane};
use crate::common::retry::{RetryPolicy, Verdict};

/// A queue with at-least-once delivery: a crash may deliver a job twice, but loses none that its backend has promised
/// to keep.
#[async_trait]
pub trait Queue: DeadLetters + Messages + Send + Sync {
    /// Queues all of `jobs` or none. They are as durable as the backend promises when this returns.
    ///
    /// A job whose id is queued already is not queued twice. [`redis`] and [`kafka`] say where they promise less.
    ///
    /// Not cancel-safe: if the future is dropped, the jobs may or may not be queued.
    async fn push(&self, jobs: Vec<Job>) -> Result<(), QueueError>;

    /// Waits until a job is due, then leases up to `max` jobs, taking turns between lanes. An ordered lane gives out
    /// one job at a time.
    ///
    /// Returns no jobs only when the queue is closed and this process has nothing left to deliver.
    ///
    /// Cancel-safe: if the future is dropped, no job is lost or counted as attempted.
    async fn claim(&self, max: usize) -> Result<Vec<Lease>, QueueError>;

    /// Applies each verdict (done, retry, dead or dropped) to its lease. Each is applied in one atomic step.
    ///
    /// Repeating a call after an error is harmless, and so is settling an expired lease.
    async fn settle(&self, settlements: &[Settlement]) -> Result<(), QueueError>;

    /// Checks that the queue can take jobs and give them out.
    async fn ready(&self) -> Result<(), QueueError> {
        self.depth().await.map(drop)
    }

    /// Returns the number of jobs in each state.
    async fn depth(&self) -> Result<Depth, QueueError>;

    /// Returns the usage of each of `tenants`, in the same order. Jobs of direct mode belong to no tenant.
    async fn tenant_usage(&self, tenants: &[String]) -> Result<Vec<TenantUsage>, QueueError>;

    /// Makes all jobs of `lanes` due at once and forgets their throttles, because their endpoints were changed,
    /// disabled or deleted.
    async fn release(&self, lanes: &[Lane]) -> Result<(), QueueError>;

    /// Returns the properties of the backend.
    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    /// Hands the jobs assigned to this process over to the other consumers, within `limit`. Called after the
    /// dispatcher has ended. The default does nothing, because most backends assign no jobs to processes.
    async fn leave(&self, _limit: Duration) {}

    /// Refuses further jobs. A queue in memory still gives out the jobs it has; a durable queue gives out no more and
    /// keeps them for the next process.
    fn close(&self);

    /// Returns the unsettled jobs that are lost when this process ends. A durable queue has none.
    fn abandoned(&self) -> Vec<Arc<Job>>;
}

/// A claimed job. Unless it is settled within [`QueueConfig::lease`], it is claimed again.
#[derive(Debug)]
pub struct Lease {
    /// Job to deliver.
    pub job: Arc<Job>,
    /// Number of this attempt, counted from 1.
    pub attempt: u32,
    /// Time of the first attempt, as far as the backend knows it; the time of the claim if this is the first.
    pub first_attempt_at: Timestamp,
    /// Whether the next job of the lane waits until this one is settled.
    pub ordered: bool,
    id: LeaseId,
}

/// Identifier of a lease: its slot, and a serial number that no other lease of that slot ever has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LeaseId {
    slot: usize,
    serial: u64,
}

/// A lease with the verdict on its job.
#[derive(Debug)]
pub struct Settlement {
    /// Lease to settle.
    pub lease: Lease,
    /// Verdict on the job.
    pub verdict: Verdict,
    /// The attempt; `None` if no request was sent.
    pub attempt: Option<Attempt>,
}

impl Settlement {
    /// Returns the number of attempts made so far, including this one.
    #[must_use]
    pub fn attempts_made(&self) -> u32 {
        self.lease.attempt.saturating_sub(u32::from(self.attempt.is_none()))
    }
}

/// Number of jobs in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Depth {
    /// Jobs that are due.
    pub ready: u64,
    /// Jobs that wait for the time of their retry.
    pub delayed: u64,
    /// Jobs that are being delivered.
    pub leased: u64,
    /// Dead letters.
    pub dead: u64,
}

impl Depth {
    /// Returns the number of jobs that are still to be delivered.
    #[must_use]
    pub fn unsettled(&self) -> u64 {
        self.ready.saturating_add(self.delayed).saturating_add(self.leased)
    }
}

/// Properties of a backend, for the code that assembles a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Whether this process delivers the jobs that it pushes. If not, other processes claim them.
    pub delivers: bool,
    /// Whether several processes can use the queue at the same time.
    pub is_shared: bool,
    /// Whether the backend itself deletes dead letters of a certain age.
    pub expires_dead_letters: bool,
}

/// A queue of one process, in which nothing expires.
impl Default for Capabilities {
    fn default() -> Self {
        Self { delivers: true, is_shared: false, expires_dead_letters: false }
    }
}

/// Unsettled jobs of one tenant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TenantUsage {
    /// Number of jobs.
    pub jobs: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
}

/// Configuration common to all backends.
#[derive(Debug, Clone)]
pub struct QueueConfig {
    /// Whether every lane is ordered: later jobs wait while the first one is retried. If not, a lane is ordered when
    /// its jobs ask for it.
    pub ordered: bool,
    /// Maximum number of unsettled jobs. Further jobs are refused.
    pub max_jobs: usize,
    /// Maximum bytes of the bodies of unsettled jobs.
    pub max_bytes: usize,
    /// Maximum number of leases at once.
    pub in_flight: usize,
    /// Maximum number of leases of one lane at once, reached when its endpoint is healthy.
    pub lane_in_flight: u32,
    /// Duration of a lease. It must be longer than any attempt.
    pub lease: Duration,
    /// Delays between probes of a failing endpoint.
    pub retry: RetryPolicy,
    /// Number of delivered messages that are remembered with their attempts; the oldest are forgotten first.
    pub history: usize,
}
