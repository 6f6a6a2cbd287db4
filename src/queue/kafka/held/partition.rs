//! One partition: how far its two logs were read, and what of it waits to be known of.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use super::{Entry, Log, Window};
use jiff::Timestamp;

use crate::common::job::{Job, Lane};
use crate::queue::kafka::offsets::{Offsets, Progress};
use crate::queue::kafka::record::Past;
use crate::queue::lanes::window::WaitingJob;

/// Where a log is read from, and where it ended when its partition came; each only as far as Kafka has said it.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Start {
    pub(in super::super) from: Option<Progress>,
    pub(in super::super) end: Option<i64>,
}

/// See the module's page.
pub(super) struct Partition {
    pub(super) events: Reading,
    pub(super) retry: Reading,
    /// Whether the rest of `events.retry` was searched, or is being searched, for what keeps order.
    pub(super) search: Search,
    /// Since when it is waited for what stands there, and nothing of it was read.
    pub(super) waiting_since: Option<Timestamp>,
    /// Lanes that have jobs in `events.retry` that weren't read yet, or that are on their way there.
    away: HashMap<Lane, Away>,
    /// Lanes that keep order and of which not all that was read of `events.retry` is in memory.
    parked: HashMap<Lane, Parked>,
    /// Of each lane that keeps order, what was read from there and is in memory.
    kept: HashMap<Lane, Kept>,
    /// Jobs of one of them are being read again.
    pub(super) is_fetching: bool,
    /// Jobs that keep order, by their place among those of their lane: others may stand before them that weren't read yet.
    pub(super) early: BTreeMap<(i64, u64), Early>,
    /// It is about to go: nothing of it is begun any more.
    pub(super) is_leaving: bool,
}

/// How far a log was read.
pub(super) struct Reading {
    /// Which time that this consumer reads it.
    pub(super) term: u64,
    pub(super) offsets: Offsets,
    /// Where it ended when the partition came.
    pub(super) end: Option<i64>,
    /// Jobs that are being written elsewhere.
    pub(super) writing: usize,
    pub(super) committed: Option<Progress>,
    pub(super) is_paused: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Search {
    /// Reading it to the end may tell as well.
    NotBegun,
    Begun,
    Done,
}

/// The jobs of a lane that keeps order and that are in `events.retry`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Away {
    /// Jobs that are on their way, by their place in `events`.
    pub(in super::super) writing: BTreeSet<i64>,
    /// The last of the others.
    pub(in super::super) last: i64,
    /// The first of them, by its place in `events`.
    pub(in super::super) first_origin: i64,
}

/// The jobs of a lane that are in memory.
#[derive(Default)]
struct Kept {
    jobs: usize,
    bytes: usize,
    /// The last of them, by its place in `events`.
    last_origin: i64,
}

/// The jobs of a lane that left memory: those of `events.retry` from an offset on that aren't settled. All that are in memory
/// stand before them.
struct Parked {
    from: i64,
    /// The first of them, by its place in `events`.
    first_origin: i64,
    /// The last of them.
    last: i64,
}

/// Jobs of a lane that are to come back into memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Fetch {
    pub(in super::super) partition: i32,
    pub(in super::super) term: u64,
    pub(super) rewinds: u32,
    pub(in super::super) lane: Lane,
    pub(in super::super) offsets: Range<i64>,
    /// How many of them, and bytes of them.
    pub(in super::super) most: Window,
}

/// Of them those that were found.
pub(in super::super) struct Fetched {
    pub(in super::super) jobs: Vec<(i64, Job, Past)>,
    /// All before that offset were looked at.
    pub(in super::super) reached: i64,
}

/// A job that may not be given out yet.
pub(super) struct Early {
    pub(super) lane: Lane,
    pub(super) waiting: WaitingJob<Arc<Entry>>,
}

/// A part of `events.retry` that is to be searched for lanes that keep order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Unknown {
    pub(in super::super) partition: i32,
    pub(in super::super) term: u64,
    pub(in super::super) offsets: Range<i64>,
    /// Of those, what is settled.
    pub(in super::super) settled: Vec<Range<i64>>,
    /// Whether all jobs keep order, or those that ask for it.
    pub(in super::super) all_in_order: bool,
}

impl Default for Away {
    fn default() -> Self {
        Self { writing: BTreeSet::new(), last: i64::MIN, first_origin: i64::MAX }
    }
}

impl Away {
    /// That a job with that origin stands at an offset of `events.retry`.
    pub(in super::super) fn add(&mut self, offset: i64, origin: i64) {
        self.last = self.last.max(offset);
        self.first_origin = self.first_origin.min(origin);
    }
}

impl Reading {
    pub(super) fn new(term: u64, start: &Start) -> Self {
        let offsets = Offsets::resume(start.from.as_ref());
        Self { term, offsets, end: start.end, writing: 0, committed: None, is_paused: false }
    }
}

