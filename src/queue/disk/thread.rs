//! The one thread that writes: it takes what is asked of it in turn, commits all that waits together, and only then
//! tells the scheduler. So what memory holds of a lane is always what the file has.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::oneshot;

use super::store::{Checkpointer, Replayed, Store, StoredShare, is_full};
use super::{Shared, WINDOW};
use crate::common::attempt::Attempt;
use crate::common::job::{Job, Lane};
use crate::common::retry::{Cause, Verdict};
use crate::common::secret_file::SECRET_MODE;
use crate::queue::dead::{DeadFilter, MAX_BATCH};
use crate::queue::lanes::Retry;
use crate::queue::lanes::window::{Key, Waiting};
use crate::queue::usage::Share;
use crate::queue::{LeaseId, QueueError};

/// What is committed together at most: enough to share a sync, few enough to answer soon.
const MOST_TOGETHER: usize = 1_024;

/// Jobs of a released lane that are changed at a time.
const RELEASED_AT_ONCE: usize = 5_000;

/// The log is copied into the file each time that about so much was written to it (1 MiB): little at a time, since a
/// sync of the log may have to wait for what is copied.
const CHECKPOINT_BYTES: usize = 1 << 20;

/// A log of so many pages (32 MiB) begins anew as soon as all but the last (2 MiB) are copied: the writer waits for those.
const MOST_LOG_PAGES: i64 = 8_192;
const LAST_LOG_PAGES: i64 = 512;

/// A commit that takes longer is told when debugging.
const SLOW_COMMIT: Duration = Duration::from_millis(100);

/// About what a job takes in the log beside its body.
const JOB_OVERHEAD: usize = 2_048;

/// Free pages (16 MiB) from which on space is given back, how many at a time, and when: nothing else is to be done.
const FREE_PAGES: u64 = 4_096;
const VACUUM_PAGES: u32 = 512;
const VACUUM_PAUSE: Duration = Duration::from_millis(20);

/// What is set aside so that settling goes on while the disk is full: it is let go of then, and taken again before
/// more jobs are.
const RESERVE_BYTES: u64 = 8 << 20;
const RESERVE_PAUSE: Duration = Duration::from_secs(1);

type Reply<T> = oneshot::Sender<Result<T, QueueError>>;

/// What the thread is asked.
pub(super) enum Ask {
    /// To write something.
    Write(Op),
    /// To read more of a lane.
    Read(Lane),
    /// To bound the database, as a full disk does.
    #[cfg(test)]
    LimitPages(u32),
}

/// What is written.
pub(super) enum Op {
    Push { jobs: Vec<Arc<Job>>, reply: Reply<()> },
    Settle { settled: Vec<Settled>, reply: Reply<()> },
    Release { lanes: Vec<Lane>, reply: Option<Reply<()>> },
    Replay { filter: DeadFilter, limit: usize, reply: Reply<u64> },
    Purge { filter: DeadFilter, limit: usize, reply: Reply<u64> },
    SetAside { id: LeaseId, seq: u64, reason: String },
}

/// A settlement on its way.
pub(super) struct Settled {
    pub(super) id: LeaseId,
    pub(super) job: Arc<Job>,
    pub(super) attempts_made: u32,
    pub(super) verdict: Verdict,
    pub(super) made: Option<Attempt>,
}

/// A settlement that was written.
struct Written {
    id: LeaseId,
    verdict: Verdict,
    retry: Option<Retry>,
    /// What leaves the queue with it.
    gone: Option<Arc<Job>>,
}

/// What the scheduler is told once it is committed.
enum Effect {
    Pushed(Vec<(Arc<Job>, Option<Key>)>),
    Settled(Vec<Written>, i64),
    Released(Vec<Lane>, Timestamp),
    Replayed(Vec<Replayed>, u64),
    Purged(u64),
    SetAside { id: LeaseId, share: Option<StoredShare>, dead: i64 },
    Refused(QueueError),
}

/// Whoever waits for an op.
enum Answer {
    Done(Reply<()>),
    Count(Reply<u64>, Result<u64, QueueError>),
    Nobody,
}

pub(super) struct Writer {
    pub(super) store: Store,
    pub(super) shared: Arc<Shared>,
    pub(super) checkpoints: CheckpointSignal,
    pub(super) reserve: Reserve,
    /// Lanes of which more is to be released.
    releasing: Vec<Lane>,
    written: usize,
    /// Whether there may be space to give back.
    may_vacuum: bool,
}

