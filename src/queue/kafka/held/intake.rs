//! What is read is taken in: held, put aside behind others of its lane, or known already.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::partition::{Early, Search};
use super::{Aside, Away, Entry, Fetch, Fetched, Held, Log, Place, Unknown};
use crate::common::job::{Job, Lane};
use crate::queue::kafka::record::Past;
use crate::queue::lanes::window::WaitingJob;

impl Held {
    /// Partitions of which it isn't known yet where `events.retry` ended when they came.
    pub(in super::super) fn without_end(&self) -> impl Iterator<Item = i32> + '_ {
        self.partitions.iter().filter(|(_, held)| held.retry.end.is_none()).map(|(partition, _)| *partition)
    }

    /// Where `events.retry` begins and ends, as it turned out later.
    pub(in super::super) fn learn_end(
        &mut self,
        partition: i32,
        start: i64,
        end: i64,
        now: Timestamp,
    ) -> Vec<Aside> {
        let Some(held) = self.partitions.get_mut(&partition) else { return Vec::new() };
        held.retry.offsets.begin_at(start);
        held.retry.end.get_or_insert(end);
        self.give_way(partition, now)
    }

    /// What was found where a window was too small to read on; nothing where the search failed.
    pub(in super::super) fn learn(
        &mut self,
        Unknown { partition, term, .. }: &Unknown,
        found: Option<HashMap<Lane, Away>>,
        now: Timestamp,
    ) -> Vec<Aside> {
        let held = self.partitions.get_mut(partition).filter(|held| held.retry.term == *term);
        match (held, found) {
            (None, _) => return Vec::new(),
            (Some(held), Some(found)) => held.learn(found),
            (Some(held), None) => held.search = Search::NotBegun,
        }
        self.give_way(*partition, now)
    }

    /// A record of so many bytes was read: where it stands, if something is to be done about it.
    fn begin(&mut self, (log, partition, offset): (Log, i32, i64), bytes: usize) -> Option<Place> {
        let held = self.partitions.get_mut(&partition).filter(|held| !held.is_leaving)?;
        if held.reading(log).offsets.next().is_some_and(|next| offset < next) {
            tracing::warn!(
                partition,
                offset,
                ?log,
                "the log begins anew: its topic was made again, or has lost records"
            );
            held.rewind(log, offset);
            // What is there now isn't what was.
            let is_gone =
                |place: &Place| (place.log, place.partition) == (log, partition) && place.offset >= offset;
            self.ids.retain(|_, place| !is_gone(place));
        }
        if log == Log::Retry {
            held.waiting_since = None;
        }
        let reading = held.reading_mut(log);
        let rewinds = reading.offsets.rewinds();
        let place = Place { log, partition, offset, term: reading.term, rewinds };
        reading.offsets.read(offset, bytes).then_some(place)
    }

    /// A record of so many bytes was read that holds no job: it is held until [`Self::written`].
    pub(in super::super) fn read_damaged(
        &mut self,
        at: (Log, i32, i64),
        bytes: usize,
        now: Timestamp,
    ) -> (Option<Place>, Vec<Aside>) {
        let place = self.begin(at, bytes);
        if let Some(held) = place.and_then(|place| self.partitions.get_mut(&place.partition)) {
            held.put_aside(at.0, None);
        }
        (place, self.give_way(at.1, now))
    }

    /// A job was read, in a record of so many bytes. Gives back what is to be put aside, behind others of its lane.
    pub(in super::super) fn read(
        &mut self,
        at: (Log, i32, i64),
        bytes: usize,
        job: Job,
        past: Past,
        now: Timestamp,
    ) -> Vec<Aside> {
        if let Some(place) = self.begin(at, bytes) {
            self.hold(place, job, past, now);
        }
        self.give_way(at.1, now)
    }

    fn hold(&mut self, place: Place, job: Job, past: Past, now: Timestamp) {
        if self.ids.contains_key(&job.id) {
            // Written twice: the one that is held is it.
            self.settle_offset(place);
            return;
        }
        let keeps_order = self.keeps_order(&job);
        if keeps_order && place.log == Log::Retry {
            let most = self.most_of_lane(place.partition);
            let origin = past.origin.unwrap_or(-1);
            let most = most.jobs.min(most.bytes.checked_div(job.body.len()).unwrap_or(usize::MAX));
            if let Some(held) = self.partitions.get_mut(&place.partition)
                && held.is_to_park(&job.lane, origin, most)
            {
                held.park(&job.lane, place.offset, origin);
                return;
            }
        }
        self.hold_in_memory(place, job, past, now);
    }

    fn hold_in_memory(&mut self, place: Place, job: Job, past: Past, now: Timestamp) {
        self.ids.insert(job.id, place);
        self.seq = self.seq.saturating_add(1);
        let keeps_order = self.keeps_order(&job);
        let origin = match place.log {
            Log::Events => place.offset,
            Log::Retry => past.origin.unwrap_or(-1),
        };
        let (lane, ordered, past_due) = (job.lane.clone(), job.ordered, past.due());
        let due = past_due.unwrap_or(now);
        let (failures, first_attempt_at) = (past.failures, past.first_attempt_at());
        let entry =
            Arc::new(Entry { job: Arc::new(job), place, attempts: past.attempts, origin, read_at: now });
        if place.log == Log::Events && !keeps_order {
            self.lanes.push(&lane, ordered, (now, self.seq), entry, now);
            return;
        }
        // In a lane that keeps order it holds its place meanwhile.
        let retry_at = past_due.filter(|_| keeps_order);
        let waiting = WaitingJob { job: entry, failures, first_attempt_at, retry_at };
        if !keeps_order {
            self.lanes.push_again(&lane, ordered, (due, self.seq), waiting, now);
        } else if let Some(held) = self.partitions.get_mut(&place.partition) {
            if place.log == Log::Retry {
                held.keep(&lane, origin, waiting.job.job.body.len());
            }
            held.early.insert((origin, self.seq), Early { lane, waiting });
        }
    }

    /// Jobs that had left memory were read again; nothing, where that failed.
    pub(in super::super) fn refill(
        &mut self,
        fetch: &Fetch,
        fetched: Option<Fetched>,
        now: Timestamp,
    ) -> Vec<Aside> {
        let Fetch { partition, term, rewinds, lane, .. } = fetch;
        let held = self.partitions.get_mut(partition).filter(|held| held.retry.term == *term);
        let Some(held) = held else { return Vec::new() };
        held.is_fetching = false;
        // What was read of a log that was cut off meanwhile says nothing of what is there now.
        let fetched = fetched.filter(|_| held.retry.offsets.rewinds() == *rewinds);
        let Some(Fetched { jobs, reached }) = fetched else { return Vec::new() };
        let last = jobs.last().and_then(|(_, _, past)| past.origin);
        for (offset, job, past) in jobs {
            let Some(held) = self.partitions.get_mut(partition).filter(|held| !held.is_leaving) else {
                break;
            };
            let Some(rewinds) = held.retry.offsets.take_back(offset) else { continue };
            let place = Place { log: Log::Retry, partition: *partition, offset, term: *term, rewinds };
            if self.ids.contains_key(&job.id) {
                self.settle_offset(place);
            } else {
                self.hold_in_memory(place, job, past, now);
            }
        }
        if let Some(held) = self.partitions.get_mut(partition) {
            held.fetched(lane, reached, last);
        }
        self.give_way(*partition, now)
    }

    /// Lets early jobs take their turn, if what stands before them is known now. Gives back what is to be put aside.
    pub(super) fn give_way(&mut self, partition: i32, now: Timestamp) -> Vec<Aside> {
        let Some(held) = self.partitions.get_mut(&partition) else { return Vec::new() };
        let mut asides = Vec::new();
        for Early { lane, waiting } in held.take_early() {
            let (place, origin) = (waiting.job.place, waiting.job.origin);
            if place.log == Log::Events && held.follows_to_retry(&lane, origin) {
                asides.push(waiting);
                // Those behind it in this batch follow it.
                held.put_aside(place.log, Some((&lane, origin)));
                continue;
            }
            self.seq = self.seq.saturating_add(1);
            let key = (in_order(origin), self.seq);
            self.lanes.push_again(&lane, waiting.job.job.ordered, key, waiting, now);
        }
        asides.into_iter().map(|waiting| self.leave_for_retry(now, waiting)).collect()
    }
}

/// Where a job that keeps order stands in its lane: by its origin alone, whatever the time.
fn in_order(origin: i64) -> Timestamp {
    Timestamp::from_microsecond(origin.max(0)).unwrap_or(Timestamp::UNIX_EPOCH)
}