impl Partition {
    pub(super) fn new(events: Reading, retry: Reading) -> Self {
        let mut partition = Self {
            events,
            retry,
            search: Search::NotBegun,
            away: HashMap::new(),
            parked: HashMap::new(),
            kept: HashMap::new(),
            is_fetching: false,
            waiting_since: None,
            early: BTreeMap::new(),
            is_leaving: false,
        };
        partition.events.is_paused = !partition.knows_what_is_away();
        partition
    }

    pub(super) fn reading(&self, log: Log) -> &Reading {
        match log {
            Log::Events => &self.events,
            Log::Retry => &self.retry,
        }
    }

    pub(super) fn reading_mut(&mut self, log: Log) -> &mut Reading {
        match log {
            Log::Events => &mut self.events,
            Log::Retry => &mut self.retry,
        }
    }

    /// How many of its jobs are being written elsewhere.
    pub(super) fn writing(&self) -> usize {
        self.events.writing.saturating_add(self.retry.writing)
    }

    /// Whether all is known that was put aside before the partition came.
    pub(super) fn knows_what_is_away(&self) -> bool {
        let is_read = match (self.retry.offsets.next(), self.retry.end) {
            (Some(next), Some(end)) => next >= end,
            _ => false,
        };
        is_read || self.search == Search::Done
    }

    /// A log goes on at an offset that was read before.
    pub(super) fn rewind(&mut self, log: Log, to: i64) {
        let reading = self.reading_mut(log);
        reading.offsets.rewind(to);
        reading.end = reading.end.map(|end| end.min(to));
        if log == Log::Retry {
            for away in self.away.values_mut() {
                away.last = away.last.min(to.saturating_sub(1));
            }
            for parked in self.parked.values_mut() {
                parked.last = parked.last.min(to.saturating_sub(1));
                parked.from = parked.from.min(to);
            }
            // What is there now isn't known.
            (self.retry.end, self.search, self.waiting_since) = (None, Search::NotBegun, None);
        }
    }

    /// Takes the jobs out of `early` that no job which wasn't read yet stands before.
    pub(super) fn take_early(&mut self) -> Vec<Early> {
        if self.early.is_empty() || !self.knows_what_is_away() {
            return Vec::new();
        }
        let (next, end) = (self.events.offsets.next(), self.events.end);
        let is_read = |origin: i64| {
            // An origin beyond the end is of another log of that name.
            next.is_some_and(|next| origin < next) || end.is_some_and(|end| origin >= end)
        };
        if !self.early.first_key_value().is_some_and(|((origin, _), _)| is_read(*origin)) {
            return Vec::new();
        }
        let away = &self.away;
        // One that couldn't be written yet may stand before one that could.
        let is_first = |early: &Early, origin: i64| {
            let writing = away.get(&early.lane).and_then(|away| away.writing.first());
            early.waiting.job.place.log == Log::Events || writing.is_none_or(|first| *first >= origin)
        };
        let taken =
            self.early.extract_if(.., |(origin, _), early| is_read(*origin) && is_first(early, *origin));
        taken.map(|(_, early)| early).collect()
    }

    /// Takes all jobs of a lane out of `early`, in order.
    pub(super) fn early_of(&mut self, lane: &Lane) -> Vec<WaitingJob<Arc<Entry>>> {
        let of_lane = self.early.extract_if(.., |_, early| early.lane == *lane);
        of_lane.map(|(_, early)| early.waiting).collect()
    }

    /// Whether a job of `events` follows others of its lane to `events.retry`.
    pub(super) fn follows_to_retry(&mut self, lane: &Lane, origin: i64) -> bool {
        if !self.is_away(lane) {
            self.away.remove(lane);
            return false;
        }
        self.away.get(lane).is_some_and(|away| origin >= away.first_origin)
    }

    /// Whether a lane that keeps order has jobs in `events.retry` that aren't in memory, or are on their way there.
    pub(super) fn is_away(&self, lane: &Lane) -> bool {
        let next = self.retry.offsets.next();
        self.away.get(lane).is_some_and(|away| {
            !away.writing.is_empty()
                || self.parked.contains_key(lane)
                || next.is_none_or(|next| away.last >= next)
        })
    }

    /// A job read from `log` is being written elsewhere; `away` is its lane and its origin, where that keeps order and it
    /// goes to `events.retry`.
    pub(super) fn put_aside(&mut self, log: Log, away: Option<(&Lane, i64)>) {
        let reading = self.reading_mut(log);
        reading.writing = reading.writing.saturating_add(1);
        if let Some((lane, origin)) = away {
            let away = self.away.entry(lane.clone()).or_default();
            away.writing.insert(origin);
            away.first_origin = away.first_origin.min(origin);
        }
    }

