//! The writer thread: it alone changes the database and, after each commit, the scheduler.
//!
//! It commits all operations that wait together, so they share one sync. The scheduler learns of a change only once
//! it is committed.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::checkpoint::CheckpointThread;
use super::operation::{Operation, Reply};
use super::reserve::Reserve;
use super::scheduler::{MaybeCached, SharedScheduler, WINDOW};
use super::schema::is_full;
use super::store::Store;
use crate::common::job::Lane;
use crate::queue::QueueError;
use crate::queue::lanes::window::WaitingJob;

/// Maximum number of operations in one commit: enough to share a sync, few enough to answer soon.
const MAX_BATCH_OPERATIONS: usize = 1_024;

/// Bytes written to the log between checkpoints (1 MiB). Small checkpoints keep short what a sync of the log may have
/// to wait for.
const CHECKPOINT_BYTES: usize = 1 << 20;

/// A commit that takes longer than this is logged at debug level.
const SLOW_COMMIT: Duration = Duration::from_millis(100);

/// Number of unused pages (16 MiB) above which the file is shrunk.
const MAX_FREE_PAGES: u64 = 4_096;

/// Pages (2 MiB) given back per step.
const VACUUM_PAGES: u32 = 512;

/// Idle time before each step that shrinks the file.
const VACUUM_PAUSE: Duration = Duration::from_millis(20);

/// Reason given for refusing jobs without trying to write them.
const DISK_FULL: &str = "the disk is full";

/// A request to the writer thread.
pub(super) enum Request {
    /// Writes an operation, and answers if there is a channel for the answer.
    Write(Operation, Option<Reply>),
    /// Loads the next positions of a lane into the scheduler.
    LoadLane(Lane),
    /// Limits the size of the database, to imitate a full disk.
    #[cfg(test)]
    LimitPages(u32),
}

/// An operation with the channel for its answer.
type Pending = (Operation, Option<Reply>);

pub(super) struct Writer {
    store: Store,
    shared: Arc<SharedScheduler>,
    checkpoints: CheckpointThread,
    reserve: Reserve,
    /// Lanes with further jobs to release.
    releasing: Vec<Lane>,
    /// Bytes written to the log since the last checkpoint, approximately.
    written: usize,
    /// Whether the file may have unused pages to give back.
    may_vacuum: bool,
}

impl Writer {
    pub(super) fn new(
        store: Store,
        shared: Arc<SharedScheduler>,
        checkpoints: CheckpointThread,
        reserve: Reserve,
    ) -> Self {
        Self { store, shared, checkpoints, reserve, releasing: Vec::new(), written: 0, may_vacuum: true }
    }

    /// Serves requests until every sender is dropped.
    pub(super) fn run(mut self, requests: &Receiver<Request>) {
        while let Some(first) = self.next(requests) {
            let mut operations = Vec::new();
            let mut lanes_to_load = Vec::new();
            let mut next = Some(first);
            while let Some(request) = next {
                match request {
                    Request::Write(operation, reply) => operations.push((operation, reply)),
                    Request::LoadLane(lane) => lanes_to_load.push(lane),
                    #[cfg(test)]
                    Request::LimitPages(pages) => self.store.limit_pages(pages),
                }
                next = if operations.len() < MAX_BATCH_OPERATIONS { requests.try_recv().ok() } else { None };
            }
            if !operations.is_empty() {
                self.write(operations);
            }
            // After the write, when scheduler and database agree on each lane.
            for lane in lanes_to_load {
                self.load(&lane);
            }
            self.checkpoint();
        }
    }

    /// Waits for the next request. Shrinks the file while there is none.
    fn next(&mut self, requests: &Receiver<Request>) -> Option<Request> {
        if !self.releasing.is_empty() {
            let lanes = std::mem::take(&mut self.releasing);
            return Some(Request::Write(Operation::release(lanes), None));
        }
        while self.may_vacuum {
            match requests.recv_timeout(VACUUM_PAUSE) {
                Ok(request) => return Some(request),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => self.may_vacuum = self.vacuum(),
            }
        }
        requests.recv().ok()
    }

    /// Gives some unused pages back. Returns whether there are more.
    fn vacuum(&mut self) -> bool {
        let step = |store: &Store| -> rusqlite::Result<bool> {
            if store.free_pages()? < MAX_FREE_PAGES {
                return Ok(false);
            }
            store.vacuum(VACUUM_PAGES)?;
            Ok(true)
        };
        let more = step(&self.store).unwrap_or_else(|error| {
            tracing::warn!(%error, "shrink the queue's database");
            false
        });
        if more {
            self.written = self.written.saturating_add(CHECKPOINT_BYTES / 4);
            self.checkpoint();
        }
        more
    }

    /// Writes operations together, or one by one if that fails.
    fn write(&mut self, mut batch: Vec<Pending>) {
        if !self.reserve.is_filled() {
            let (writable, refused) = batch.into_iter().partition(|(operation, _)| !operation.adds_jobs());
            batch = writable;
            let refused: Vec<Pending> = refused;
            refused.into_iter().for_each(|pending| self.refuse(pending, DISK_FULL));
        }
        match self.try_write(&mut batch) {
            Ok(written_at) => self.apply(batch, written_at),
            // One of them may be at fault, or a smaller transaction may fit on the disk.
            Err(_) if batch.len() > 1 => batch.into_iter().for_each(|pending| self.write_alone(pending)),
            Err(error) => batch.into_iter().for_each(|pending| self.fail(pending, &error)),
        }
    }