impl Writer {
    pub(super) fn new(
        store: Store,
        shared: Arc<Shared>,
        checkpoints: CheckpointSignal,
        reserve: Reserve,
    ) -> Self {
        Self { store, shared, checkpoints, reserve, releasing: Vec::new(), written: 0, may_vacuum: true }
    }

    /// Works until nobody is left who could ask.
    pub(super) fn run(mut self, ops: &Receiver<Ask>) {
        while let Some(first) = self.next(ops) {
            let mut writes = Vec::new();
            let mut reads = Vec::new();
            let mut next = Some(first);
            while let Some(op) = next {
                match op {
                    Ask::Write(op) => writes.push(op),
                    Ask::Read(lane) => reads.push(lane),
                    #[cfg(test)]
                    Ask::LimitPages(pages) => self.store.limit_pages(pages),
                }
                next = if writes.len() < MOST_TOGETHER { ops.try_recv().ok() } else { None };
            }
            if !writes.is_empty() {
                self.write(writes);
            }
            // After the scheduler knows what was written, so that both see the same lane.
            for lane in reads {
                self.read(&lane);
            }
            self.checkpoint();
        }
    }

    /// Waits for the next op, and gives space back while there is none.
    fn next(&mut self, ops: &Receiver<Ask>) -> Option<Ask> {
        if !self.releasing.is_empty() {
            let lanes = std::mem::take(&mut self.releasing);
            return Some(Ask::Write(Op::Release { lanes, reply: None }));
        }
        while self.may_vacuum {
            match ops.recv_timeout(VACUUM_PAUSE) {
                Ok(op) => return Some(op),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => self.may_vacuum = self.vacuum(),
            }
        }
        ops.recv().ok()
    }

    /// Gives some space back. Says whether there is more.
    fn vacuum(&mut self) -> bool {
        let step = |store: &Store| -> rusqlite::Result<bool> {
            if store.free_pages()? < FREE_PAGES {
                return Ok(false);
            }
            store.vacuum(VACUUM_PAGES)?;
            Ok(true)
        };
        let more = step(&self.store).unwrap_or_else(|error| {
            tracing::warn!(%error, "give space of the queue back");
            false
        });
        if more {
            self.written = self.written.saturating_add(CHECKPOINT_BYTES / 4);
            self.checkpoint();
        }
        more
    }

    fn write(&mut self, ops: Vec<Op>) {
        let (ops, refused): (Vec<_>, Vec<_>) = match self.reserve.is_there() {
            true => (ops, Vec::new()),
            false => ops.into_iter().partition(|op| !matches!(op, Op::Push { .. } | Op::Replay { .. })),
        };
        for op in refused {
            self.refuse(op, "the disk is full".into());
        }
        match self.try_write(&ops) {
            Ok(written) => self.tell(ops, written),
            // One of them may be at fault, or a smaller write may fit.
            Err(_) if ops.len() > 1 => ops.into_iter().for_each(|op| self.write_alone(op)),
            Err(error) => ops.into_iter().for_each(|op| self.failed(op, &error)),
        }
    }

    fn write_alone(&mut self, op: Op) {
        // The room that the one before it let go of isn't for more jobs.
        if matches!(op, Op::Push { .. } | Op::Replay { .. }) && !self.reserve.is_there() {
            return self.refuse(op, "the disk is full".into());
        }
        let ops = [op];
        match self.try_write(&ops) {
            Ok(written) => self.tell(ops, written),
            Err(error) => ops.into_iter().for_each(|op| self.failed(op, &error)),
        }
    }

    fn failed(&mut self, op: Op, error: &rusqlite::Error) {
        if is_full(error) {
            self.reserve.let_go();
            // What the log holds already can be written over once it is in the file.
            if let Err(error) = self.store.restart_log() {
                tracing::debug!(%error, "restart the log");
            }
        }
        self.refuse(op, error.to_string());
    }

    fn refuse(&self, op: Op, reason: String) {
        let error = || QueueError::Unavailable("the queue can't be written", reason.clone().into());
        match op {
            Op::Push { jobs, reply } => {
                let mut state = self.shared.lock();
                for job in &jobs {
                    state.usage.remove(Share::of(job));
                }
                drop(state);
                drop(reply.send(Err(error())));
            }
            Op::Settle { reply, .. } | Op::Release { reply: Some(reply), .. } => {
                drop(reply.send(Err(error())));
            }
            Op::Replay { reply, .. } | Op::Purge { reply, .. } => drop(reply.send(Err(error()))),
            Op::Release { reply: None, .. } => {
                tracing::error!(error = %error(), reason, "release the rest of a lane");
            }
            // Its lease runs out, and it is found again.
            Op::SetAside { seq, .. } => tracing::error!(reason, seq, "set a damaged job aside"),
        }
    }

