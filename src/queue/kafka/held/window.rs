//! The window of what is held: which logs are read on, and which jobs make room where it is full.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::partition::{Fetch, Partition, Reading, Search, Unknown};
use super::{Aside, Entry, Held, LONG, Log};
use crate::common::clock::after;
use crate::queue::kafka::record::Past;
use crate::queue::lanes::LaneView;
use crate::queue::lanes::window::{LanePosition, WaitingJob};

/// A lane whose endpoint takes no more, and whose first job has waited for so long, stands still: one that fails, or that
/// nothing is known of.
const STANDS_STILL: Duration = Duration::from_secs(5);

/// The same of one that does well: with a long backlog its jobs wait for one another, and it is slow only if that takes
/// long.
const IS_SLOW: Duration = Duration::from_secs(30);

/// How long a job of `events.retry` was held at least, before it makes room for those behind it.
const HELD_FOR: Duration = Duration::from_secs(30);

/// How long it is waited for a record of `events.retry` that should be there, before it is searched.
const IN_VAIN: Duration = Duration::from_secs(10);

/// What part of what is free in a window, as a divisor, lanes that stand still may keep, together.
const SHARE: usize = 4;

/// Jobs of a log that may have left memory; what is known of them takes some 50 bytes each.
const MOST_PARKED: usize = 500_000;

/// What is to be read.
pub(in super::super) struct Flow {
    /// Logs that are to be paused, or to be read on.
    pub(in super::super) changed: Vec<(i32, Log, bool)>,
    /// What of `events.retry` is to be searched, since its window is full before it is known what is there.
    pub(in super::super) unknown: Vec<Unknown>,
    /// What is to come back into memory.
    pub(in super::super) fetches: Vec<Fetch>,
}

/// How much is held at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Window {
    /// Jobs of one log.
    pub(in super::super) jobs: usize,
    /// Bytes of their bodies, over all logs.
    pub(in super::super) bytes: usize,
}

impl Held {
    /// Jobs of lanes that stand still, and those that aren't due for long, where a window is more than half full: they are
    /// to be put aside. Those of a lane in order.
    pub(in super::super) fn crowding(&mut self, now: Timestamp) -> Vec<Aside> {
        for held in self.partitions.values_mut().filter(|held| !held.knows_what_is_away()) {
            held.waiting_since.get_or_insert(now);
        }
        self.now = now;
        let (window, bytes) = (self.window, self.bytes());
        let crowded: HashSet<(i32, Log)> = self
            .logs()
            .filter(|(_, _, reading)| reading.offsets.held() > window.jobs / 2 || bytes > window.bytes / 2)
            .map(|(partition, log, _)| (partition, log))
            .collect();
        if crowded.is_empty() {
            return Vec::new();
        }
        let still = self.lanes.views(now).filter(|lane| stands_still(lane, now)).count();
        let held = self.logs().map(|(_, _, reading)| reading.offsets.held()).max().unwrap_or(0);
        // Of what is free, so that however many such lanes come one after the other, something stays free.
        let share = |free: usize| (free / SHARE).checked_div(still).unwrap_or(0);
        // The first stays, unless there are very many: it tells that its lane stands still, also when others have come.
        let first = usize::from(still <= window.jobs / SHARE);
        let share = Window {
            jobs: share(window.jobs.saturating_sub(held)).max(first),
            bytes: share(window.bytes.saturating_sub(bytes)),
        };
        self.partitions.values_mut().for_each(Partition::forget_who_is_back);
        let partitions = &self.partitions;
        let is_away = |entry: &Entry| {
            let held = partitions.get(&entry.place.partition);
            held.is_none_or(|held| !held.knows_what_is_away() || held.is_away(&entry.job.lane))
        };
        let keeps_order = |entry: &Entry| self.is_ordered || entry.job.ordered;
        let stays = |entry: &Entry| {
            let is_crowded = crowded.contains(&(entry.place.partition, entry.place.log));
            entry.place.log == Log::Retry || !is_crowded || is_away(entry)
        };
        let taken = self.lanes.take(|lane| surplus(lane, share, &crowded, keeps_order, stays, now), now);
        let mut asides = Vec::new();
        let mut ends = HashSet::new();
        for (ordered, waiting) in taken {
            let entry = &waiting.1.job;
            if ordered && self.keeps_order(&entry.job) {
                ends.insert((entry.place.partition, entry.job.lane.clone()));
            }
            asides.push(self.aside(waiting));
        }
        // The early jobs of those lanes come after what was put aside of them.
        for (partition, lane) in ends {
            let early = self.partitions.get_mut(&partition).map(|held| held.early_of(&lane));
            let early = early.into_iter().flatten();
            asides.extend(early.map(|waiting| self.aside(((Timestamp::UNIX_EPOCH, 0), waiting))));
        }
        asides
    }

