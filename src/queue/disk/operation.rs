//! Operations: the changes that the queue sends to the writer thread.
//!
//! The writer calls [`Operation::write`] inside a transaction. Once that is committed, [`Operation::apply`] makes the
//! same change in the scheduler and returns the answer. An operation keeps the results of its `write` for its
//! `apply`. If a transaction fails, `write` may run again.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::oneshot;

use super::scheduler::{DiskScheduler, SharedScheduler};
use super::store::{ReplayedJob, Store, StoredJobSize};
use crate::common::attempt::Attempt;
use crate::common::job::{Job, Lane};
use crate::common::retry::{Cause, Verdict};
use crate::queue::dead::{DeadFilter, MAX_BATCH};
use crate::queue::lanes::ScheduledRetry;
use crate::queue::lanes::window::LanePosition;
use crate::queue::usage::JobSize;
use crate::queue::{LeaseId, QueueError};

/// Jobs of a released lane that one transaction changes.
const RELEASE_BATCH: usize = 5_000;

/// Approximate bytes that a job takes in the log besides its body.
const JOB_OVERHEAD: usize = 2_048;

/// Channel for an operation's answer: the number of dead letters replayed or purged, otherwise 0.
pub(super) type Reply = oneshot::Sender<Result<u64, QueueError>>;

/// A change of the queue.
pub(super) enum Operation {
    Push(Vec<PushedJob>),
    Settle {
        leases: Vec<SettledLease>,
        /// Change in the number of dead letters, once written.
        more_dead: i64,
    },
    Release {
        lanes: Vec<Lane>,
        /// Lanes with further jobs to release, set when the operation is written.
        unfinished: Vec<Lane>,
    },
    Replay {
        filter: DeadFilter,
        limit: usize,
        /// The jobs queued again and the number of letters replayed, once written.
        replayed: Result<(Vec<ReplayedJob>, u64), QueueError>,
    },
    Purge {
        filter: DeadFilter,
        limit: usize,
        /// Number of letters deleted, once written.
        purged: u64,
    },
    /// Makes a leased job that can't be read a dead letter.
    BuryDamaged {
        lease: LeaseId,
        seq: u64,
        reason: String,
        /// Size of the job, once written; `None` if it does not exist.
        size: Option<StoredJobSize>,
        /// Change in the number of dead letters, once written.
        more_dead: i64,
    },
}

/// A job to push.
pub(super) struct PushedJob {
    job: Arc<Job>,
    /// Position in the lane, once written; `None` if the job was queued already.
    position: Option<LanePosition>,
}

/// A lease to settle.
pub(super) struct SettledLease {
    pub(super) id: LeaseId,
    pub(super) job: Arc<Job>,
    pub(super) attempts_made: u32,
    pub(super) verdict: Verdict,
    pub(super) attempt: Option<Attempt>,
    /// State of the lease when it was written; `None` if it had expired or was settled already.
    live: Option<LiveLease>,
}

/// A lease that was out when its settlement was written.
struct LiveLease {
    seq: u64,
    retry: Option<ScheduledRetry>,
    /// Whether the job has left the queue.
    is_removed: bool,
}

impl SettledLease {
    pub(super) fn new(
        id: LeaseId,
        job: Arc<Job>,
        attempts_made: u32,
        verdict: Verdict,
        attempt: Option<Attempt>,
    ) -> Self {
        Self { id, job, attempts_made, verdict, attempt, live: None }
    }
}

impl Operation {
    pub(super) fn push(jobs: Vec<Arc<Job>>) -> Self {
        Self::Push(jobs.into_iter().map(|job| PushedJob { job, position: None }).collect())
    }

    pub(super) fn settle(leases: Vec<SettledLease>) -> Self {
        Self::Settle { leases, more_dead: 0 }
    }

    pub(super) fn release(lanes: Vec<Lane>) -> Self {
        Self::Release { lanes, unfinished: Vec::new() }
    }