    /// Writes all of `ops` in one transaction.
    fn try_write(&mut self, ops: &[Op]) -> rusqlite::Result<Vec<Effect>> {
        let releasing = self.releasing.len();
        let must_last = |op: &Op| matches!(op, Op::Push { .. } | Op::Replay { .. } | Op::Purge { .. });
        self.store.begin(ops.iter().any(must_last))?;
        let now = self.shared.now();
        let written: rusqlite::Result<Vec<_>> = ops.iter().map(|op| self.write_op(op, now)).collect();
        let began = Instant::now();
        let committed = written.and_then(|effects| self.store.commit().map(|()| effects));
        if began.elapsed() > SLOW_COMMIT {
            tracing::debug!(took = ?began.elapsed(), ops = ops.len(), "a slow commit of the queue");
        }
        if committed.is_err() {
            self.store.roll_back();
            self.releasing.truncate(releasing);
        }
        committed
    }

    fn write_op(&mut self, op: &Op, now: Timestamp) -> rusqlite::Result<Effect> {
        match op {
            Op::Push { jobs, .. } => {
                let mut pushed = Vec::with_capacity(jobs.len());
                for job in jobs {
                    pushed.push((Arc::clone(job), self.store.push(job, now)?));
                    self.wrote(job.body.len());
                }
                Ok(Effect::Pushed(pushed))
            }
            Op::Settle { settled, .. } => self.settle(settled, now),
            Op::Release { lanes, .. } => {
                for lane in lanes {
                    if self.store.release(lane, now, RELEASED_AT_ONCE)? {
                        self.releasing.push(lane.clone());
                    }
                }
                Ok(Effect::Released(lanes.clone(), now))
            }
            Op::Replay { filter, limit, .. } => {
                let found = self.store.matching(filter, (*limit).min(MAX_BATCH))?;
                let bytes = found.iter().fold(0_usize, |sum, (_, bytes)| sum.saturating_add(*bytes));
                if let Err(error) = self.shared.lock().usage.check(found.len(), bytes) {
                    return Ok(Effect::Refused(error));
                }
                let count = u64::try_from(found.len()).unwrap_or(u64::MAX);
                let mut replayed = Vec::with_capacity(found.len());
                for (seq, _) in found {
                    replayed.extend(self.store.replay(seq, now)?);
                }
                Ok(Effect::Replayed(replayed, count))
            }
            Op::Purge { filter, limit, .. } => {
                let found = self.store.matching(filter, (*limit).min(MAX_BATCH))?;
                found.iter().try_for_each(|(seq, _)| self.store.purge(*seq))?;
                self.may_vacuum = true;
                Ok(Effect::Purged(u64::try_from(found.len()).unwrap_or(u64::MAX)))
            }
            Op::SetAside { id, seq, reason } => {
                let share = self.store.share_of(*seq)?;
                let (dead, _) = self.store.bury(*seq, &Cause::Damaged(reason.clone()), 0, None, now)?;
                Ok(Effect::SetAside { id: *id, share, dead })
            }
        }
    }

    fn settle(&mut self, settled: &[Settled], now: Timestamp) -> rusqlite::Result<Effect> {
        // A lease that ran out changes nothing: its job has its turn again.
        let live: Vec<(&Settled, u64, Option<Retry>)> = {
            let state = self.shared.lock();
            let stand = |settled| {
                let Settled { id, verdict, .. }: &Settled = settled;
                let (_, seq) = state.lanes.key_of(*id)?;
                Some((settled, seq, state.lanes.retry_of(*id, verdict)))
            };
            settled.iter().filter_map(stand).collect()
        };
        let mut dead = 0_i64;
        let mut written = Vec::with_capacity(live.len());
        for (settled, seq, retry) in live {
            let made = settled.made.as_ref();
            let is_gone = match &settled.verdict {
                Verdict::Retry { .. } => {
                    retry.iter().try_for_each(|retry| self.store.retry(retry, made))?;
                    false
                }
                Verdict::Done => self.store.deliver(seq, &settled.job, made)?,
                Verdict::Dropped => self.store.remove(seq)?,
                Verdict::Dead { cause } => {
                    let (more, is_gone) = self.store.bury(seq, cause, settled.attempts_made, made, now)?;
                    dead = dead.saturating_add(more);
                    is_gone
                }
            };
            self.wrote(0);
            written.push(Written {
                id: settled.id,
                verdict: settled.verdict.clone(),
                retry,
                gone: is_gone.then(|| Arc::clone(&settled.job)),
            });
        }
        self.may_vacuum = true;
        Ok(Effect::Settled(written, dead))
    }

