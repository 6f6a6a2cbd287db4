//! What a consumer holds of its partitions: the jobs that it has read and that aren't settled. No clock, no I/O.
//!
//! Each partition is two logs, of `events` and of `events.retry`, under the same number; who has the one has the other.
//! Of each a window is held in memory; where it is full, reading stops. So that an endpoint that stands still doesn't fill
//! it, the jobs of its lane beyond the first few are put aside to the end of `events.retry` ([`Held::crowding`]), and read
//! again from there. Of a lane that keeps order what is read from there stays there: beyond the first few its jobs leave
//! memory, and are read again when it has used up most of those ([`Fetch`]).
//!
//! Jobs that keep order are told apart by their origin, their offset in `events`, wherever they stand. Of a lane those
//! that come last are put aside, in order, and what comes for it from then on goes there as well, until all of it was read
//! again. So nothing that isn't read yet stands before a job once `events` was read to its origin, and it is known what was
//! put aside before the partition came: `events.retry` was read to where it ended then, or, where the window is full
//! before that, searched to there. Until then a job waits as an early one.

mod intake;
mod partition;
mod window;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

pub(super) use self::partition::{Away, Fetch, Fetched, Start, Unknown};
use self::partition::{Partition, Reading};
pub(super) use self::window::{Flow, Window};
use super::offsets::Progress;
use super::record::Past;
use crate::common::attempt::{Attempt, keep};
use crate::common::clock::after;
use crate::common::id::MessageId;
use crate::common::job::{Job, Lane};
use crate::common::retry::Verdict;
use crate::queue::lanes::window::{LanePosition, WaitingJob};
use crate::queue::lanes::{Lanes, LeasedJob, ScheduledRetry};
use crate::queue::{Depth, Lease, QueueConfig, Settlement};

/// Retries that are further away than this wait in `events.retry`, if no order is kept.
const LONG: Duration = Duration::from_secs(60);

/// Jobs that are settled at most without that being committed: so many, and those in flight, may come twice where a
/// consumer is killed. A commit takes a few milliseconds, in which some hundred are settled.
const MOST_UNCOMMITTED: u64 = 500;

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
    /// How often it had been rewound.
    rewinds: u32,
}

/// A job that is held.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) job: Arc<Job>,
    pub(super) place: Place,
    /// The latest, in order.
    pub(super) attempts: Vec<Attempt>,
    /// Its offset in `events`; before all others where that isn't known.
    origin: i64,
    read_at: Timestamp,
}

/// A job on its way to the end of `events.retry`.
#[derive(Debug)]
pub(super) struct Aside {
    pub(super) entry: Arc<Entry>,
    pub(super) past: Past,
}

/// What is to be written before a record is let go of.
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
    /// Where the jobs are that are given out from here, to know those that are there twice.
    ids: HashMap<MessageId, Place>,
    window: Window,
    is_ordered: bool,
    seq: u64,
    terms: u64,
    settled: Settled,
    /// When windows were last looked after.
    now: Timestamp,
}

/// Whether Kafka took what was to be committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Committed {
    Yes,
    /// It couldn't: the group is being shared out anew, or it is away.
    NotYet,
    /// It wouldn't.
    Refused,
}

