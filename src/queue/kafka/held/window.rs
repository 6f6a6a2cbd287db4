//! The window of what is held: which logs are read on, and which jobs make room where it is full.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::{Aside, Entry, Held, LONG, Log, Reading};
use crate::common::clock::after;
use crate::queue::kafka::record::Past;
use crate::queue::lanes::LaneView;
use crate::queue::lanes::window::{Key, Waiting};

/// A lane whose endpoint takes no more, and whose first job has waited for so long, stands still: one that fails, or that
/// nothing is known of.
const STANDS_STILL: Duration = Duration::from_secs(5);

/// The same of one that does well: with a long backlog its jobs wait for one another, and it is slow only if that takes
/// long.
const IS_SLOW: Duration = Duration::from_secs(30);

/// How long a job of `events.retry` was held at least, before it makes room for those behind it.
const HELD_FOR: Duration = Duration::from_secs(30);

/// What part of a window, as a divisor, all lanes that stand still may fill together.
const SHARE: usize = 4;

/// How much is held at most.
#[derive(Debug, Clone, Copy)]
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
        let (window, bytes) = (self.window, self.bytes());
        let crowded: Vec<(i32, Log)> = self
            .logs()
            .filter(|(_, _, reading)| {
                reading.offsets.unsettled() > window.jobs / 2 || bytes > window.bytes / 2
            })
            .map(|(partition, log, _)| (partition, log))
            .collect();
        if crowded.is_empty() {
            return Vec::new();
        }
        let still = self.lanes.views(now).filter(|lane| stands_still(lane, now)).count();
        let share = (window.jobs / SHARE).checked_div(still).unwrap_or(0);
        let taken = self.lanes.take(|lane| surplus(lane, share, &crowded, now), now);
        taken.into_iter().map(|(ordered, waiting)| self.aside(ordered, waiting)).collect()
    }

    fn aside(&mut self, ordered: bool, (key, waiting): (Key, Waiting<Arc<Entry>>)) -> Aside {
        let Waiting { job: entry, failures, first_attempt_at, .. } = waiting;
        if let Some(held) = self.partitions.get_mut(&entry.place.partition) {
            held.put_aside(entry.place.log, ordered.then_some(&entry.job.lane));
        }
        let due = (!ordered).then_some(key.0);
        let past = Past::new(due, failures, first_attempt_at, entry.attempts.clone());
        Aside { entry, past }
    }

    /// Which logs are to be read and which aren't, as far as that has changed.
    pub(in super::super) fn flow(&mut self, may_read: impl Fn(i32) -> bool) -> Vec<(i32, Log, bool)> {
        let (window, bytes) = (self.window, self.bytes());
        let mut changed = Vec::new();
        for (partition, held) in &mut self.partitions {
            let waits_for_retry = !held.knows_what_is_aside();
            let mut retry_is_full = false;
            for log in [Log::Retry, Log::Events] {
                let reading = held.reading_mut(log);
                let jobs = reading.offsets.unsettled();
                // Once it is paused, a quarter must be free before it goes on: each turn costs a request.
                let (most_jobs, most_bytes) = match reading.is_paused {
                    true => (window.jobs.saturating_mul(3) / 4, window.bytes.saturating_mul(3) / 4),
                    false => (window.jobs, window.bytes),
                };
                let is_full = jobs >= most_jobs.max(1) || (bytes >= most_bytes.max(1) && jobs > 0);
                let waits = log == Log::Events && waits_for_retry && !retry_is_full;
                retry_is_full = is_full;
                let pause = is_full || waits || !may_read(*partition);
                if std::mem::replace(&mut reading.is_paused, pause) != pause {
                    changed.push((*partition, log, pause));
                }
            }
        }
        changed
    }

    /// Bytes of the bodies that are held.
    pub(super) fn bytes(&self) -> usize {
        self.logs().fold(0, |sum, (_, _, reading)| sum.saturating_add(reading.bytes))
    }

    fn logs(&self) -> impl Iterator<Item = (i32, Log, &Reading)> {
        self.partitions.iter().flat_map(|(partition, held)| {
            [(*partition, Log::Events, &held.events), (*partition, Log::Retry, &held.retry)]
        })
    }
}

fn stands_still(lane: &LaneView<'_, Arc<Entry>>, now: Timestamp) -> bool {
    let first = lane.near.first_key_value();
    let most = if lane.is_well { IS_SLOW } else { STANDS_STILL };
    lane.is_held_back && first.is_some_and(|(_, first)| after(first.job.read_at, most) <= now)
}

/// Of a lane's jobs in crowded logs those that are to make room: all but `share` where it stands still, and those that
/// aren't due for long.
fn surplus(
    lane: &LaneView<'_, Arc<Entry>>,
    share: usize,
    crowded: &[(i32, Log)],
    now: Timestamp,
) -> Vec<Key> {
    let is_crowded = |entry: &Entry| crowded.contains(&(entry.place.partition, entry.place.log));
    let stands_still = stands_still(lane, now);
    if lane.ordered {
        // Those from events.retry stay, and all before them: others of the lane may follow them there.
        let from_events =
            |waiting: &Waiting<Arc<Entry>>| waiting.job.place.log == Log::Events && is_crowded(&waiting.job);
        let most = if stands_still { lane.near.len().saturating_sub(share) } else { 0 };
        let tail = lane.near.iter().rev().take(most).take_while(|(_, waiting)| from_events(waiting));
        let mut keys: Vec<Key> = tail.map(|(key, _)| *key).collect();
        keys.reverse();
        return keys;
    }
    let was_held = |entry: &Entry| entry.place.log == Log::Events || after(entry.read_at, HELD_FOR) <= now;
    let waiting = lane.near.iter().enumerate();
    let makes_room = waiting.filter(|(index, (key, waiting))| {
        let is_beyond = (stands_still && *index >= share) || key.0 > after(now, LONG);
        is_beyond && is_crowded(&waiting.job) && was_held(&waiting.job)
    });
    makes_room.map(|(_, (key, _))| *key).collect()
}
