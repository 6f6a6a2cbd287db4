//! What a consumer holds of its partitions: the jobs that it has read and that aren't settled. No clock, no I/O.
//!
//! Each partition is two logs, of `events` and of `events.retry`, under the same number; who has the one has the other.
//! Of each a window is held in memory; where it is full, reading stops. So that an endpoint that stands still doesn't fill
//! it, the jobs of its lane beyond the first few are put aside to the end of `events.retry` ([`Held::crowding`]), and read
//! again from there.
//!
//! A lane that keeps order is put aside in order, and what comes for it from then on goes there as well, until all of it
//! was read again. What was put aside by the consumer that had the partition before isn't known until `events.retry` is
//! read to where it ended then, so until then all that keeps order goes there.

mod window;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

pub(super) use self::window::Window;
use super::offsets::{Offsets, Progress};
use super::record::Past;
use crate::common::attempt::{Attempt, keep};
use crate::common::clock::after;
use crate::common::id::MessageId;
use crate::common::job::{Job, Lane};
use crate::common::retry::Verdict;
use crate::queue::lanes::window::{Key, Waiting};
use crate::queue::lanes::{Lanes, Picked, Retry};
use crate::queue::{Depth, Lease, QueueConfig, Settlement};

/// Retries that are further away than this wait in `events.retry`, if no order is kept.
const LONG: Duration = Duration::from_secs(60);

/// The two logs of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Log {
    Events,
    Retry,
}

/// Where a job was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) log: Log,
    pub(super) partition: i32,
    pub(super) offset: i64,
    /// Which time that this consumer reads the log.
    pub(super) term: u64,
}

/// A job that is held.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) job: Arc<Job>,
    pub(super) place: Place,
    /// The latest, in order.
    pub(super) attempts: Vec<Attempt>,
    read_at: Timestamp,
}

/// A job on its way to the end of `events.retry`.
#[derive(Debug)]
pub(super) struct Aside {
    pub(super) entry: Arc<Entry>,
    pub(super) past: Past,
}

/// What is to be written before a lease is let go of.
#[derive(Debug)]
pub(super) enum Rest {
    /// It is tried again, from `events.retry`.
    Later(Aside),
    /// It is given up.
    Dead(Arc<Entry>, Past),
}

/// See the module's page.
pub(super) struct Held {
    lanes: Lanes<Arc<Entry>>,
    partitions: BTreeMap<i32, Partition>,
    /// Where the jobs are, to know those that were published twice.
    ids: HashMap<MessageId, Place>,
    window: Window,
    is_ordered: bool,
    seq: u64,
    terms: u64,
    /// Since progress was last asked for.
    settled: usize,
}

struct Partition {
    events: Reading,
    retry: Reading,
    /// Where `events.retry` ended when the partition came.
    retry_end: i64,
    /// Jobs of lanes that keep order that were put aside and not read again yet.
    aside: HashMap<Lane, usize>,
    /// It is about to go: nothing of it is begun any more.
    is_leaving: bool,
}

/// How far a log was read.
struct Reading {
    /// Which time that this consumer reads it.
    term: u64,
    offsets: Offsets,
    /// Jobs that are being written elsewhere.
    writing: usize,
    /// Bytes of the bodies of those that are held.
    bytes: usize,
    committed: Option<Progress>,
    is_paused: bool,
}

impl Reading {
    fn new(term: u64, from: Option<&Progress>) -> Self {
        let offsets = Offsets::resume(from);
        Self { term, offsets, writing: 0, bytes: 0, committed: None, is_paused: false }
    }
}

impl Partition {
    fn reading_mut(&mut self, log: Log) -> &mut Reading {
        match log {
            Log::Events => &mut self.events,
            Log::Retry => &mut self.retry,
        }
    }

    /// Whether all is known that was put aside before the partition came.
    fn knows_what_is_aside(&self) -> bool {
        // Where nobody could say where it begins, nobody could say where it ends either.
        self.retry.offsets.next().is_none_or(|next| next >= self.retry_end)
    }
}