    fn write_alone(&mut self, pending: Pending) {
        // If the operation before this one gave up the reserve, the freed space is kept for settlements.
        if pending.0.adds_jobs() && !self.reserve.is_filled() {
            return self.refuse(pending, DISK_FULL);
        }
        let mut batch = vec![pending];
        match self.try_write(&mut batch) {
            Ok(written_at) => self.apply(batch, written_at),
            Err(error) => batch.into_iter().for_each(|pending| self.fail(pending, &error)),
        }
    }

    /// Writes all operations in one transaction. Returns the time that the changes carry.
    fn try_write(&mut self, batch: &mut [Pending]) -> rusqlite::Result<Timestamp> {
        self.store.begin(batch.iter().any(|(operation, _)| operation.is_durable()))?;
        let now = self.shared.now();
        let written = batch.iter_mut().try_fold(0_usize, |sum, (operation, _)| {
            operation.write(&mut self.store, &self.shared, now).map(|bytes| sum.saturating_add(bytes))
        });
        let began = Instant::now();
        let committed = written.and_then(|bytes| self.store.commit().map(|()| bytes));
        if began.elapsed() > SLOW_COMMIT {
            tracing::debug!(took = ?began.elapsed(), operations = batch.len(), "slow commit of the queue");
        }
        match committed {
            Ok(bytes) => {
                self.written = self.written.saturating_add(bytes);
                Ok(now)
            }
            Err(error) => {
                self.store.roll_back();
                Err(error)
            }
        }
    }

    /// Makes committed changes in the scheduler, then wakes claims and answers.
    fn apply(&mut self, batch: Vec<Pending>, written_at: Timestamp) {
        let mut answers = Vec::with_capacity(batch.len());
        {
            let mut scheduler = self.shared.lock();
            let now = self.shared.now();
            for (mut operation, reply) in batch {
                self.may_vacuum |= operation.frees_space();
                if let Operation::Release { unfinished, .. } = &mut operation {
                    self.releasing.append(unfinished);
                }
                let answer = operation.apply(&mut scheduler, &self.shared, written_at, now);
                answers.extend(reply.map(|reply| (reply, answer)));
            }
        }
        self.shared.changed.notify_waiters();
        for (reply, answer) in answers {
            // The caller may have stopped waiting.
            drop(reply.send(answer));
        }
    }

    /// Refuses an operation whose write failed. If the disk is full, makes room for settlements.
    fn fail(&mut self, pending: Pending, error: &rusqlite::Error) {
        if is_full(error) {
            self.reserve.give_up();
            // Space in the log can be reused once its content is in the file.
            if let Err(error) = self.store.restart_log() {
                tracing::debug!(%error, "restart the queue's log");
            }
        }
        self.refuse(pending, &error.to_string());
    }

    fn refuse(&self, (operation, reply): Pending, reason: &str) {
        if reply.is_none() && matches!(operation, Operation::Release { .. }) {
            tracing::error!(reason, "release the rest of a lane");
        }
        operation.refuse(&self.shared, reason);
        if let Some(reply) = reply {
            let error = QueueError::Unavailable("the queue can't be written", reason.into());
            drop(reply.send(Err(error)));
        }
    }

    /// Loads the next positions of a lane into the scheduler.
    fn load(&self, lane: &Lane) {
        let horizon = self.shared.lock().lanes.horizon(lane);
        let read = horizon.map_or(Ok(Vec::new()), |from| self.store.positions(lane, from, WINDOW));
        let now = self.shared.now();
        {
            let mut scheduler = self.shared.lock();
            match read {
                Ok(rows) => {
                    let is_all = rows.len() < WINDOW;
                    let rows = rows.into_iter().map(|(position, waiting)| (position, uncached(waiting)));
                    scheduler.lanes.fill(lane, horizon, rows.collect(), is_all, now);
                }
                Err(error) => {
                    tracing::error!(%error, "read the next jobs of a lane");
                    scheduler.lanes.load_failed(lane, now);
                }
            }
        }
        self.shared.changed.notify_waiters();
    }

    /// Restarts the log if it is long, or asks for a checkpoint if it has grown enough.
    fn checkpoint(&mut self) {
        if self.checkpoints.take_is_log_long() {
            let began = Instant::now();
            if let Err(error) = self.store.restart_log() {
                tracing::warn!(%error, "restart the queue's log");
            }
            tracing::debug!(took = ?began.elapsed(), "restarted the queue's log");
        } else if self.written >= CHECKPOINT_BYTES {
            self.written = 0;
            self.checkpoints.notify();
        }
    }
}

fn uncached(waiting: WaitingJob<()>) -> WaitingJob<MaybeCached> {
    let WaitingJob { failures, first_attempt_at, retry_at, job: () } = waiting;
    WaitingJob { job: None, failures, first_attempt_at, retry_at }
}