    /// Tells the scheduler, then those who wait.
    fn tell(&self, ops: impl IntoIterator<Item = Op>, effects: Vec<Effect>) {
        let mut answers = Vec::new();
        {
            let mut state = self.shared.lock();
            let now = self.shared.now();
            for (op, effect) in ops.into_iter().zip(effects) {
                let count = state.follow(effect, now, &self.shared);
                answers.push(match op {
                    Op::Push { reply, .. } | Op::Settle { reply, .. } => Answer::Done(reply),
                    Op::Release { reply, .. } => reply.map_or(Answer::Nobody, Answer::Done),
                    Op::Replay { reply, .. } | Op::Purge { reply, .. } => Answer::Count(reply, count),
                    Op::SetAside { .. } => Answer::Nobody,
                });
            }
        }
        self.shared.changed.notify_waiters();
        for answer in answers {
            match answer {
                Answer::Done(reply) => drop(reply.send(Ok(()))),
                Answer::Count(reply, count) => drop(reply.send(count)),
                Answer::Nobody => {}
            }
        }
    }

    /// Reads where the next jobs of a lane stand.
    fn read(&self, lane: &Lane) {
        let horizon = self.shared.lock().lanes.horizon(lane);
        let read = horizon.map_or(Ok(Vec::new()), |from| self.store.window(lane, from, WINDOW));
        let now = self.shared.now();
        {
            let mut state = self.shared.lock();
            match read {
                Ok(rows) => {
                    let is_all = rows.len() < WINDOW;
                    let rows = rows.into_iter().map(|(key, waiting)| (key, unread(waiting))).collect();
                    state.lanes.fill(lane, horizon, rows, is_all, now);
                }
                Err(error) => {
                    tracing::error!(%error, "read the queue");
                    state.lanes.read_failed(lane, now);
                }
            }
        }
        self.shared.changed.notify_waiters();
    }

    fn wrote(&mut self, bytes: usize) {
        self.written = self.written.saturating_add(bytes).saturating_add(JOB_OVERHEAD);
    }

    /// Has the log copied into the file when there is enough of it.
    fn checkpoint(&mut self) {
        if self.checkpoints.is_log_long.swap(false, Ordering::Relaxed) {
            let began = Instant::now();
            if let Err(error) = self.store.restart_log() {
                tracing::warn!(%error, "restart the log of the queue");
            }
            tracing::debug!(took = ?began.elapsed(), "the log of the queue begins anew");
        } else if self.written >= CHECKPOINT_BYTES {
            self.written = 0;
            self.checkpoints.ring();
        }
    }
}

fn unread(waiting: Waiting<()>) -> Waiting<super::Held> {
    let Waiting { failures, first_attempt_at, held_until, job: () } = waiting;
    Waiting { job: None, failures, first_attempt_at, held_until }
}

impl super::State {
    /// Follows what was committed; gives how many dead letters it was about, or what wasn't done.
    fn follow(&mut self, effect: Effect, now: Timestamp, shared: &Shared) -> Result<u64, QueueError> {
        match effect {
            Effect::Pushed(jobs) => {
                for (job, key) in jobs {
                    match key {
                        Some(key) => {
                            let held = shared.hold(&job);
                            self.lanes.push(&job.lane, job.ordered, key, held, now);
                        }
                        None => self.usage.remove(Share::of(&job)),
                    }
                }
            }
            Effect::Settled(settled, dead) => {
                for Written { id, verdict, retry, gone } in settled {
                    // Where the lease ran out since it was written, its job is found gone on its next turn.
                    self.lanes.settle(id, &verdict, retry, None, now);
                    if let Some(job) = gone {
                        self.usage.remove(Share::of(&job));
                    }
                }
                self.dead = self.dead.saturating_add_signed(dead);
            }
            // As of the time that was written: a row due then stands where memory expects it.
            Effect::Released(lanes, at) => self.lanes.release(&lanes, at),
            Effect::Replayed(jobs, count) => {
                self.dead = self.dead.saturating_sub(count);
                for Replayed { lane, ordered, key, tenant, bytes } in jobs {
                    self.usage.add(Share { tenant: tenant.as_ref(), bytes });
                    self.lanes.push(&lane, ordered, key, None, now);
                }
                return Ok(count);
            }
            Effect::Purged(count) => {
                self.dead = self.dead.saturating_sub(count);
                return Ok(count);
            }
            Effect::SetAside { id, share, dead } => {
                self.lanes.settle(id, &Verdict::Dropped, None, None, now);
                if let Some(StoredShare { tenant, bytes }) = share {
                    self.usage.remove(Share { tenant: tenant.as_ref(), bytes });
                }
                self.dead = self.dead.saturating_add_signed(dead);
            }
            Effect::Refused(error) => return Err(error),
        }
        Ok(0)
    }
}