    pub(super) fn replay(filter: DeadFilter, limit: usize) -> Self {
        Self::Replay { filter, limit, replayed: Ok((Vec::new(), 0)) }
    }

    pub(super) fn purge(filter: DeadFilter, limit: usize) -> Self {
        Self::Purge { filter, limit, purged: 0 }
    }

    pub(super) fn bury_damaged(lease: LeaseId, seq: u64, reason: String) -> Self {
        Self::BuryDamaged { lease, seq, reason, size: None, more_dead: 0 }
    }

    /// Returns whether the answer promises that the change survives a loss of power.
    pub(super) fn is_durable(&self) -> bool {
        matches!(self, Self::Push(_) | Self::Replay { .. } | Self::Purge { .. })
    }

    /// Returns whether the operation adds jobs. Such operations are refused while the disk is full.
    pub(super) fn adds_jobs(&self) -> bool {
        matches!(self, Self::Push(_) | Self::Replay { .. })
    }

    /// Returns whether the operation may leave free space in the database.
    pub(super) fn frees_space(&self) -> bool {
        matches!(self, Self::Settle { .. } | Self::Purge { .. })
    }

    /// Writes the change to the open transaction. Returns the approximate bytes written to the log.
    pub(super) fn write(
        &mut self,
        store: &mut Store,
        shared: &SharedScheduler,
        now: Timestamp,
    ) -> rusqlite::Result<usize> {
        let mut written = 0_usize;
        match self {
            Self::Push(jobs) => {
                for pushed in jobs {
                    pushed.position = store.push(&pushed.job, now)?;
                    written = written.saturating_add(pushed.job.body.len()).saturating_add(JOB_OVERHEAD);
                }
            }
            Self::Settle { leases, more_dead } => {
                *more_dead = 0;
                look_up(leases, &shared.lock());
                for lease in leases {
                    if lease.live.is_some() {
                        *more_dead = more_dead.saturating_add(write_settled(lease, store, now)?);
                        written = written.saturating_add(JOB_OVERHEAD);
                    }
                }
            }
            Self::Release { lanes, unfinished } => {
                unfinished.clear();
                for lane in lanes {
                    if store.release(lane, now, RELEASE_BATCH)? {
                        unfinished.push(lane.clone());
                    }
                }
            }
            Self::Replay { filter, limit, replayed } => {
                let found = store.matching(filter, (*limit).min(MAX_BATCH))?;
                let bytes = found.iter().fold(0_usize, |sum, (_, bytes)| sum.saturating_add(*bytes));
                if let Err(error) = shared.lock().usage.check(found.len(), bytes) {
                    *replayed = Err(error);
                    return Ok(0);
                }
                let count = u64::try_from(found.len()).unwrap_or(u64::MAX);
                let mut jobs = Vec::with_capacity(found.len());
                for (seq, _) in found {
                    jobs.extend(store.replay(seq, now)?);
                }
                *replayed = Ok((jobs, count));
            }
            Self::Purge { filter, limit, purged } => {
                let found = store.matching(filter, (*limit).min(MAX_BATCH))?;
                found.iter().try_for_each(|(seq, _)| store.purge(*seq))?;
                *purged = u64::try_from(found.len()).unwrap_or(u64::MAX);
            }
            Self::BuryDamaged { seq, reason, size, more_dead, .. } => {
                *size = store.size_of(*seq)?;
                let cause = Cause::Damaged(reason.clone());
                (*more_dead, _) = store.bury(*seq, &cause, 0, None, now)?;
            }
        }
        Ok(written)
    }