    fn aside(&mut self, (key, waiting): (LanePosition, WaitingJob<Arc<Entry>>)) -> Aside {
        let (entry, keeps_order) = (&waiting.job, self.keeps_order(&waiting.job.job));
        if let Some(held) = self.partitions.get_mut(&entry.place.partition)
            && held.reading(entry.place.log).term == entry.place.term
        {
            held.put_aside(entry.place.log, keeps_order.then_some((&entry.job.lane, entry.origin)));
        }
        self.leave_for_retry(key.0, waiting)
    }

    /// A job that is put aside is none of those that are given out from here; it is due again at `due`, or in its order.
    pub(super) fn leave_for_retry(&mut self, due: Timestamp, waiting: WaitingJob<Arc<Entry>>) -> Aside {
        let WaitingJob { job: entry, failures, first_attempt_at, retry_at } = waiting;
        self.let_go(&entry);
        let (due, origin) = match self.keeps_order(&entry.job) {
            true => (retry_at, Some(entry.origin)),
            false => (Some(due), None),
        };
        let past = Past::new(due, failures, first_attempt_at, entry.attempts.clone()).of_origin(origin);
        Aside { entry, past }
    }

    /// How many jobs, and bytes of them, a lane may have in memory that keeps order and is read from `events.retry`: a share
    /// of what is free, so that some are free for others however many such lanes there are.
    pub(super) fn most_of_lane(&self, partition: i32) -> Window {
        let held = self.partitions.get(&partition).map_or(0, |held| held.retry.offsets.held());
        let (jobs, bytes) =
            (self.window.jobs.saturating_sub(held), self.window.bytes.saturating_sub(self.bytes()));
        Window { jobs: jobs / SHARE, bytes: bytes / SHARE }
    }

    /// Which logs are to be read and which aren't, as far as that has changed; and what else is to be read.
    pub(in super::super) fn flow(&mut self, may_read: impl Fn(i32) -> bool) -> Flow {
        let (window, bytes, all_in_order, now) = (self.window, self.bytes(), self.is_ordered, self.now);
        let numbers: Vec<i32> = self.partitions.keys().copied().collect();
        let mut fetches = Vec::new();
        for partition in numbers {
            let most = self.most_of_lane(partition);
            fetches.extend(self.partitions.get_mut(&partition).and_then(|held| held.fetch(partition, most)));
        }
        let (mut changed, mut unknown) = (Vec::new(), Vec::new());
        for (partition, held) in &mut self.partitions {
            let (waits_for_retry, waits_since) = (!held.knows_what_is_away(), held.waiting_since);
            for log in [Log::Retry, Log::Events] {
                let reading = held.reading_mut(log);
                let jobs = reading.offsets.held();
                // Once it is paused, a quarter must be free before it goes on: each turn costs a request.
                let (most_jobs, most_bytes) = match reading.is_paused {
                    true => (window.jobs.saturating_mul(3) / 4, window.bytes.saturating_mul(3) / 4),
                    false => (window.jobs, window.bytes),
                };
                let is_full = jobs >= most_jobs.max(1)
                    || (bytes >= most_bytes.max(1) && jobs > 0)
                    || reading.offsets.parked() >= MOST_PARKED;
                let waits = log == Log::Events && waits_for_retry;
                let pause = is_full || waits || !may_read(*partition);
                if std::mem::replace(&mut reading.is_paused, pause) != pause {
                    changed.push((*partition, log, pause));
                }
                // Or the last of it can't be read, since it was deleted.
                let is_in_vain = waits_since.is_some_and(|since| after(since, IN_VAIN) <= now);
                let is_to_search = waits_for_retry && (is_full || is_in_vain);
                if log == Log::Retry && is_to_search && held.search == Search::NotBegun {
                    unknown.extend(held.search(*partition, all_in_order));
                }
            }
        }
        Flow { changed, unknown, fetches }
    }

