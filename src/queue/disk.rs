//! The queue on disk: durable, in this process alone.
//!
//! A push is answered when its jobs are written and synced; all pushes that wait share one sync. Settlements ride along,
//! and where there are none to ride with they are written without a sync of their own: they survive the end of the
//! process, and a loss of power delivers some jobs twice. `thread` is the one that writes, `store` the database.
//!
//! Memory holds a window of each lane ([`super::lanes`]), and bodies of new jobs up to a budget; what is beyond that is
//! read when its turn comes.

#[cfg(test)]
mod conforms;
mod rows;
mod store;
#[cfg(test)]
mod tests;
mod thread;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::{Notify, oneshot};

pub use self::store::DiskError;
use self::store::{Checkpointer, Content, Reader, Store};
use self::thread::{Ask, CheckpointSignal, Op, Reserve, Settled, Writer};
use super::dead::{DeadCursor, DeadFilter, DeadLetters, DeadPage, FullDeadLetter};
use super::lanes::{Lanes, Picked};
use super::message::{MessageRecord, Messages};
use super::usage::{Share, Usage};
use super::{Depth, Lease, LeaseId, Queue, QueueConfig, QueueError, Settlement, TenantUsage};
use crate::common::clock::Clock;
use crate::common::id::MessageId;
use crate::common::job::{Job, Lane};
use crate::common::retry::Verdict;

/// Jobs of one lane of which memory knows where they stand.
const WINDOW: usize = 64;

/// Bytes of bodies that stay in memory from push to attempt (64 MiB); beyond that they are read again.
const MOST_HELD: usize = 64 << 20;

/// See the module's page.
pub struct DiskQueue {
    shared: Arc<Shared>,
    ops: mpsc::Sender<Ask>,
    writer: JoinHandle<()>,
    /// Reads for claims.
    bodies: Arc<Mutex<Reader>>,
    /// Reads for those who ask, which may take a while.
    reader: Arc<Mutex<Reader>>,
}

struct Shared {
    state: Mutex<State>,
    /// Rung after every change that a waiting claim may care for.
    changed: Notify,
    /// Bytes of bodies in memory.
    held: Arc<AtomicUsize>,
    clock: Clock,
}

struct State {
    lanes: Lanes<Held>,
    usage: Usage,
    dead: u64,
    closed: bool,
}

/// A job that waits, where it is in memory.
type Held = Option<Arc<HeldJob>>;

struct HeldJob {
    job: Arc<Job>,
    held: Arc<AtomicUsize>,
}

impl Drop for HeldJob {
    fn drop(&mut self) {
        self.held.fetch_sub(self.job.body.len(), Ordering::Relaxed);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In whole microseconds, as times are stored.
    fn now(&self) -> Timestamp {
        whole_micros(self.clock.now())
    }

    /// Keeps a job in memory while there is room.
    fn hold(&self, job: &Arc<Job>) -> Held {
        let bytes = job.body.len();
        let held = self.held.fetch_add(bytes, Ordering::Relaxed);
        // Whether it stays or not, dropping it gives the bytes back.
        let job = HeldJob { job: Arc::clone(job), held: Arc::clone(&self.held) };
        (held.saturating_add(bytes) <= MOST_HELD).then(|| Arc::new(job))
    }
}

fn whole_micros(time: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time)
}

