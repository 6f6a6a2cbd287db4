//! The queue that lives in this process: the scheduler behind a lock, and a wake-up.
//!
//! It promises nothing beyond the process. [`Queue::close`] lets a drain go on until all is settled.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::Notify;

use super::lanes::{Lanes, Settled};
use super::{Depth, Lease, Queue, QueueConfig, QueueError, Queued};
use crate::common::clock::Clock;
use crate::common::job::{Job, Lane, Target};
use crate::common::retry::{Cause, Verdict};

/// Dead letters that are kept to be looked at; the oldest go first. All are counted.
const KEPT_DEAD_LETTERS: usize = 1_000;
/// Bytes of their bodies that are kept.
const KEPT_DEAD_BYTES: usize = 64 << 20;

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
    dead: VecDeque<DeadLetter>,
    dead_bytes: usize,
    dead_count: u64,
    closed: bool,
}

/// A job that was given up, and why.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// The job as it was queued.
    pub job: Arc<Job>,
    /// Why it is dead.
    pub cause: Cause,
}

impl MemoryQueue {
    /// An empty queue.
    #[must_use]
    pub fn new(config: QueueConfig, clock: Clock) -> Self {
        let (max_jobs, max_bytes) = (config.max_jobs, config.max_bytes);
        let state = State {
            lanes: Lanes::new(config),
            jobs: 0,
            bytes: 0,
            by_tenant: HashMap::new(),
            dead: VecDeque::new(),
            dead_bytes: 0,
            dead_count: 0,
            closed: false,
        };
        Self { state: Mutex::new(state), changed: Notify::new(), max_jobs, max_bytes, clock }
    }

    /// The newest dead letters, the oldest of them first.
    #[must_use]
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        self.lock().dead.iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn settle(&mut self, lease: &Lease, verdict: Verdict, clock: &Clock) {
        match self.lanes.settle(lease, verdict, clock.now()) {
            None | Some(Settled::Retried) => {}
            Some(Settled::Done(job)) => self.forget(&job),
            Some(Settled::Dead(job, cause)) => {
                self.forget(&job);
                self.bury(DeadLetter { job, cause });
            }
        }
    }

    fn bury(&mut self, letter: DeadLetter) {
        self.dead_count = self.dead_count.saturating_add(1);
        self.dead_bytes = self.dead_bytes.saturating_add(letter.job.body.len());
        self.dead.push_back(letter);
        while self.dead.len() > KEPT_DEAD_LETTERS || self.dead_bytes > KEPT_DEAD_BYTES {
            let Some(oldest) = self.dead.pop_front() else { break };
            self.dead_bytes = self.dead_bytes.saturating_sub(oldest.job.body.len());
        }
    }

    fn remember(&mut self, job: &Job) {
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
        let bytes = jobs.iter().fold(0_usize, |sum, job| sum.saturating_add(job.body.len()));
        {
            let mut state = self.lock();
            if state.closed {
                return Err(QueueError::Closed);
            }
            if jobs.len() > self.max_jobs || bytes > self.max_bytes {
                return Err(QueueError::TooLarge);
            }
            let (held_jobs, held_bytes) =
                (state.jobs.saturating_add(jobs.len()), state.bytes.saturating_add(bytes));
            if held_jobs > self.max_jobs || held_bytes > self.max_bytes {
                return Err(QueueError::Full);
            }
            (state.jobs, state.bytes) = (held_jobs, held_bytes);
            for job in jobs {
                state.remember(&job);
                state.lanes.push(Arc::new(job));
            }
        }
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

    async fn settle(&self, verdicts: Vec<(Lease, Verdict)>) -> Result<(), QueueError> {
        {
            let mut state = self.lock();
            for (lease, verdict) in verdicts {
                state.settle(&lease, verdict, &self.clock);
            }
        }
        self.changed.notify_waiters();
        Ok(())
    }

    async fn depth(&self) -> Result<Depth, QueueError> {
        let state = self.lock();
        Ok(Depth { dead: state.dead_count, ..state.lanes.depth() })
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

#[cfg(test)]
mod tests;
