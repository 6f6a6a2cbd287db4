//! The queue in memory: the scheduler behind a lock, with a notification for waiting claims.
//!
//! Its jobs end with the process. After [`Queue::close`] claims still give out the remaining jobs, until all are
//! settled.

#[cfg(test)]
mod conforms;
mod messages;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::Notify;

use self::messages::MessageStore;
use super::dead::{DeadCursor, DeadFilter, DeadLetters, DeadPage, FullDeadLetter, MAX_BATCH};
use super::lanes::{Lanes, LeasedJob};
use super::message::{MessageRecord, Messages};
use super::usage::{JobSize, QueueUsage};
use super::{Depth, Lease, Queue, QueueConfig, QueueError, Settlement, TenantUsage};
use crate::common::clock::Clock;
use crate::common::id::MessageId;
use crate::common::job::{Job, Lane};
use crate::common::retry::Verdict;

/// A queue in the memory of this process.
pub struct MemoryQueue {
    state: Mutex<MemoryState>,
    /// Notifies waiting claims of every change that may concern them.
    changed: Notify,
    clock: Clock,
}

/// Everything that the queue holds.
struct MemoryState {
    lanes: Lanes<Arc<Job>>,
    /// Number of the latest job.
    seq: u64,
    usage: QueueUsage,
    messages: MessageStore,
    closed: bool,
}

impl MemoryQueue {
    /// Creates an empty queue.
    #[must_use]
    pub fn new(config: QueueConfig, clock: Clock) -> Self {
        let state = MemoryState {
            usage: QueueUsage::new(&config),
            messages: MessageStore::new(config.history),
            lanes: Lanes::new(config, usize::MAX),
            seq: 0,
            closed: false,
        };
        Self { state: Mutex::new(state), changed: Notify::new(), clock }
    }

    fn lock(&self) -> MutexGuard<'_, MemoryState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemoryState {
    /// Queues all of `jobs` or none, except those that are queued already.
    fn push(&mut self, jobs: Vec<Arc<Job>>, now: Timestamp) -> Result<(), QueueError> {
        if self.closed {
            return Err(QueueError::Closed);
        }
        self.usage.check_all(&jobs)?;
        for job in jobs {
            if !self.messages.is_queued(job.id) {
                self.usage.add(JobSize::of(&job));
                self.messages.add_queued(&job);
                self.seq = self.seq.saturating_add(1);
                let (lane, ordered) = (job.lane.clone(), job.ordered);
                self.lanes.push(&lane, ordered, (now, self.seq), job, now);
            }
        }
        Ok(())
    }

    fn settle(&mut self, settlement: &Settlement, clock: &Clock) {
        let Settlement { lease, verdict, attempt } = settlement;
        let now = clock.now();
        let retry = self.lanes.retry_of(lease.id, verdict);
        if !self.lanes.settle(lease.id, verdict, retry, Arc::clone(&lease.job), now) {
            return;
        }
        let id = lease.job.id;
        self.messages.add_attempt(id, attempt.as_ref());
        match verdict {
            Verdict::Retry { .. } => return,
            Verdict::Done => self.messages.deliver(id),
            Verdict::Dropped => self.messages.drop_job(id),
            Verdict::Dead { cause } => self.messages.bury(id, cause, settlement.attempts_made(), now),
        }
        self.usage.remove(JobSize::of(&lease.job));
    }
}

fn lease(leased: LeasedJob<Arc<Job>>) -> Lease {
    let LeasedJob { id, job, attempt, first_attempt_at, ordered, .. } = leased;
    Lease { job, attempt, first_attempt_at, ordered, id }
}

#[async_trait]
impl Queue for MemoryQueue {
    async fn push(&self, jobs: Vec<Job>) -> Result<(), QueueError> {
        self.lock().push(jobs.into_iter().map(Arc::new).collect(), self.clock.now())?;
        self.changed.notify_waiters();
        Ok(())
    }

