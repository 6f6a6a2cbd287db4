//! The scheduler of the queue on disk: the lanes in memory, shared by claims and the writer thread.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::Notify;

use crate::common::clock::Clock;
use crate::common::job::Job;
use crate::queue::QueueConfig;
use crate::queue::lanes::Lanes;
use crate::queue::usage::QueueUsage;

/// Number of jobs of each lane whose positions are in memory.
pub(super) const WINDOW: usize = 64;

/// Maximum bytes of bodies cached from push to attempt (64 MiB). Other bodies are read from the database.
const MAX_CACHED_BYTES: usize = 64 << 20;

/// The scheduler, with its lock and its notification.
pub(super) struct SharedScheduler {
    scheduler: Mutex<DiskScheduler>,
    /// Notifies waiting claims of every change that may concern them.
    pub(super) changed: Notify,
    cached_bytes: Arc<AtomicUsize>,
    pub(super) clock: Clock,
}

/// Jobs by lane, and their usage of the queue's limits. It reflects what is committed, except that the usage includes
/// jobs that are still being written.
pub(super) struct DiskScheduler {
    pub(super) lanes: Lanes<MaybeCached>,
    pub(super) usage: QueueUsage,
    /// Number of dead letters.
    pub(super) dead: u64,
    pub(super) closed: bool,
}

impl DiskScheduler {
    pub(super) fn new(config: QueueConfig, dead: u64) -> Self {
        Self { usage: QueueUsage::new(&config), dead, lanes: Lanes::new(config, WINDOW), closed: false }
    }
}

/// A waiting job, if it is cached.
pub(super) type MaybeCached = Option<Arc<CachedJob>>;

/// A job in memory. Dropping it returns its bytes to the cache's budget.
pub(super) struct CachedJob {
    pub(super) job: Arc<Job>,
    cached_bytes: Arc<AtomicUsize>,
}

impl Drop for CachedJob {
    fn drop(&mut self) {
        self.cached_bytes.fetch_sub(self.job.body.len(), Ordering::Relaxed);
    }
}

impl SharedScheduler {
    pub(super) fn new(scheduler: DiskScheduler, clock: Clock) -> Self {
        Self { scheduler: Mutex::new(scheduler), changed: Notify::new(), cached_bytes: Arc::default(), clock }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, DiskScheduler> {
        self.scheduler.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the current time in whole microseconds, the resolution of stored times.
    pub(super) fn now(&self) -> Timestamp {
        whole_micros(self.clock.now())
    }

    /// Caches a job if the budget allows it.
    pub(super) fn cache(&self, job: Arc<Job>) -> MaybeCached {
        let bytes = job.body.len();
        let cached = self.cached_bytes.fetch_add(bytes, Ordering::Relaxed);
        // If there is no room, dropping the value returns the bytes.
        let job = CachedJob { job, cached_bytes: Arc::clone(&self.cached_bytes) };
        (cached.saturating_add(bytes) <= MAX_CACHED_BYTES).then(|| Arc::new(job))
    }
}

/// Rounds a time to whole microseconds.
pub(super) fn whole_micros(time: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time)
}