    /// Bytes of the bodies that are held.
    pub(super) fn bytes(&self) -> usize {
        self.logs().fold(0, |sum, (_, _, reading)| sum.saturating_add(reading.offsets.bytes()))
    }

    fn logs(&self) -> impl Iterator<Item = (i32, Log, &Reading)> {
        self.partitions.iter().flat_map(|(partition, held)| {
            [(*partition, Log::Events, &held.events), (*partition, Log::Retry, &held.retry)]
        })
    }
}

fn stands_still(lane: &LaneView<'_, Arc<Entry>>, now: Timestamp) -> bool {
    let first = lane.loaded.first_key_value();
    let most = if lane.is_healthy { IS_SLOW } else { STANDS_STILL };
    lane.is_throttled && first.is_some_and(|(_, first)| after(first.job.read_at, most) <= now)
}

/// Of a lane's jobs in crowded logs those that are to make room: all but `share` where it stands still, and those that
/// aren't due for long.
fn surplus(
    lane: &LaneView<'_, Arc<Entry>>,
    share: Window,
    crowded: &HashSet<(i32, Log)>,
    keeps_order: impl Fn(&Entry) -> bool,
    stays: impl Fn(&Entry) -> bool,
    now: Timestamp,
) -> Vec<LanePosition> {
    let is_crowded = |entry: &Entry| crowded.contains(&(entry.place.partition, entry.place.log));
    let stands_still = stands_still(lane, now);
    let mut bytes = 0_usize;
    let fits = lane.loaded.values().take(share.jobs).take_while(|waiting| {
        bytes = bytes.saturating_add(waiting.job.job.body.len());
        bytes <= share.bytes
    });
    let share = fits.count().max(share.jobs.min(1));
    if lane.ordered {
        // Those from events.retry stay, and all of their partition before them, and all where others that come after them are
        // there already: no job may stand there behind one that comes after it.
        let most = if stands_still { lane.loaded.len().saturating_sub(share) } else { 0 };
        let mut shut = HashSet::new();
        let in_order = lane.loaded.iter().rev().filter(|(_, waiting)| keeps_order(&waiting.job)).take(most);
        let tail = in_order.filter(|(_, waiting)| {
            let partition = waiting.job.place.partition;
            if stays(&waiting.job) {
                shut.insert(partition);
            }
            !shut.contains(&partition)
        });
        let mut keys: Vec<LanePosition> = tail.map(|(key, _)| *key).collect();
        keys.reverse();
        return keys;
    }
    let was_held = |entry: &Entry| entry.place.log == Log::Events || after(entry.read_at, HELD_FOR) <= now;
    let waiting = lane.loaded.iter().enumerate();
    let makes_room = waiting.filter(|(index, (key, waiting))| {
        let is_beyond = (stands_still && *index >= share) || key.0 > after(now, LONG);
        is_beyond && is_crowded(&waiting.job) && was_held(&waiting.job)
    });
    makes_room.map(|(_, (key, _))| *key).collect()
}