    /// Makes the committed change in the scheduler. `written_at` is the time that was passed to [`Operation::write`].
    ///
    /// Returns the answer: the number of dead letters replayed or purged, otherwise 0.
    pub(super) fn apply(
        self,
        scheduler: &mut DiskScheduler,
        shared: &SharedScheduler,
        written_at: Timestamp,
        now: Timestamp,
    ) -> Result<u64, QueueError> {
        match self {
            Self::Push(jobs) => {
                for PushedJob { job, position } in jobs {
                    match position {
                        Some(position) => {
                            let cached = shared.cache(Arc::clone(&job));
                            scheduler.lanes.push(&job.lane, job.ordered, position, cached, now);
                        }
                        None => scheduler.usage.remove(JobSize::of(&job)),
                    }
                }
            }
            Self::Settle { leases, more_dead } => {
                for SettledLease { id, job, verdict, live, .. } in leases {
                    let Some(LiveLease { retry, is_removed, .. }) = live else { continue };
                    // If the lease has expired since it was written, the job's next claim finds it gone.
                    scheduler.lanes.settle(id, &verdict, retry, None, now);
                    if is_removed {
                        scheduler.usage.remove(JobSize::of(&job));
                    }
                }
                scheduler.dead = scheduler.dead.saturating_add_signed(more_dead);
            }
            // With the time that was written, so that memory has the same positions as the database.
            Self::Release { lanes, .. } => scheduler.lanes.release(&lanes, written_at),
            Self::Replay { replayed, .. } => {
                let (jobs, count) = replayed?;
                scheduler.dead = scheduler.dead.saturating_sub(count);
                for ReplayedJob { lane, ordered, position, tenant, bytes } in jobs {
                    scheduler.usage.add(JobSize { tenant: tenant.as_ref(), bytes });
                    scheduler.lanes.push(&lane, ordered, position, None, now);
                }
                return Ok(count);
            }
            Self::Purge { purged, .. } => {
                scheduler.dead = scheduler.dead.saturating_sub(purged);
                return Ok(purged);
            }
            Self::BuryDamaged { lease, size, more_dead, .. } => {
                scheduler.lanes.settle(lease, &Verdict::Dropped, None, None, now);
                if let Some(StoredJobSize { tenant, bytes }) = size {
                    scheduler.usage.remove(JobSize { tenant: tenant.as_ref(), bytes });
                }
                scheduler.dead = scheduler.dead.saturating_add_signed(more_dead);
            }
        }
        Ok(0)
    }

    /// Gives up an operation that can't be written, for that reason.
    pub(super) fn refuse(self, shared: &SharedScheduler, reason: &str) {
        match self {
            Self::Push(jobs) => {
                let mut scheduler = shared.lock();
                for pushed in &jobs {
                    scheduler.usage.remove(JobSize::of(&pushed.job));
                }
            }
            // The lease expires, and the job's next claim finds the damage again.
            Self::BuryDamaged { seq, .. } => {
                tracing::error!(reason, seq, "make a damaged job a dead letter");
            }
            Self::Settle { .. } | Self::Release { .. } | Self::Replay { .. } | Self::Purge { .. } => {}
        }
    }
}

/// Looks up which leases are still out and how their jobs are retried. The others change nothing: their jobs are
/// delivered again.
fn look_up(leases: &mut [SettledLease], scheduler: &DiskScheduler) {
    for lease in leases {
        lease.live = scheduler.lanes.position_of(lease.id).map(|(_, seq)| LiveLease {
            seq,
            retry: scheduler.lanes.retry_of(lease.id, &lease.verdict),
            is_removed: false,
        });
    }
}

/// Writes the settlement of a live lease. Returns the change in the number of dead letters.
fn write_settled(lease: &mut SettledLease, store: &mut Store, now: Timestamp) -> rusqlite::Result<i64> {
    let Some(live) = &mut lease.live else { return Ok(0) };
    let attempt = lease.attempt.as_ref();
    let mut more_dead = 0;
    match &lease.verdict {
        Verdict::Retry { .. } => live.retry.iter().try_for_each(|retry| store.retry(retry, attempt))?,
        Verdict::Done => live.is_removed = store.deliver(live.seq, &lease.job, attempt)?,
        Verdict::Dropped => live.is_removed = store.remove(live.seq)?,
        Verdict::Dead { cause } => {
            (more_dead, live.is_removed) = store.bury(live.seq, cause, lease.attempts_made, attempt, now)?;
        }
    }
    Ok(more_dead)
}