impl DiskQueue {
    /// Opens the queue in the file `path`, or makes it, and takes up what is in it. The caller sees to it that no other
    /// process uses it.
    ///
    /// # Errors
    /// The file can't be read or written, or isn't a queue that this version knows.
    pub fn open(path: &Path, config: QueueConfig, clock: Clock) -> Result<Self, DiskError> {
        let failed = |source| DiskError::Open { path: path.to_owned(), source };
        let io_failed = |source| DiskError::Io { path: path.to_owned(), source };
        let store = Store::open(path, config.history, whole_micros(clock.now()))?;
        let mut state = State {
            usage: Usage::new(&config),
            dead: store.dead_count().map_err(failed)?,
            lanes: Lanes::new(config, WINDOW),
            closed: false,
        };
        let now = whole_micros(clock.now());
        for stored in store.stored_lanes().map_err(failed)? {
            let jobs = usize::try_from(stored.jobs).unwrap_or(usize::MAX);
            let bytes = usize::try_from(stored.bytes).unwrap_or(usize::MAX);
            state.usage.add_many(Share { tenant: stored.tenant.as_ref(), bytes }, jobs);
            state.lanes.add_unread(&stored.lane, stored.jobs, stored.first, stored.ordered, now);
        }
        let waiting = state.usage.jobs();
        if waiting > 0 {
            tracing::info!(jobs = waiting, "the queue goes on with what it holds");
        }
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Notify::new(),
            held: Arc::default(),
            clock,
        });
        let bodies = Arc::new(Mutex::new(Reader::open(path)?));
        let reader = Arc::new(Mutex::new(Reader::open(path)?));
        let checkpoints = CheckpointSignal::start(Checkpointer::open(path)?).map_err(io_failed)?;
        let reserve = Reserve::take(&path.with_extension("reserve")).map_err(io_failed)?;
        let writer = Writer::new(store, Arc::clone(&shared), checkpoints, reserve);
        let (ops, asked) = mpsc::channel();
        let write = move || writer.run(&asked);
        let writer = std::thread::Builder::new().name("queue-writer".to_owned()).spawn(write);
        Ok(Self { shared, ops, writer: writer.map_err(io_failed)?, bodies, reader })
    }

    /// Has the writer do something, and waits until it has.
    async fn ask<T>(
        &self,
        op: impl FnOnce(oneshot::Sender<Result<T, QueueError>>) -> Op,
    ) -> Result<T, QueueError> {
        let (reply, answer) = oneshot::channel();
        if self.ops.send(Ask::Write(op(reply))).is_err() {
            return Err(writer_ended());
        }
        answer.await.unwrap_or_else(|_| Err(writer_ended()))
    }

    /// Reads beside the writer, on a thread that may block.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Reader) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, QueueError> {
        Self::read_from(&self.reader, read).await
    }

    async fn read_from<T: Send + 'static>(
        reader: &Arc<Mutex<Reader>>,
        read: impl FnOnce(&Reader) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, QueueError> {
        let reader = Arc::clone(reader);
        let read = tokio::task::spawn_blocking(move || {
            read(&reader.lock().unwrap_or_else(PoisonError::into_inner)).map_err(unreadable)
        });
        read.await
            .unwrap_or_else(|error| Err(QueueError::Unavailable("the queue can't be read", error.into())))
    }

    /// Makes leases of what was picked: reads what isn't in memory.
    async fn leases(&self, picked: Vec<Picked<Held>>) -> Result<Vec<Lease>, QueueError> {
        let mut unclaim =
            Unclaim { shared: &self.shared, ids: picked.iter().map(|picked| picked.id).collect() };
        let unread: Vec<u64> =
            picked.iter().filter(|picked| picked.job.is_none()).map(|picked| picked.key.1).collect();
        let mut contents = match unread.is_empty() {
            true => Vec::new(),
            false => {
                let read = move |reader: &Reader| unread.iter().map(|seq| reader.content(*seq)).collect();
                Self::read_from::<Vec<Content>>(&self.bodies, read).await?
            }
        }
        .into_iter();
        unclaim.ids.clear();
        let mut leases = Vec::with_capacity(picked.len());
        for Picked { id, key, job, attempt, first_attempt_at, ordered } in picked {
            let job = match job {
                Some(held) => Arc::clone(&held.job),
                None => match contents.next() {
                    Some(Content::Job(job)) => Arc::new(job),
                    Some(Content::Damaged(reason)) => {
                        self.set_aside(id, key.1, reason);
                        continue;
                    }
                    Some(Content::Missing) | None => {
                        self.shared.lock().lanes.settle(id, &Verdict::Dropped, None, None, self.shared.now());
                        continue;
                    }
                },
            };
            leases.push(Lease { job, attempt, first_attempt_at, ordered, id });
        }
        Ok(leases)
    }

    /// Has a job that can't be read made a dead letter.
    fn set_aside(&self, id: LeaseId, seq: u64, reason: String) {
        tracing::error!(seq, reason, "a job in the queue is damaged; it is set aside among the dead letters");
        // The thread ends with the queue.
        drop(self.ops.send(Ask::Write(Op::SetAside { id, seq, reason })));
    }
}

fn writer_ended() -> QueueError {
    QueueError::Unavailable("the queue's writer has ended", "its panic stands in the log".into())
}

fn unreadable(error: rusqlite::Error) -> QueueError {
    QueueError::Unavailable("the queue can't be read", error.into())
}

/// Gives back what was picked and isn't handed out.
struct Unclaim<'a> {
    shared: &'a Shared,
    ids: Vec<LeaseId>,
}