/// Space that is set aside.
pub(super) struct Reserve {
    path: PathBuf,
    is_there: bool,
    tried_at: Instant,
}

impl Reserve {
    /// Sets it aside. Where there is no room for it none is taken for jobs either, until there is.
    pub(super) fn take(path: &Path) -> io::Result<Self> {
        let mut reserve = Self { path: path.to_owned(), is_there: true, tried_at: Instant::now() };
        match write_reserve(path) {
            Err(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
                reserve.let_go();
            }
            taken => taken?,
        }
        Ok(reserve)
    }

    /// Whether it is there. Where it was let go of, it is tried, now and then, to take it again.
    fn is_there(&mut self) -> bool {
        if !self.is_there && self.tried_at.elapsed() >= RESERVE_PAUSE {
            self.tried_at = Instant::now();
            match write_reserve(&self.path) {
                Ok(()) => {
                    tracing::info!("the disk has room again; events are taken");
                    self.is_there = true;
                }
                Err(error) => {
                    tracing::debug!(%error, "no room yet");
                    self.empty();
                }
            }
        }
        self.is_there
    }

    fn let_go(&mut self) {
        if std::mem::replace(&mut self.is_there, false) {
            tracing::error!(path = %self.path.display(), "the disk is full: no events are taken until there is room");
            self.tried_at = Instant::now();
            self.empty();
        }
    }

    fn empty(&self) {
        if let Err(error) = File::create(&self.path) {
            tracing::warn!(%error, "empty the reserve");
        }
    }
}

/// Zeros that are written, not a hole: a hole takes no room.
fn write_reserve(path: &Path) -> io::Result<()> {
    if path.metadata().is_ok_and(|found| found.len() == RESERVE_BYTES) {
        return Ok(());
    }
    let mut options = File::options();
    let mut file = options.create(true).truncate(true).write(true).mode(SECRET_MODE).open(path)?;
    io::copy(&mut io::repeat(0).take(RESERVE_BYTES), &mut file)?;
    file.sync_all()
}

/// Wakes the thread that copies the log, and hears from it.
pub(super) struct CheckpointSignal {
    wake: SyncSender<()>,
    is_log_long: Arc<AtomicBool>,
}

impl CheckpointSignal {
    /// Starts that thread.
    pub(super) fn start(checkpointer: Checkpointer) -> io::Result<Self> {
        let (wake, woken) = std::sync::mpsc::sync_channel(1);
        let is_log_long = Arc::new(AtomicBool::new(false));
        let says_long = Arc::clone(&is_log_long);
        let copy = move || {
            while woken.recv().is_ok() {
                match checkpointer.run() {
                    Ok((pages, copied)) => {
                        let is_almost_copied = pages.saturating_sub(copied) <= LAST_LOG_PAGES;
                        says_long.store(pages > MOST_LOG_PAGES && is_almost_copied, Ordering::Relaxed);
                    }
                    Err(error) => tracing::warn!(%error, "copy the log of the queue into its file"),
                }
            }
        };
        std::thread::Builder::new().name("queue-log".to_owned()).spawn(copy)?;
        Ok(Self { wake, is_log_long })
    }

    fn ring(&self) {
        match self.wake.try_send(()) {
            // It is at it, or will be.
            Ok(()) | Err(TrySendError::Full(())) => {}
            Err(TrySendError::Disconnected(())) => tracing::warn!("nobody copies the log of the queue"),
        }
    }
}
