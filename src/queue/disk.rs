//! The queue on disk: durable, used by this process alone.
//!
//! A push returns when its jobs are written and synced. All pushes that wait share one sync. Settlements written with
//! them are synced too. A settlement written without a push is not synced: it survives the end of the process, but
//! after a loss of power its job is delivered again.
//!
//! Memory holds the positions of the next jobs of each lane ([`super::lanes`]) and, up to a budget, the bodies of new
//! jobs. Everything else is read when its turn comes.
//!
//! - `schema` is the database file, `store` the connection that writes, `reader` one that reads, `rows` the columns.
//! - `writer` is the thread that writes `operation`s. `checkpoint` is the thread that copies SQLite's log into the
//!   file.
//! - `scheduler` is the state in memory, `claim` the reading of claimed jobs, `reserve` the provision for a full disk.

mod checkpoint;
mod claim;
#[cfg(test)]
mod conforms;
mod operation;
mod reader;
mod reserve;
mod rows;
mod scheduler;
mod schema;
mod store;
#[cfg(test)]
mod tests;
mod writer;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::oneshot;

use self::checkpoint::CheckpointThread;
use self::operation::{Operation, SettledLease};
use self::reader::Reader;
use self::reserve::Reserve;
use self::scheduler::{DiskScheduler, SharedScheduler, whole_micros};
pub use self::schema::DiskError;
use self::store::Store;
use self::writer::{Request, Writer};
use super::dead::{DeadCursor, DeadFilter, DeadLetters, DeadPage, FullDeadLetter};
use super::message::{MessageRecord, Messages};
use super::usage::JobSize;
use super::{Depth, Lease, Queue, QueueConfig, QueueError, Settlement, TenantUsage};
use crate::common::clock::{Clock, after};
use crate::common::id::MessageId;
use crate::common::job::{Job, Lane};
use crate::common::retry::Verdict;

/// A queue in a SQLite file.
pub struct DiskQueue {
    shared: Arc<SharedScheduler>,
    requests: mpsc::Sender<Request>,
    writer: JoinHandle<()>,
    /// Reads the jobs of claims.
    claim_reader: Arc<Mutex<Reader>>,
    /// Answers queries, which may take longer.
    query_reader: Arc<Mutex<Reader>>,
}

impl DiskQueue {
    /// Opens the queue in the file `path`, or creates it. The caller must keep other processes from using the file.
    ///
    /// # Errors
    /// The file can't be read or written, or is not a queue that this version knows.
    pub fn open(path: &Path, config: QueueConfig, clock: Clock) -> Result<Self, DiskError> {
        let failed = |source| schema::open_error(path, source);
        let io_failed = |source| DiskError::Io { path: path.to_owned(), source };
        let store = Store::open(path, config.history, whole_micros(clock.now()))?;
        let mut scheduler = DiskScheduler::new(config, store.dead_count().map_err(failed)?);
        let now = whole_micros(clock.now());
        for stored in store.stored_lanes().map_err(failed)? {
            let jobs = usize::try_from(stored.jobs).unwrap_or(usize::MAX);
            let bytes = usize::try_from(stored.bytes).unwrap_or(usize::MAX);
            scheduler.usage.add_many(JobSize { tenant: stored.tenant.as_ref(), bytes }, jobs);
            scheduler.lanes.add_unloaded(&stored.lane, stored.jobs, stored.first, stored.ordered, now);
        }
        let waiting = scheduler.usage.jobs();
        if waiting > 0 {
            tracing::info!(jobs = waiting, "the queue continues with stored jobs");
        }
        let shared = Arc::new(SharedScheduler::new(scheduler, clock));
        let claim_reader = Arc::new(Mutex::new(Reader::open(path)?));
        let query_reader = Arc::new(Mutex::new(Reader::open(path)?));
        let checkpoints = CheckpointThread::start(path)?;
        let reserve = Reserve::take(&path.with_extension("reserve")).map_err(io_failed)?;
        let writer = Writer::new(store, Arc::clone(&shared), checkpoints, reserve);
        let (requests, received) = mpsc::channel();
        let run = move || writer.run(&received);
        let writer = std::thread::Builder::new().name("queue-writer".to_owned()).spawn(run);
        Ok(Self { shared, requests, writer: writer.map_err(io_failed)?, claim_reader, query_reader })
    }

    /// Sends an operation to the writer, and waits for its answer.
    async fn write(&self, operation: Operation) -> Result<u64, QueueError> {
        let (reply, answer) = oneshot::channel();
        if self.requests.send(Request::Write(operation, Some(reply))).is_err() {
            return Err(writer_ended());
        }
        answer.await.unwrap_or_else(|_| Err(writer_ended()))
    }

    /// Runs a query beside the writer, on a thread that may block.
    async fn query<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Reader) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, QueueError> {
        Self::read_from(&self.query_reader, query).await
    }

    async fn read_from<T: Send + 'static>(
        reader: &Arc<Mutex<Reader>>,
        read: impl FnOnce(&Reader) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, QueueError> {
        let reader = Arc::clone(reader);
        let read = tokio::task::spawn_blocking(move || {
            let reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
            read(&reader).map_err(|error| unreadable(error.into()))
        });
        read.await.unwrap_or_else(|_| Err(QueueError::task_ended("the queue can't be read")))
    }
}

