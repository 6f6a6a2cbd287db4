//! The window of one lane: its next jobs, held in memory. The backend has the jobs behind them.

use std::collections::BTreeMap;

use jiff::Timestamp;

/// Position of a job in its lane: the time from which it may be delivered, then its number in the order of
/// publishing. In an ordered lane the time is that of publishing, even when the job is retried.
pub type LanePosition = (Timestamp, u64);

/// A job that waits in its lane.
#[derive(Debug, Clone)]
pub struct WaitingJob<J> {
    /// The job, or what the backend finds it by.
    pub job: J,
    /// Number of attempts that have failed.
    pub failures: u32,
    /// Time of the first attempt.
    pub first_attempt_at: Option<Timestamp>,
    /// Time of the retry in an ordered lane, where the job keeps its position.
    pub retry_at: Option<Timestamp>,
}

impl<J> WaitingJob<J> {
    /// Creates a job that has not been attempted.
    pub fn new(job: J) -> Self {
        Self { job, failures: 0, first_attempt_at: None, retry_at: None }
    }
}

/// The waiting jobs of one lane.
pub(super) struct Window<J> {
    /// Jobs in memory.
    loaded: BTreeMap<LanePosition, WaitingJob<J>>,
    /// Maximum number of jobs in memory.
    capacity: usize,
    /// Number of jobs that only the backend has.
    unloaded: u64,
    /// Position at which those begin: all jobs before it are in memory. `None` if there are none.
    horizon: Option<LanePosition>,
}

impl<J> Window<J> {
    /// Creates the window of an empty lane.
    pub(super) fn new(capacity: usize) -> Self {
        Self { loaded: BTreeMap::new(), capacity, unloaded: 0, horizon: None }
    }

    /// Creates the window of a lane whose `jobs` jobs are all in the backend, the first of them at `first`.
    pub(super) fn unloaded(capacity: usize, jobs: u64, first: LanePosition) -> Self {
        Self { loaded: BTreeMap::new(), capacity, unloaded: jobs, horizon: (jobs > 0).then_some(first) }
    }

    /// Adds a job. Beyond the horizon or the capacity it is only counted, because the backend has it.
    pub(super) fn insert(&mut self, position: LanePosition, waiting: WaitingJob<J>) {
        if self.horizon.is_some_and(|horizon| position >= horizon) {
            self.unloaded = self.unloaded.saturating_add(1);
            return;
        }
        self.loaded.insert(position, waiting);
        if self.loaded.len() > self.capacity
            && let Some((last, _)) = self.loaded.pop_last()
        {
            self.unloaded = self.unloaded.saturating_add(1);
            self.horizon = Some(last);
        }
    }

    /// Removes the first job, if it is in memory.
    pub(super) fn pop_first(&mut self) -> Option<(LanePosition, WaitingJob<J>)> {
        self.loaded.pop_first()
    }

    /// Removes one job, if it is in memory.
    pub(super) fn take(&mut self, position: LanePosition) -> Option<WaitingJob<J>> {
        self.loaded.remove(&position)
    }

    /// Removes the jobs in memory for which `is_gone` holds.
    pub(super) fn remove(&mut self, is_gone: impl Fn(&WaitingJob<J>) -> bool) {
        self.loaded.retain(|_, waiting| !is_gone(waiting));
    }

    /// Returns when the first job may be delivered.
    pub(super) fn first_due(&self) -> Option<Timestamp> {
        match self.loaded.first_key_value() {
            Some(((due, _), waiting)) => Some(waiting.retry_at.map_or(*due, |at| at.max(*due))),
            None => self.horizon.map(|(due, _)| due),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.loaded.is_empty() && self.unloaded == 0
    }

    /// Returns whether the lane has jobs, but none in memory.
    pub(super) fn is_unloaded(&self) -> bool {
        self.loaded.is_empty() && self.unloaded > 0
    }

    /// Returns whether more jobs should be loaded now, before the last ones in memory are leased.
    pub(super) fn runs_low(&self) -> bool {
        self.unloaded > 0 && self.loaded.len() <= self.capacity / 4
    }

    /// Returns the position from which to load.
    pub(super) fn horizon(&self) -> Option<LanePosition> {
        self.horizon
    }

    /// Takes in jobs that were loaded from the horizon on, in order. `is_all` tells that the lane has no further
    /// jobs, and `is_leased` whether a job is leased.
    pub(super) fn fill(
        &mut self,
        jobs: Vec<(LanePosition, WaitingJob<J>)>,
        is_all: bool,
        is_leased: impl Fn(LanePosition) -> bool,
    ) {
        let last = jobs.last().map(|(position, _)| *position);
        for (position, waiting) in jobs {
            if !is_leased(position) && !self.loaded.keys().any(|loaded| loaded.1 == position.1) {
                self.loaded.insert(position, waiting);
                self.unloaded = self.unloaded.saturating_sub(1);
            }
        }
        if is_all || self.unloaded == 0 {
            (self.unloaded, self.horizon) = (0, None);
        } else if let Some((due, seq)) = last {
            self.horizon = Some((due, seq.saturating_add(1)));
        }
    }

    /// Makes every job due by `now`. The backend has made the same change to the jobs that are not in memory.
    pub(super) fn release(&mut self, now: Timestamp) {
        for waiting in self.loaded.values_mut() {
            waiting.retry_at = None;
        }
        for ((_, seq), waiting) in self.loaded.split_off(&(now, u64::MAX)) {
            self.loaded.insert((now, seq), waiting);
        }
        if self.horizon.is_some_and(|horizon| horizon > (now, 0)) {
            // Some jobs beyond the horizon may now precede some in memory, so all are loaded again.
            let first = self.loaded.first_key_value().map_or((now, 0), |(first, _)| *first);
            self.horizon = Some(first.min((now, 0)));
            let loaded = u64::try_from(std::mem::take(&mut self.loaded).len()).unwrap_or(u64::MAX);
            self.unloaded = self.unloaded.saturating_add(loaded);
        }
    }

    /// Returns the jobs in memory.
    pub(super) fn loaded(&self) -> &BTreeMap<LanePosition, WaitingJob<J>> {
        &self.loaded
    }

    /// Returns the number of jobs in memory that are due and that wait for a retry. The first job of an ordered lane
    /// counts as due even if it waits for a retry.
    pub(super) fn ready_and_delayed(&self, now: Timestamp) -> (usize, usize) {
        let delayed = self.loaded.range((now, u64::MAX)..).count();
        (self.loaded.len().saturating_sub(delayed), delayed)
    }
}