/// How many jobs were settled.
#[derive(Debug, Clone, Copy, Default)]
struct Settled {
    all: u64,
    /// When progress was last asked for.
    told: u64,
    /// Of what is committed.
    committed: u64,
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
            settled: Settled::default(),
            now: Timestamp::UNIX_EPOCH,
        }
    }

    /// A partition came. Says whether `events` is to be paused, until it is known what was put aside.
    pub(super) fn assign(&mut self, partition: i32, events: &Start, retry: &Start) -> bool {
        let [events, retry] = [events, retry].map(|start| Reading::new(self.next_term(), start));
        let held = Partition::new(events, retry);
        let is_paused = held.events.is_paused;
        self.partitions.insert(partition, held);
        is_paused
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

    fn keeps_order(&self, job: &Job) -> bool {
        self.is_ordered || job.ordered
    }

    /// Leases up to `max` jobs; none while too much of what is settled isn't committed.
    pub(super) fn claim(&mut self, max: usize, now: Timestamp) -> Vec<Lease> {
        if self.waits_for_commit() {
            return Vec::new();
        }
        self.lanes.claim(max, now).into_iter().map(lease).collect()
    }

    fn waits_for_commit(&self) -> bool {
        self.settled.all.saturating_sub(self.settled.committed) >= MOST_UNCOMMITTED
    }

    /// When something becomes due that isn't now, if anything does, and if it may be given out then.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        if self.waits_for_commit() { None } else { self.lanes.next_due() }
    }

    /// Takes a lease back. Where its job is to be written elsewhere, it says so, and holds the record until
    /// [`Self::written`]. Harmless where the lease was settled before.
    pub(super) fn settle(&mut self, settlement: &Settlement, now: Timestamp) -> Option<Rest> {
        let Settlement { lease: Lease { id, first_attempt_at, .. }, verdict, attempt } = settlement;
        let entry = Arc::clone(self.lanes.job_of(*id)?);
        let place = entry.place;
        let retry = self.lanes.retry_of(*id, verdict);
        let attempts = with(&entry.attempts, attempt.as_ref());
        let rest = match (verdict, retry) {
            (Verdict::Dead { .. }, _) => {
                let past = Past::new(None, 0, Some(*first_attempt_at), attempts);
                Some(Rest::Dead(Arc::clone(&entry), past))
            }
            (
                Verdict::Retry { at, .. },
                Some(ScheduledRetry { retry_at: None, failures, first_attempt_at, .. }),
            ) if *at > after(now, LONG) => {
                let origin = self.keeps_order(&entry.job).then_some(entry.origin);
                let past = Past::new(Some(*at), failures, first_attempt_at, attempts).of_origin(origin);
                Some(Rest::Later(Aside { entry: Arc::clone(&entry), past }))
            }
            (_, Some(retry)) => {
                let is_leaving = self.partitions.get(&place.partition).is_none_or(|held| held.is_leaving);
                // Who gets a partition that is going tries again.
                let retry = (!is_leaving).then_some(retry);
                let again = Arc::new(Entry { job: Arc::clone(&entry.job), attempts, ..*entry });
                self.lanes.settle(*id, verdict, retry, again, now);
                return None;
            }
            (_, None) => None,
        };
        self.lanes.settle(*id, verdict, None, Arc::clone(&entry), now);
        self.let_go(&entry);
        let is_later = matches!(rest, Some(Rest::Later(_)));
        let away = (is_later && self.keeps_order(&entry.job)).then_some((&entry.job.lane, entry.origin));
        match rest {
            None => self.settle_offset(place),
            Some(_) => {
                let held = self.partitions.get_mut(&place.partition);
                if let Some(held) = held.filter(|held| held.reading(place.log).term == place.term) {
                    held.put_aside(place.log, away);
                }
            }
        }
        rest
    }

    /// What was put aside, given up or not readable stands where it belongs now, at that offset.
    /// Gives back what is to be put aside after it.
    pub(super) fn written(
        &mut self,
        place: Place,
        in_retry: Option<&Entry>,
        offset: i64,
        now: Timestamp,
    ) -> Vec<Aside> {
        let entry = in_retry.filter(|entry| self.keeps_order(&entry.job));
        let Some(reading) = self.reading_of(place) else { return Vec::new() };
        reading.writing = reading.writing.saturating_sub(1);
        if let (Some(entry), Some(held)) = (entry, self.partitions.get_mut(&place.partition)) {
            held.stands_in_retry(&entry.job.lane, entry.origin, offset);
        }
        self.settle_offset(place);
        self.give_way(place.partition, now)
    }

    /// A job isn't given out from here any more.
    fn let_go(&mut self, entry: &Entry) {
        let Entry { job, place, .. } = entry;
        if self.ids.get(&job.id) == Some(place) {
            self.ids.remove(&job.id);
        }
        let is_kept = place.log == Log::Retry && self.keeps_order(job);
        if let Some(held) = self.partitions.get_mut(&place.partition)
            && is_kept
            && held.retry.term == place.term
        {
            held.let_go(&job.lane, job.body.len());
        }
    }

    fn settle_offset(&mut self, place: Place) {
        if let Some(reading) = self.reading_of(place) {
            reading.offsets.settle(place.offset, place.rewinds);
            self.settled.all = self.settled.all.saturating_add(1);
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
                held.early.clear();
            }
        }
        let of_them = |near: &BTreeMap<LanePosition, WaitingJob<Arc<Entry>>>| -> Vec<LanePosition> {
            let is_one = |waiting: &WaitingJob<Arc<Entry>>| partitions.contains(&waiting.job.place.partition);
            near.iter().filter(|(_, waiting)| is_one(waiting)).map(|(key, _)| *key).collect()
        };
        drop(self.lanes.take(|lane| of_them(lane.loaded), now));
    }

    /// How many jobs of `partitions` are being delivered, or written elsewhere.
    pub(super) fn busy(&self, partitions: &[i32]) -> usize {
        let held = partitions.iter().filter_map(|partition| self.partitions.get(partition));
        let writing = held.fold(0_usize, |sum, held| sum.saturating_add(held.writing()));
        let leased = self.lanes.leased_of(|entry| partitions.contains(&entry.place.partition));
        writing.saturating_add(leased)
    }

    /// How many logs aren't to be read just now.
    #[cfg(test)]
    pub(super) fn paused(&self) -> usize {
        let logs = self.partitions.values().flat_map(|held| [&held.events, &held.retry]);
        logs.filter(|reading| reading.is_paused).count()
    }

    /// How many jobs are being written elsewhere.
    #[cfg(test)]
    pub(super) fn writing(&self) -> usize {
        self.partitions.values().map(Partition::writing).sum()
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
        self.settled.told = self.settled.all;
        let mut changed = Vec::new();
        for (partition, held) in &mut self.partitions {
            for log in [Log::Events, Log::Retry] {
                let reading = held.reading_mut(log);
                if !reading.offsets.has_changed() && reading.committed.is_some() {
                    continue;
                }
                let Some(progress) = reading.offsets.progress() else { continue };
                if reading.committed.as_ref() != Some(&progress) {
                    reading.committed = Some(progress.clone());
                    changed.push((*partition, log, progress));
                }
            }
        }
        changed
    }

    /// What progress was last told of is committed, or is to be told again; where it won't be in any case, as far as can be
    /// seen, nothing waits for that.
    pub(super) fn committed(&mut self, committed: Committed) {
        if committed != Committed::NotYet {
            self.settled.committed = self.settled.told;
        }
        if committed == Committed::Yes {
            return;
        }
        for held in self.partitions.values_mut() {
            (held.events.committed, held.retry.committed) = (None, None);
        }
    }

    /// Jobs that were settled since progress was last asked for.
    pub(super) fn settled(&self) -> u64 {
        self.settled.all.saturating_sub(self.settled.told)
    }

    /// The offset that a log is read on from.
    pub(super) fn next(&self, log: Log, partition: i32) -> Option<i64> {
        self.partitions.get(&partition)?.reading(log).offsets.next()
    }

    /// Jobs that are held, by state; those that are being written elsewhere are still out.
    pub(super) fn depth(&self, now: Timestamp) -> Depth {
        let mut depth = self.lanes.depth(now);
        let add = |sum: &mut u64, jobs: usize| {
            *sum = sum.saturating_add(u64::try_from(jobs).unwrap_or(u64::MAX));
        };
        for held in self.partitions.values() {
            add(&mut depth.ready, held.early.len().saturating_add(held.retry.offsets.parked()));
            add(&mut depth.leased, held.writing());
        }
        depth
    }
}

fn with(attempts: &[Attempt], attempt: Option<&Attempt>) -> Vec<Attempt> {
    let mut attempts = attempts.to_vec();
    if let Some(attempt) = attempt {
        keep(&mut attempts, attempt.clone());
    }
    attempts
}

fn lease(picked: LeasedJob<Arc<Entry>>) -> Lease {
    let LeasedJob { id, job, attempt, first_attempt_at, ordered, .. } = picked;
    Lease { job: Arc::clone(&job.job), attempt, first_attempt_at, ordered, id }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
