//! The jobs of one lane that wait: those whose turn is near in memory, the others where the backend keeps them.

use std::collections::BTreeMap;

use jiff::Timestamp;

/// Where a job stands in its lane: by the time from which it may be delivered, then by the order of publishing. In an
/// ordered lane that time is the time of publishing, also when the job is retried.
pub type Key = (Timestamp, u64);

/// A job that waits in its lane.
#[derive(Debug, Clone)]
pub struct Waiting<J> {
    /// The job, or what the backend finds it by.
    pub job: J,
    /// Attempts that have failed.
    pub failures: u32,
    /// When the first was made.
    pub first_attempt_at: Option<Timestamp>,
    /// Ordered: when it is tried again, while it holds its place.
    pub held_until: Option<Timestamp>,
}

impl<J> Waiting<J> {
    /// A job that wasn't tried yet.
    pub fn new(job: J) -> Self {
        Self { job, failures: 0, first_attempt_at: None, held_until: None }
    }
}

/// See the module's page.
pub(super) struct Window<J> {
    near: BTreeMap<Key, Waiting<J>>,
    most: usize,
    /// Jobs that aren't in memory.
    beyond: u64,
    /// Where those begin: all before it are in memory. `None` where none are elsewhere.
    horizon: Option<Key>,
}

impl<J> Window<J> {
    /// An empty window over an empty lane that holds `most` jobs.
    pub(super) fn new(most: usize) -> Self {
        Self { near: BTreeMap::new(), most, beyond: 0, horizon: None }
    }

    /// An empty window over a lane of `jobs` that begin at `first`.
    pub(super) fn unread(most: usize, jobs: u64, first: Key) -> Self {
        Self { near: BTreeMap::new(), most, beyond: jobs, horizon: (jobs > 0).then_some(first) }
    }

    pub(super) fn insert(&mut self, key: Key, waiting: Waiting<J>) {
        if self.horizon.is_some_and(|horizon| key >= horizon) {
            self.beyond = self.beyond.saturating_add(1);
            return;
        }
        self.near.insert(key, waiting);
        if self.near.len() > self.most
            && let Some((last, _)) = self.near.pop_last()
        {
            self.beyond = self.beyond.saturating_add(1);
            self.horizon = Some(last);
        }
    }

    /// Takes the first job, if it is in memory.
    pub(super) fn pop_first(&mut self) -> Option<(Key, Waiting<J>)> {
        self.near.pop_first()
    }

    /// Takes one job, if it is in memory.
    pub(super) fn take(&mut self, key: Key) -> Option<Waiting<J>> {
        self.near.remove(&key)
    }

    /// Lets go of those in memory that `is_gone` tells.
    pub(super) fn remove(&mut self, is_gone: impl Fn(&Waiting<J>) -> bool) {
        self.near.retain(|_, waiting| !is_gone(waiting));
    }

    /// When the first job may be delivered.
    pub(super) fn head_due(&self) -> Option<Timestamp> {
        match self.near.first_key_value() {
            Some(((due, _), waiting)) => Some(waiting.held_until.map_or(*due, |until| until.max(*due))),
            None => self.horizon.map(|(due, _)| due),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.near.is_empty() && self.beyond == 0
    }

    /// Whether the first job isn't in memory.
    pub(super) fn is_unread(&self) -> bool {
        self.near.is_empty() && self.beyond > 0
    }

    /// Whether more should be read before the last that are in memory are gone.
    pub(super) fn runs_low(&self) -> bool {
        self.beyond > 0 && self.near.len() <= self.most / 4
    }

    /// Where to read on.
    pub(super) fn horizon(&self) -> Option<Key> {
        self.horizon
    }

    /// Takes in what was read from the horizon on, in order; `is_leased` tells of those that are out. Where the
    /// lane ends is told by `is_all`.
    pub(super) fn fill(
        &mut self,
        read: Vec<(Key, Waiting<J>)>,
        is_all: bool,
        is_leased: impl Fn(Key) -> bool,
    ) {
        let last = read.last().map(|(key, _)| *key);
        for (key, waiting) in read {
            if !is_leased(key) && !self.near.keys().any(|near| near.1 == key.1) {
                self.near.insert(key, waiting);
                self.beyond = self.beyond.saturating_sub(1);
            }
        }
        if is_all || self.beyond == 0 {
            (self.beyond, self.horizon) = (0, None);
        } else if let Some((due, seq)) = last {
            self.horizon = Some((due, seq.saturating_add(1)));
        }
    }

    /// Makes everything due by `now`; what isn't in memory the backend has changed in the same way.
    pub(super) fn release(&mut self, now: Timestamp) {
        for waiting in self.near.values_mut() {
            waiting.held_until = None;
        }
        for ((_, seq), waiting) in self.near.split_off(&(now, u64::MAX)) {
            self.near.insert((now, seq), waiting);
        }
        if self.horizon.is_some_and(|horizon| horizon > (now, 0)) {
            // Some of those beyond may stand before some in memory now: all are read anew.
            let first = self.near.first_key_value().map_or((now, 0), |(first, _)| *first);
            self.horizon = Some(first.min((now, 0)));
            let near = u64::try_from(std::mem::take(&mut self.near).len()).unwrap_or(u64::MAX);
            self.beyond = self.beyond.saturating_add(near);
        }
    }

    /// Those in memory.
    pub(super) fn near(&self) -> &BTreeMap<Key, Waiting<J>> {
        &self.near
    }

    /// Jobs in memory that may be delivered now, but for a head that is held, and those that wait for a retry.
    pub(super) fn ready_and_delayed(&self, now: Timestamp) -> (usize, usize) {
        let delayed = self.near.range((now, u64::MAX)..).count();
        (self.near.len().saturating_sub(delayed), delayed)
    }
}