impl Held {
    pub(super) fn new(config: QueueConfig, window: Window) -> Self {
        Self {
            is_ordered: config.ordered,
            lanes: Lanes::new(config, usize::MAX),
            partitions: BTreeMap::new(),
            ids: HashMap::new(),
            window,
            seq: 0,
            terms: 0,
            settled: 0,
        }
    }

    /// A partition came, to be read on from `events` and `retry`, as far as that is known; the latter ends at
    /// `retry_end` now.
    pub(super) fn assign(
        &mut self,
        partition: i32,
        events: Option<&Progress>,
        retry: Option<&Progress>,
        retry_end: i64,
    ) {
        let [events, retry] = [events, retry].map(|from| Reading::new(self.next_term(), from));
        let held = Partition { events, retry, retry_end, aside: HashMap::new(), is_leaving: false };
        self.partitions.insert(partition, held);
    }

    fn next_term(&mut self) -> u64 {
        self.terms = self.terms.saturating_add(1);
        self.terms
    }

    fn reading_of(&mut self, place: Place) -> Option<&mut Reading> {
        let reading = self.partitions.get_mut(&place.partition)?.reading_mut(place.log);
        (reading.term == place.term).then_some(reading)
    }

    /// The partitions that this consumer has.
    pub(super) fn partitions(&self) -> impl Iterator<Item = i32> + '_ {
        self.partitions.keys().copied()
    }

    /// A record was read: where it stands, if something is to be done about it.
    fn begin(&mut self, log: Log, partition: i32, offset: i64) -> Option<Place> {
        let term = self.next_term();
        let held = self.partitions.get_mut(&partition).filter(|held| !held.is_leaving)?;
        let reading = held.reading_mut(log);
        if reading.offsets.next().is_some_and(|next| offset < next) {
            tracing::warn!(
                partition,
                offset,
                ?log,
                "the log begins anew: its topic was made again, or has lost records"
            );
            let from = Progress { offset, metadata: String::new() };
            *reading = Reading { is_paused: reading.is_paused, ..Reading::new(term, Some(&from)) };
        }
        let place = Place { log, partition, offset, term: reading.term };
        reading.offsets.read(offset).then_some(place)
    }

    /// A record was read that holds no job: it is held until [`Self::written`].
    pub(super) fn read_damaged(&mut self, log: Log, partition: i32, offset: i64) -> Option<Place> {
        let place = self.begin(log, partition, offset)?;
        let reading = self.reading_of(place)?;
        reading.writing = reading.writing.saturating_add(1);
        Some(place)
    }

    /// A job was read. Gives it back where it is to be put aside, behind others of its lane.
    pub(super) fn read(
        &mut self,
        (log, partition, offset): (Log, i32, i64),
        job: Job,
        past: Past,
        now: Timestamp,
    ) -> Option<Aside> {
        let place = self.begin(log, partition, offset)?;
        if log == Log::Events && self.ids.contains_key(&job.id) {
            // Published twice: the one that is held is it. A job in events.retry may have been held until just now.
            self.settle_offset(place);
            return None;
        }
        let held = self.partitions.get_mut(&partition)?;
        let keeps_order = self.is_ordered || job.ordered;
        let lane = job.lane.clone();
        let reading = held.reading_mut(log);
        reading.bytes = reading.bytes.saturating_add(job.body.len());
        let attempts = past.attempts.clone();
        let entry = Arc::new(Entry { job: Arc::new(job), place, attempts, read_at: now });
        self.ids.entry(entry.job.id).or_insert(place);
        if keeps_order
            && log == Log::Events
            && (!held.knows_what_is_aside() || held.aside.contains_key(&lane))
        {
            held.put_aside(log, Some(&lane));
            return Some(Aside { entry, past });
        }
        if keeps_order && log == Log::Retry && offset >= held.retry_end {
            held.came_back(&lane);
        }
        self.seq = self.seq.saturating_add(1);
        let due = past.due().filter(|_| !keeps_order).unwrap_or(now);
        let ordered = entry.job.ordered;
        let waiting = Waiting {
            job: entry,
            failures: past.failures,
            first_attempt_at: past.first_attempt_at(),
            held_until: None,
        };
        self.lanes.push_again(&lane, ordered, (due, self.seq), waiting, now);
        None
    }

    /// Leases up to `max` jobs.
    pub(super) fn claim(&mut self, max: usize, now: Timestamp) -> Vec<Lease> {
        self.lanes.claim(max, now).into_iter().map(lease).collect()
    }

    /// When something becomes due that isn't now, if anything does.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.lanes.next_due()
    }

    /// What is to be written before a lease may be let go of; nothing, where it is just settled, or was before.
    pub(super) fn rest_of(&self, settlement: &Settlement, now: Timestamp) -> Option<Rest> {
        let Settlement { lease, verdict, attempt } = settlement;
        let entry = self.lanes.job_of(lease.id)?;
        match verdict {
            Verdict::Dead { .. } => {
                let first = Some(lease.first_attempt_at);
                let past = Past::new(None, 0, first, with(&entry.attempts, attempt.as_ref()));
                Some(Rest::Dead(Arc::clone(entry), past))
            }
            Verdict::Retry { at, .. } => {
                let Retry { held_until, failures, first_attempt_at, .. } =
                    self.lanes.retry_of(lease.id, verdict)?;
                if held_until.is_some() || *at <= after(now, LONG) {
                    return None;
                }
                let attempts = with(&entry.attempts, attempt.as_ref());
                let past = Past::new(Some(*at), failures, first_attempt_at, attempts);
                Some(Rest::Later(Aside { entry: Arc::clone(entry), past }))
            }
            Verdict::Done | Verdict::Dropped => None,
        }
    }

    /// Settles a lease; `is_written` says that its rest was written, so that it needn't be held for a retry.
    pub(super) fn settle(&mut self, settlement: &Settlement, is_written: bool, now: Timestamp) {
        let Settlement { lease: Lease { id, .. }, verdict, attempt } = settlement;
        let Some(entry) = self.lanes.job_of(*id).cloned() else { return };
        let is_leaving = self.partitions.get(&entry.place.partition).is_none_or(|held| held.is_leaving);
        let retry = self.lanes.retry_of(*id, verdict).filter(|_| !is_written && !is_leaving);
        let is_held = retry.is_some();
        let again = match is_held {
            true => Arc::new(Entry {
                job: Arc::clone(&entry.job),
                attempts: with(&entry.attempts, attempt.as_ref()),
                ..*entry
            }),
            false => Arc::clone(&entry),
        };
        if !self.lanes.settle(*id, verdict, retry, again, now) || is_held {
            return;
        }
        match (verdict, is_written) {
            // The partition is going: whoever gets it tries again.
            (Verdict::Retry { .. }, false) => {}
            _ => self.let_go(entry.place, &entry.job),
        }
    }

    /// What was put aside, given up or not readable stands where it belongs now.
    pub(super) fn written(&mut self, place: Place, job: Option<&Job>) {
        let Some(reading) = self.reading_of(place) else { return };
        reading.writing = reading.writing.saturating_sub(1);
        match job {
            Some(job) => self.let_go(place, job),
            None => self.settle_offset(place),
        }
    }

    fn let_go(&mut self, place: Place, job: &Job) {
        if let Some(reading) = self.reading_of(place) {
            reading.bytes = reading.bytes.saturating_sub(job.body.len());
        }
        if self.ids.get(&job.id) == Some(&place) {
            self.ids.remove(&job.id);
        }
        self.settle_offset(place);
    }

    fn settle_offset(&mut self, place: Place) {
        if let Some(reading) = self.reading_of(place) {
            reading.offsets.settle(place.offset);
            self.settled = self.settled.saturating_add(1);
        }
    }

    /// Forgets what was learnt of the endpoints behind `lanes`: those of their jobs that are held are due at once.
    pub(super) fn release(&mut self, lanes: &[Lane], now: Timestamp) {
        self.lanes.release(lanes, now);
    }

    /// Nothing of `partitions` is begun any more; what is being delivered may be settled still.
    pub(super) fn leave(&mut self, partitions: &[i32], now: Timestamp) {
        for partition in partitions {
            if let Some(held) = self.partitions.get_mut(partition) {
                held.is_leaving = true;
            }
        }
        let of_them = |near: &BTreeMap<Key, Waiting<Arc<Entry>>>| -> Vec<Key> {
            let is_one = |waiting: &Waiting<Arc<Entry>>| partitions.contains(&waiting.job.place.partition);
            near.iter().filter(|(_, waiting)| is_one(waiting)).map(|(key, _)| *key).collect()
        };
        drop(self.lanes.take(|lane| of_them(lane.near), now));
    }

    /// How many jobs of `partitions` are being delivered, or written elsewhere.
    pub(super) fn busy(&self, partitions: &[i32]) -> usize {
        let held = partitions.iter().filter_map(|partition| self.partitions.get(partition));
        let writing = held.fold(0_usize, |sum, held| {
            sum.saturating_add(held.events.writing).saturating_add(held.retry.writing)
        });
        let leased = self.lanes.leased_of(|entry| partitions.contains(&entry.place.partition));
        writing.saturating_add(leased)
    }

    /// Lets go of `partitions`: they are another consumer's.
    pub(super) fn forget(&mut self, partitions: &[i32], now: Timestamp) {
        let is_theirs = |place: &Place| partitions.contains(&place.partition);
        self.leave(partitions, now);
        self.lanes.remove(|entry| is_theirs(&entry.place), now);
        self.ids.retain(|_, place| !is_theirs(place));
        self.partitions.retain(|partition, _| !partitions.contains(partition));
    }

    /// What may be committed, as far as that has changed.
    pub(super) fn progress(&mut self) -> Vec<(i32, Log, Progress)> {
        self.settled = 0;
        let mut changed = Vec::new();
        for (partition, held) in &mut self.partitions {
            for log in [Log::Events, Log::Retry] {
                let reading = held.reading_mut(log);
                let Some(progress) = reading.offsets.progress() else { continue };
                if reading.committed.as_ref() != Some(&progress) {
                    reading.committed = Some(progress.clone());
                    changed.push((*partition, log, progress));
                }
            }
        }
        changed
    }

    /// A commit failed: all is to be committed again.
    pub(super) fn nothing_committed(&mut self) {
        for held in self.partitions.values_mut() {
            (held.events.committed, held.retry.committed) = (None, None);
        }
    }

    /// Jobs that were settled since progress was last asked for.
    pub(super) fn settled(&self) -> usize {
        self.settled
    }

    /// The offset that a log is read on from.
    pub(super) fn next(&self, log: Log, partition: i32) -> Option<i64> {
        let held = self.partitions.get(&partition)?;
        let reading = if log == Log::Events { &held.events } else { &held.retry };
        reading.offsets.next()
    }

    /// Jobs that are held, by state.
    pub(super) fn depth(&self, now: Timestamp) -> Depth {
        self.lanes.depth(now)
    }
}

impl Partition {
    /// A job read from `log` is being put aside; `lane` is its own, where that keeps order.
    fn put_aside(&mut self, log: Log, lane: Option<&Lane>) {
        let reading = self.reading_mut(log);
        reading.writing = reading.writing.saturating_add(1);
        if let Some(lane) = lane {
            let count = self.aside.entry(lane.clone()).or_default();
            *count = count.saturating_add(1);
        }
    }

    /// One of a lane that keeps order was read again.
    fn came_back(&mut self, lane: &Lane) {
        let Some(count) = self.aside.get_mut(lane) else { return };
        *count = count.saturating_sub(1);
        if *count == 0 {
            self.aside.remove(lane);
        }
    }
}

fn with(attempts: &[Attempt], attempt: Option<&Attempt>) -> Vec<Attempt> {
    let mut attempts = attempts.to_vec();
    if let Some(attempt) = attempt {
        keep(&mut attempts, attempt.clone());
    }
    attempts
}

fn lease(picked: Picked<Arc<Entry>>) -> Lease {
    let Picked { id, job, attempt, first_attempt_at, ordered, .. } = picked;
    Lease { job: Arc::clone(&job.job), attempt, first_attempt_at, ordered, id }
}

#[cfg(test)]
mod tests;