    async fn claim(&self, max: usize) -> Result<Vec<Lease>, QueueError> {
        loop {
            // Registered before the lanes are read, so that no change in between is missed.
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let due = {
                let mut state = self.lock();
                let claimed = state.lanes.claim(max, self.clock.now());
                let nothing_left = state.closed && state.usage.is_empty();
                if !claimed.is_empty() || nothing_left {
                    return Ok(claimed.into_iter().map(lease).collect());
                }
                state.lanes.next_due()
            };
            match due {
                None => changed.await,
                Some(due) => drop(tokio::time::timeout_at(self.clock.instant_at(due), changed).await),
            }
        }
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<(), QueueError> {
        {
            let mut state = self.lock();
            for settlement in settlements {
                state.settle(settlement, &self.clock);
            }
        }
        self.changed.notify_waiters();
        Ok(())
    }

    async fn depth(&self) -> Result<Depth, QueueError> {
        let state = self.lock();
        let dead = u64::try_from(state.messages.dead_count()).unwrap_or(u64::MAX);
        Ok(Depth { dead, ..state.lanes.depth(self.clock.now()) })
    }

    async fn tenant_usage(&self, tenants: &[String]) -> Result<Vec<TenantUsage>, QueueError> {
        Ok(self.lock().usage.by_tenant(tenants))
    }

    async fn release(&self, lanes: &[Lane]) -> Result<(), QueueError> {
        self.lock().lanes.release(lanes, self.clock.now());
        self.changed.notify_waiters();
        Ok(())
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_waiters();
    }

    fn abandoned(&self) -> Vec<Arc<Job>> {
        self.lock().lanes.jobs().cloned().collect()
    }
}

#[async_trait]
impl DeadLetters for MemoryQueue {
    async fn dead_letters(
        &self,
        filter: &DeadFilter,
        after: Option<DeadCursor>,
        limit: usize,
    ) -> Result<DeadPage, QueueError> {
        Ok(self.lock().messages.page(filter, after, limit))
    }

    async fn dead_letter(&self, id: MessageId) -> Result<Option<FullDeadLetter>, QueueError> {
        Ok(self.lock().messages.full_dead_letter(id))
    }

    async fn count_dead(&self, filter: &DeadFilter) -> Result<u64, QueueError> {
        Ok(u64::try_from(self.lock().messages.matching(filter).count()).unwrap_or(u64::MAX))
    }

    async fn replay(&self, filter: &DeadFilter, limit: usize) -> Result<u64, QueueError> {
        let replayed = {
            let mut state = self.lock();
            let ids = state.matching(filter, limit);
            let jobs = ids.iter().filter_map(|id| state.messages.dead_job(*id)).map(Arc::clone).collect();
            state.push(jobs, self.clock.now())?;
            state.remove_dead(ids)
        };
        self.changed.notify_waiters();
        Ok(replayed)
    }

    async fn purge(&self, filter: &DeadFilter, limit: usize) -> Result<u64, QueueError> {
        let mut state = self.lock();
        let ids = state.matching(filter, limit);
        Ok(state.remove_dead(ids))
    }
}

impl MemoryState {
    /// Returns the ids of the first dead letters that match.
    fn matching(&self, filter: &DeadFilter, limit: usize) -> Vec<MessageId> {
        self.messages.matching(filter).take(limit.min(MAX_BATCH)).map(|letter| letter.id).collect()
    }

    /// Removes dead letters. Returns how many existed.
    fn remove_dead(&mut self, ids: Vec<MessageId>) -> u64 {
        let removed = ids.into_iter().filter_map(|id| self.messages.remove_dead(id)).count();
        u64::try_from(removed).unwrap_or(u64::MAX)
    }
}

#[async_trait]
impl Messages for MemoryQueue {
    async fn message(&self, id: MessageId) -> Result<Option<MessageRecord>, QueueError> {
        Ok(self.lock().messages.message(id))
    }
}
