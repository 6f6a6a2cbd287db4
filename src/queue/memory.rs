//! The queue that lives in this process: the scheduler behind a lock, and a wake-up.
//!
//! It promises nothing beyond the process. [`Queue::close`] lets a drain go on until all is settled.

mod kept;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::Notify;

use self::kept::Kept;
use super::dead::{DeadBody, DeadCursor, DeadFilter, DeadLetters, DeadPage, MOST_AT_ONCE};
use super::lanes::{Lanes, Settled};
use super::message::{MessageRecord, Messages};
use super::{Depth, Lease, Queue, QueueConfig, QueueError, Queued, Settlement};
use crate::common::clock::Clock;
use crate::common::id::MessageId;
use crate::common::job::{Job, Lane, Target};
use crate::common::retry::Verdict;

/// See the module's page.
pub struct MemoryQueue {
    state: Mutex<State>,
    /// Rung after every change that a waiting claim may care for.
    changed: Notify,
    max_jobs: usize,
    max_bytes: usize,
    clock: Clock,
}

struct State {
    lanes: Lanes,
    jobs: usize,
    bytes: usize,
    by_tenant: HashMap<Arc<str>, Queued>,
    kept: Kept,
    closed: bool,
}

impl MemoryQueue {
    /// An empty queue.
    #[must_use]
    pub fn new(config: QueueConfig, clock: Clock) -> Self {
        let (max_jobs, max_bytes, history) = (config.max_jobs, config.max_bytes, config.history);
        let state = State {
            lanes: Lanes::new(config),
            jobs: 0,
            bytes: 0,
            by_tenant: HashMap::new(),
            kept: Kept::new(history),
            closed: false,
        };
        Self { state: Mutex::new(state), changed: Notify::new(), max_jobs, max_bytes, clock }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes all of `jobs` or none; those that are queued already aren't queued again.
    fn push(&mut self, jobs: Vec<Arc<Job>>, most: (usize, usize)) -> Result<(), QueueError> {
        if self.closed {
            return Err(QueueError::Closed);
        }
        let bytes = jobs.iter().fold(0_usize, |sum, job| sum.saturating_add(job.body.len()));
        if jobs.len() > most.0 || bytes > most.1 {
            return Err(QueueError::TooLarge);
        }
        if self.jobs.saturating_add(jobs.len()) > most.0 || self.bytes.saturating_add(bytes) > most.1 {
            return Err(QueueError::Full);
        }
        for job in jobs {
            if !self.kept.is_queued(job.id) {
                self.remember(&job);
                self.kept.queue(&job);
                self.lanes.push(job);
            }
        }
        Ok(())
    }

    fn settle(&mut self, settlement: &Settlement, clock: &Clock) {
        let Settlement { lease, verdict, attempt } = settlement;
        let now = clock.now();
        let Some(settled) = self.lanes.settle(lease, verdict.clone(), now) else { return };
        let id = lease.job.id;
        self.kept.attempted(id, attempt.as_ref());
        match settled {
            Settled::Retried => return,
            Settled::Done if *verdict == Verdict::Done => self.kept.deliver(id),
            Settled::Done => self.kept.drop_job(id),
            Settled::Dead(cause) => self.kept.bury(id, &cause, lease.attempt, now),
        }
        self.forget(&lease.job);
    }

    fn remember(&mut self, job: &Job) {
        self.jobs = self.jobs.saturating_add(1);
        self.bytes = self.bytes.saturating_add(job.body.len());
        // In direct mode the tenant is what a stranger says, and no tenant's quota is charged for it.
        if let Target::Endpoint(..) = job.target {
            let queued = self.by_tenant.entry(Arc::clone(&job.tenant)).or_default();
            queued.jobs = queued.jobs.saturating_add(1);
            queued.bytes = queued.bytes.saturating_add(byte_count(job));
        }
    }

    fn forget(&mut self, job: &Job) {
        self.jobs = self.jobs.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(job.body.len());
        if let Target::Url(_) = job.target {
            return;
        }
        if let Entry::Occupied(mut entry) = self.by_tenant.entry(Arc::clone(&job.tenant)) {
            let queued = entry.get_mut();
            queued.jobs = queued.jobs.saturating_sub(1);
            queued.bytes = queued.bytes.saturating_sub(byte_count(job));
            if queued.jobs == 0 {
                entry.remove();
            }
        }
    }
}

fn byte_count(job: &Job) -> u64 {
    u64::try_from(job.body.len()).unwrap_or(u64::MAX)
}

#[async_trait]
impl Queue for MemoryQueue {
    async fn push(&self, jobs: Vec<Job>) -> Result<(), QueueError> {
        let most = (self.max_jobs, self.max_bytes);
        self.lock().push(jobs.into_iter().map(Arc::new).collect(), most)?;
        self.changed.notify_waiters();
        Ok(())
    }

    async fn claim(&self, max: usize) -> Result<Vec<Lease>, QueueError> {
        loop {
            // Registered before looking, so that a push in between isn't missed.
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let due = {
                let mut state = self.lock();
                let claimed = state.lanes.claim(max, self.clock.now());
                let nothing_left = state.closed && state.jobs == 0;
                if !claimed.is_empty() || nothing_left {
                    return Ok(claimed);
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
        let dead = u64::try_from(state.kept.dead_count()).unwrap_or(u64::MAX);
        Ok(Depth { dead, ..state.lanes.depth() })
    }

    async fn queued(&self, tenants: &[String]) -> Result<Vec<Queued>, QueueError> {
        let state = self.lock();
        Ok(tenants.iter().map(|tenant| state.by_tenant.get(&**tenant).copied().unwrap_or_default()).collect())
    }

    async fn release(&self, lanes: &[Lane]) -> Result<(), QueueError> {
        self.lock().lanes.release(&lanes.iter().cloned().collect(), self.clock.now());
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
        Ok(self.lock().kept.page(filter, after, limit))
    }

    async fn dead_letter(&self, id: MessageId) -> Result<Option<DeadBody>, QueueError> {
        Ok(self.lock().kept.dead_body(id))
    }

    async fn count_dead(&self, filter: &DeadFilter) -> Result<u64, QueueError> {
        Ok(u64::try_from(self.lock().kept.matching(filter).count()).unwrap_or(u64::MAX))
    }

    async fn replay(&self, filter: &DeadFilter, limit: usize) -> Result<u64, QueueError> {
        let replayed = {
            let mut state = self.lock();
            let ids = state.matching(filter, limit);
            let jobs = ids.iter().filter_map(|id| state.kept.dead_job(*id)).map(Arc::clone).collect();
            state.push(jobs, (self.max_jobs, self.max_bytes))?;
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

impl State {
    fn matching(&self, filter: &DeadFilter, limit: usize) -> Vec<MessageId> {
        self.kept.matching(filter).take(limit.min(MOST_AT_ONCE)).map(|letter| letter.id).collect()
    }

    fn remove_dead(&mut self, ids: Vec<MessageId>) -> u64 {
        let removed = ids.into_iter().filter_map(|id| self.kept.remove(id)).count();
        u64::try_from(removed).unwrap_or(u64::MAX)
    }
}

#[async_trait]
impl Messages for MemoryQueue {
    async fn message(&self, id: MessageId) -> Result<Option<MessageRecord>, QueueError> {
        Ok(self.lock().kept.message(id))
    }
}

#[cfg(test)]
mod conforms;
#[cfg(test)]
mod tests;