    /// One of a lane that keeps order stands in `events.retry` now.
    pub(super) fn stands_in_retry(&mut self, lane: &Lane, origin: i64, offset: i64) {
        if let Some(away) = self.away.get_mut(lane) {
            away.writing.remove(&origin);
            away.last = away.last.max(offset);
        }
    }

    /// Begins to search what of `events.retry` wasn't read yet, if it is known what that is.
    pub(super) fn search(&mut self, partition: i32, all_in_order: bool) -> Option<Unknown> {
        let (from, to) = (self.retry.offsets.next()?, self.retry.end?);
        self.search = Search::Begun;
        let (term, settled) = (self.retry.term, self.retry.offsets.passes_over().to_vec());
        Some(Unknown { partition, term, offsets: from..to, settled, all_in_order })
    }

    /// What the search has found.
    pub(super) fn learn(&mut self, found: HashMap<Lane, Away>) {
        self.search = Search::Done;
        for (lane, Away { last, first_origin, .. }) in found {
            self.away.entry(lane).or_default().add(last, first_origin);
        }
    }

    /// Forgets lanes all of whose jobs were read.
    pub(super) fn forget_who_is_back(&mut self) {
        let back: Vec<Lane> = self.away.keys().filter(|lane| !self.is_away(lane)).cloned().collect();
        for lane in back {
            self.away.remove(&lane);
        }
    }

    /// Whether a job of a lane that keeps order, read from `events.retry`, is to leave memory, which may have `most` of them:
    /// unless it stands before one that stays. Few do: where a consumer was killed while it put them aside again.
    pub(super) fn is_to_park(&self, lane: &Lane, origin: i64, most: usize) -> bool {
        let is_last = |kept: &Kept| kept.jobs >= most && origin > kept.last_origin;
        match self.parked.get(lane) {
            Some(parked) => origin >= parked.first_origin,
            None => self.kept.get(lane).is_some_and(is_last),
        }
    }

    /// A job that was read from there leaves memory.
    pub(super) fn park(&mut self, lane: &Lane, offset: i64, origin: i64) {
        self.retry.offsets.park(offset);
        self.away.entry(lane.clone()).or_default().add(offset, origin);
        let new = Parked { from: offset, first_origin: origin, last: offset };
        let parked = self.parked.entry(lane.clone()).or_insert(new);
        parked.last = parked.last.max(offset);
    }

    /// One that was read from there is in memory.
    pub(super) fn keep(&mut self, lane: &Lane, origin: i64, bytes: usize) {
        let kept = self.kept.entry(lane.clone()).or_default();
        kept.jobs = kept.jobs.saturating_add(1);
        kept.bytes = kept.bytes.saturating_add(bytes);
        kept.last_origin = kept.last_origin.max(origin);
    }

    /// It isn't any more.
    pub(super) fn let_go(&mut self, lane: &Lane, bytes: usize) {
        let Some(kept) = self.kept.get_mut(lane) else { return };
        kept.jobs = kept.jobs.saturating_sub(1);
        kept.bytes = kept.bytes.saturating_sub(bytes);
        if kept.jobs == 0 {
            self.kept.remove(lane);
        }
    }

    /// A lane that has used up most of what is in memory of it, to be read again; `most` is what it may have there.
    pub(super) fn fetch(&mut self, partition: i32, most: Window) -> Option<Fetch> {
        if self.is_fetching {
            return None;
        }
        let (term, to, kept) = (self.retry.term, self.retry.offsets.next()?, &self.kept);
        let rewinds = self.retry.offsets.rewinds();
        let runs_low = |lane: &Lane| {
            let low = |kept: &Kept| kept.jobs <= most.jobs / 4 && kept.bytes <= most.bytes / 4;
            kept.get(lane).is_none_or(low)
        };
        let low = self.parked.iter().filter(|(lane, _)| runs_low(lane));
        // One after the other: who was read again stands further behind then.
        let (lane, parked) = low.min_by_key(|(_, parked)| parked.from)?;
        self.is_fetching = true;
        let most = Window { jobs: most.jobs.max(1), bytes: most.bytes.max(1) };
        Some(Fetch { partition, term, rewinds, lane: lane.clone(), offsets: parked.from..to, most })
    }

    /// A lane was read again up to `reached`, and to a job with that origin.
    pub(super) fn fetched(&mut self, lane: &Lane, reached: i64, origin: Option<i64>) {
        let Some(parked) = self.parked.get_mut(lane) else { return };
        parked.from = reached.max(parked.from);
        parked.first_origin = origin.map_or(parked.first_origin, |last| last.saturating_add(1));
        if parked.last < parked.from {
            self.parked.remove(lane);
        }
    }
}