fn writer_ended() -> QueueError {
    QueueError::Unavailable("the queue's writer thread has ended", "see its panic in the log".into())
}

fn unreadable(error: Box<dyn std::error::Error + Send + Sync>) -> QueueError {
    QueueError::Unavailable("the queue can't be read", error)
}

#[async_trait]
impl Queue for DiskQueue {
    async fn push(&self, jobs: Vec<Job>) -> Result<(), QueueError> {
        let jobs: Vec<Arc<Job>> = jobs.into_iter().map(Arc::new).collect();
        {
            let mut scheduler = self.shared.lock();
            if scheduler.closed {
                return Err(QueueError::Closed);
            }
            scheduler.usage.check_all(&jobs)?;
            jobs.iter().for_each(|job| scheduler.usage.add(JobSize::of(job)));
        }
        self.write(Operation::push(jobs)).await.map(drop)
    }

    async fn claim(&self, max: usize) -> Result<Vec<Lease>, QueueError> {
        loop {
            // Registered before the scheduler is read, so that no change in between is missed.
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let (leased, lanes_to_load, due) = {
                let mut scheduler = self.shared.lock();
                if scheduler.closed {
                    return Ok(Vec::new());
                }
                let leased = scheduler.lanes.claim(max, self.shared.now());
                (leased, scheduler.lanes.take_lanes_to_load(), scheduler.lanes.next_due())
            };
            for lane in lanes_to_load {
                self.requests.send(Request::LoadLane(lane)).map_err(|_| writer_ended())?;
            }
            if !leased.is_empty() {
                let leases = self.leases(leased).await?;
                if !leases.is_empty() {
                    return Ok(leases);
                }
                continue;
            }
            match due {
                None => changed.await,
                Some(due) => {
                    // The next claim compares in whole microseconds, so it must not come a fraction too early.
                    let due = after(due, Duration::from_micros(1));
                    drop(tokio::time::timeout_at(self.shared.clock.instant_at(due), changed).await);
                }
            }
        }
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<(), QueueError> {
        let settled = |settlement: &Settlement| {
            let verdict = match &settlement.verdict {
                Verdict::Retry { at, endpoint } => {
                    Verdict::Retry { at: whole_micros(*at), endpoint: *endpoint }
                }
                verdict => verdict.clone(),
            };
            SettledLease::new(
                settlement.lease.id,
                Arc::clone(&settlement.lease.job),
                settlement.attempts_made(),
                verdict,
                settlement.attempt.clone(),
            )
        };
        self.write(Operation::settle(settlements.iter().map(settled).collect())).await.map(drop)
    }

    async fn depth(&self) -> Result<Depth, QueueError> {
        if self.writer.is_finished() {
            return Err(writer_ended());
        }
        let now = self.shared.now();
        let delayed = self.query(move |reader| reader.delayed(now)).await?;
        let scheduler = self.shared.lock();
        let leased = scheduler.lanes.leased_count();
        let waiting = scheduler.usage.jobs().saturating_sub(leased);
        // Database and scheduler are read at two moments. A job retried in between must not be counted twice.
        let delayed = delayed.min(waiting);
        let ready = waiting.saturating_sub(delayed);
        Ok(Depth { ready, delayed, leased, dead: scheduler.dead })
    }

    async fn tenant_usage(&self, tenants: &[String]) -> Result<Vec<TenantUsage>, QueueError> {
        Ok(self.shared.lock().usage.by_tenant(tenants))
    }

    async fn release(&self, lanes: &[Lane]) -> Result<(), QueueError> {
        self.write(Operation::release(lanes.to_vec())).await.map(drop)
    }

    fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_waiters();
    }

    fn abandoned(&self) -> Vec<Arc<Job>> {
        Vec::new()
    }
}

#[async_trait]
impl DeadLetters for DiskQueue {
    async fn dead_letters(
        &self,
        filter: &DeadFilter,
        after: Option<DeadCursor>,
        limit: usize,
    ) -> Result<DeadPage, QueueError> {
        let filter = filter.clone();
        self.query(move |reader| reader.dead_letters(&filter, after, limit)).await
    }

    async fn dead_letter(&self, id: MessageId) -> Result<Option<FullDeadLetter>, QueueError> {
        self.query(move |reader| reader.dead_letter(id)).await
    }

    async fn count_dead(&self, filter: &DeadFilter) -> Result<u64, QueueError> {
        let filter = filter.clone();
        self.query(move |reader| reader.count_dead(&filter)).await
    }

    async fn replay(&self, filter: &DeadFilter, limit: usize) -> Result<u64, QueueError> {
        self.write(Operation::replay(filter.clone(), limit)).await
    }

    async fn purge(&self, filter: &DeadFilter, limit: usize) -> Result<u64, QueueError> {
        self.write(Operation::purge(filter.clone(), limit)).await
    }
}

#[async_trait]
impl Messages for DiskQueue {
    async fn message(&self, id: MessageId) -> Result<Option<MessageRecord>, QueueError> {
        self.query(move |reader| reader.message(id)).await
    }
}