impl Drop for Unclaim<'_> {
    fn drop(&mut self) {
        if self.ids.is_empty() {
            return;
        }
        let (mut state, now) = (self.shared.lock(), self.shared.now());
        for id in self.ids.drain(..) {
            state.lanes.unclaim(id, now);
        }
        drop(state);
        self.shared.changed.notify_waiters();
    }
}

#[async_trait]
impl Queue for DiskQueue {
    async fn push(&self, jobs: Vec<Job>) -> Result<(), QueueError> {
        let jobs: Vec<Arc<Job>> = jobs.into_iter().map(Arc::new).collect();
        {
            let mut state = self.shared.lock();
            if state.closed {
                return Err(QueueError::Closed);
            }
            state.usage.check_all(&jobs)?;
            jobs.iter().for_each(|job| state.usage.add(Share::of(job)));
        }
        self.ask(|reply| Op::Push { jobs, reply }).await
    }

    async fn claim(&self, max: usize) -> Result<Vec<Lease>, QueueError> {
        loop {
            // Registered before looking, so that a change in between isn't missed.
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let (picked, unread, due) = {
                let mut state = self.shared.lock();
                if state.closed {
                    return Ok(Vec::new());
                }
                let picked = state.lanes.claim(max, self.shared.now());
                (picked, state.lanes.take_unread(), state.lanes.next_due())
            };
            for lane in unread {
                self.ops.send(Ask::Read(lane)).map_err(|_| writer_ended())?;
            }
            if !picked.is_empty() {
                let leases = self.leases(picked).await?;
                if !leases.is_empty() {
                    return Ok(leases);
                }
                continue;
            }
            match due {
                None => changed.await,
                Some(due) => {
                    // Times are compared in whole microseconds.
                    let due = crate::common::clock::after(due, std::time::Duration::from_micros(1));
                    drop(tokio::time::timeout_at(self.shared.clock.instant_at(due), changed).await);
                }
            }
        }
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<(), QueueError> {
        let settled = |settlement: &Settlement| Settled {
            id: settlement.lease.id,
            job: Arc::clone(&settlement.lease.job),
            attempts_made: settlement.attempts_made(),
            verdict: match &settlement.verdict {
                Verdict::Retry { at, endpoint } => {
                    Verdict::Retry { at: whole_micros(*at), endpoint: *endpoint }
                }
                verdict => verdict.clone(),
            },
            made: settlement.attempt.clone(),
        };
        let settled = settlements.iter().map(settled).collect();
        self.ask(|reply| Op::Settle { settled, reply }).await
    }

    async fn depth(&self) -> Result<Depth, QueueError> {
        if self.writer.is_finished() {
            return Err(writer_ended());
        }
        let now = self.shared.now();
        let delayed = self.read(move |reader| reader.delayed(now)).await?;
        let state = self.shared.lock();
        let leased = state.lanes.leased_count();
        // They are read at two moments: a job that was given back in between isn't counted twice.
        let waiting = state.usage.jobs().saturating_sub(leased);
        let delayed = delayed.min(waiting);
        let ready = waiting.saturating_sub(delayed);
        Ok(Depth { ready, delayed, leased, dead: state.dead })
    }

    async fn tenant_usage(&self, tenants: &[String]) -> Result<Vec<TenantUsage>, QueueError> {
        Ok(self.shared.lock().usage.tenant_usage(tenants))
    }

    async fn release(&self, lanes: &[Lane]) -> Result<(), QueueError> {
        let lanes = lanes.to_vec();
        self.ask(|reply| Op::Release { lanes, reply: Some(reply) }).await
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
        self.read(move |reader| reader.dead_letters(&filter, after, limit)).await
    }

    async fn dead_letter(&self, id: MessageId) -> Result<Option<FullDeadLetter>, QueueError> {
        self.read(move |reader| reader.dead_letter(id)).await
    }

    async fn count_dead(&self, filter: &DeadFilter) -> Result<u64, QueueError> {
        let filter = filter.clone();
        self.read(move |reader| reader.count_dead(&filter)).await
    }

    async fn replay(&self, filter: &DeadFilter, limit: usize) -> Result<u64, QueueError> {
        let filter = filter.clone();
        self.ask(|reply| Op::Replay { filter, limit, reply }).await
    }

    async fn purge(&self, filter: &DeadFilter, limit: usize) -> Result<u64, QueueError> {
        let filter = filter.clone();
        self.ask(|reply| Op::Purge { filter, limit, reply }).await
    }
}

#[async_trait]
impl Messages for DiskQueue {
    async fn message(&self, id: MessageId) -> Result<Option<MessageRecord>, QueueError> {
        self.read(move |reader| reader.message(id)).await
    }
}
