//! The in-memory scheduler: which job is next. No clock, no I/O, no locks: the backends bring those.
//!
//! ```text
//! lanes    one Lane State per lane that has jobs: those waiting in order, how many are leased, its throttle
//! idle     what was learnt of lanes that have no jobs just now, the latest 16,384
//! rings    the lanes that may have a job to lease: taken from the front, put back at the end. One ring for
//!          lanes that do well and one for doubtful ones, served in turn. A lane is in each at most once; where
//!          it changed sides since, its entry in the other ring is passed over
//! timers   what becomes due: a retried job (unordered), or a lane that was held back
//! leases   the jobs that are out, until they are settled or a sweep finds that their lease ran out
//! ```

mod lane;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::sync::Arc;

use jiff::Timestamp;
use lru::LruCache;
use slab::Slab;

use self::lane::{Class, LaneState, Rings, Waiting};
use super::throttle::{Room, Throttle};
use super::{Depth, Lease, QueueConfig};
use crate::common::clock::after;
use crate::common::job::{Job, Lane};
use crate::common::retry::{Cause, EndpointState, Verdict};

/// Names one lease for good: its place, and a number that no later lease has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseId {
    slot: usize,
    serial: u64,
}

/// Jobs by lane, and what is due when.
pub struct Lanes {
    config: QueueConfig,
    lanes: HashMap<Lane, LaneState>,
    idle: LruCache<Lane, Throttle>,
    rings: Rings,
    timers: BTreeMap<(Timestamp, u64), Timer>,
    leases: Slab<Leased>,
    /// When to look for leases that ran out, while any are out.
    next_sweep: Option<Timestamp>,
    /// Leases of doubtful lanes.
    doubtful: usize,
    serial: u64,
    ready: usize,
    delayed: usize,
}

/// Lanes without jobs whose throttles are kept.
const IDLE_LANES: NonZeroUsize = NonZeroUsize::MIN.saturating_add(16_383);

/// The share of the free slots, as a divisor, that bounds what one lane holds.
const FREE_PER_HELD: usize = 4;

enum Timer {
    Job(Waiting),
    Lane(Lane),
}

struct Leased {
    waiting: Waiting,
    serial: u64,
    until: Timestamp,
    class: Class,
}

impl Lanes {
    /// An empty scheduler.
    #[must_use]
    pub fn new(config: QueueConfig) -> Self {
        Self {
            config,
            lanes: HashMap::new(),
            idle: LruCache::new(IDLE_LANES),
            rings: Rings::default(),
            timers: BTreeMap::new(),
            leases: Slab::new(),
            next_sweep: None,
            doubtful: 0,
            serial: 0,
            ready: 0,
            delayed: 0,
        }
    }

    /// Adds a new job at the end of its lane.
    pub fn push(&mut self, job: Arc<Job>) {
        self.enqueue(Waiting { job, failures: 0 }, End::Back);
    }

    /// Leases up to `max` jobs that are due at `now`: one lane after the other, one job each time.
    pub fn claim(&mut self, max: usize, now: Timestamp) -> Vec<Lease> {
        self.fire_timers(now);
        self.sweep_leases(now);
        let mut claimed = Vec::new();
        let mut turn = Class::Well;
        // Lanes of each ring that were passed over in a row.
        let (mut passed_well, mut passed_doubtful) = (0_usize, 0_usize);
        while claimed.len() < max {
            let has_turn = |class| match class {
                Class::Well => passed_well < self.rings.well.len(),
                Class::Doubtful => passed_doubtful < self.rings.doubtful.len() && self.has_doubtful_slot(),
            };
            let Some(class) = [turn, turn.other()].into_iter().find(|class| has_turn(*class)) else { break };
            let Some(lane) = self.rings.of(class).pop_front() else { break };
            let Some(state) = self.lanes.get_mut(&lane) else { continue };
            *state.entry(class) = false;
            if state.class() != class {
                self.wake(&lane, now);
                continue;
            }
            turn = class.other();
            match self.turn_of(&lane, now) {
                Turn::Lease => {
                    claimed.extend(self.lease_head(&lane, now));
                    self.put_back(&lane);
                    (passed_well, passed_doubtful) = (0, 0);
                }
                Turn::PassOver => {
                    self.put_back(&lane);
                    match class {
                        Class::Well => passed_well = passed_well.saturating_add(1),
                        Class::Doubtful => passed_doubtful = passed_doubtful.saturating_add(1),
                    }
                }
                Turn::Leave => self.wake(&lane, now),
            }
        }
        claimed
    }

    fn put_back(&mut self, lane: &Lane) {
        if let Some(state) = self.lanes.get_mut(lane) {
            self.rings.put(lane, state);
        }
    }

    /// What a lane in the ring may do now.
    fn turn_of(&self, lane: &Lane, now: Timestamp) -> Turn {
        let Some(state) = self.lanes.get(lane) else { return Turn::Leave };
        let held_back = state.head_due.is_some_and(|due| now < due);
        if state.waiting.is_empty() || held_back || (self.config.ordered && state.leased > 0) {
            return Turn::Leave;
        }
        match state.throttle.room(now) {
            Room::NotBefore(_) => Turn::Leave,
            Room::Upto(limit) if state.leased >= limit => Turn::Leave,
            Room::Upto(_) if self.has_slot_for(state) => Turn::Lease,
            Room::Upto(_) => Turn::PassOver,
        }
    }

    /// However many endpoints hang, one that answers finds a slot: a lane holds no more than a share of what is
    /// still free, so a few that stop answering leave most of it, and all doubtful lanes together hold no more
    /// than half. (The first rule is Choudhury and Hahne's, "Dynamic queue length thresholds for shared-memory
    /// packet switches", 1998.)
    fn has_slot_for(&self, state: &LaneState) -> bool {
        let free = self.config.in_flight.saturating_sub(self.leases.len());
        let held = usize::try_from(state.leased).unwrap_or(usize::MAX);
        free > held.saturating_mul(FREE_PER_HELD)
            && (state.class() == Class::Well || self.has_doubtful_slot())
    }

    fn has_doubtful_slot(&self) -> bool {
        self.doubtful < self.config.in_flight.div_ceil(2)
    }

    fn lease_head(&mut self, lane: &Lane, now: Timestamp) -> Option<Lease> {
        let state = self.lanes.get_mut(lane)?;
        let waiting = state.waiting.pop_front()?;
        let class = state.class();
        state.head_due = None;
        state.leased = state.leased.saturating_add(1);
        self.doubtful = self.doubtful.saturating_add(usize::from(class == Class::Doubtful));
        self.ready = self.ready.saturating_sub(1);
        self.serial = self.serial.wrapping_add(1);
        let (job, attempt) = (Arc::clone(&waiting.job), waiting.failures.saturating_add(1));
        let until = after(now, self.config.lease);
        let slot = self.leases.insert(Leased { waiting, serial: self.serial, until, class });
        self.next_sweep.get_or_insert(until);
        Some(Lease { job, attempt, id: LeaseId { slot, serial: self.serial } })
    }

    /// Takes a lease back with its verdict. `None` where it was settled before or ran out, which is harmless:
    /// a job whose lease ran out is delivered again. Otherwise its job, dead with a cause or done.
    pub fn settle(&mut self, lease: &Lease, verdict: Verdict, now: Timestamp) -> Option<Settled> {
        let waiting = self.take_lease(lease.id)?;
        let lane = waiting.job.lane.clone();
        let policy = &self.config.retry;
        if let Some(state) = self.lanes.get_mut(&lane) {
            state.leased = state.leased.saturating_sub(1);
            match &verdict {
                Verdict::Done => state.throttle.succeeded(),
                // No request was sent, so nothing was learnt of the endpoint.
                Verdict::Dead { cause: Cause::Refused(_) }
                | Verdict::Retry { endpoint: EndpointState::Unknown, .. } => {}
                Verdict::Retry { at, endpoint: EndpointState::Paused } => state.throttle.pause(*at),
                Verdict::Retry { .. } | Verdict::Dead { .. } => state.throttle.failed(now, policy),
            }
        }
        let settled = match verdict {
            Verdict::Done => Settled::Done(waiting.job),
            Verdict::Dead { cause } => Settled::Dead(waiting.job, cause),
            Verdict::Retry { at, .. } => {
                self.retry(Waiting { failures: waiting.failures.saturating_add(1), ..waiting }, at);
                Settled::Retried
            }
        };
        self.wake(&lane, now);
        Some(settled)
    }

    fn retry(&mut self, waiting: Waiting, at: Timestamp) {
        let lane = waiting.job.lane.clone();
        let Some(state) = self.lanes.get_mut(&lane) else { return };
        if self.config.ordered {
            state.head_due = Some(at);
            state.waiting.push_front(waiting);
            self.ready = self.ready.saturating_add(1);
        } else {
            state.aside = state.aside.saturating_add(1);
            self.delayed = self.delayed.saturating_add(1);
            self.set_timer(at, Timer::Job(waiting));
        }
    }

    /// Puts a lane into the ring, or sets the timer that will, or forgets it where it has no jobs. A lane that
    /// has as many leases as it may is woken again when one is settled.
    fn wake(&mut self, lane: &Lane, now: Timestamp) {
        let ordered = self.config.ordered;
        let Some(state) = self.lanes.get_mut(lane) else { return };
        if state.is_empty() && !state.in_well && !state.in_doubtful {
            if let Some((lane, state)) = self.lanes.remove_entry(lane) {
                self.idle.put(lane, state.throttle);
            }
            return;
        }
        if state.waiting.is_empty() {
            return;
        }
        let (limit, throttled_until) = match state.throttle.room(now) {
            Room::NotBefore(time) => (1, Some(time)),
            Room::Upto(limit) => (limit, None),
        };
        if state.leased >= if ordered { 1 } else { limit } {
            return;
        }
        match state.head_due.max(throttled_until) {
            Some(time) if now < time => {
                if !std::mem::replace(&mut state.has_timer, true) {
                    self.set_timer(time, Timer::Lane(lane.clone()));
                }
            }
            _ => self.rings.put(lane, state),
        }
    }

    fn enqueue(&mut self, waiting: Waiting, end: End) {
        let most = self.config.lane_in_flight;
        let lane = waiting.job.lane.clone();
        let idle = &mut self.idle;
        let state = self
            .lanes
            .entry(lane.clone())
            .or_insert_with(|| LaneState::new(idle.pop(&lane).unwrap_or_else(|| Throttle::new(most))));
        match end {
            End::Back => state.waiting.push_back(waiting),
            End::Front => state.waiting.push_front(waiting),
        }
        self.ready = self.ready.saturating_add(1);
        if !state.has_timer {
            self.rings.put(&lane, state);
        }
    }

    fn set_timer(&mut self, at: Timestamp, timer: Timer) {
        self.serial = self.serial.wrapping_add(1);
        self.timers.insert((at, self.serial), timer);
    }

    fn fire_timers(&mut self, now: Timestamp) {
        while let Some(due) = self.timers.first_entry().filter(|entry| entry.key().0 <= now) {
            match due.remove() {
                Timer::Lane(lane) => {
                    if let Some(state) = self.lanes.get_mut(&lane) {
                        state.has_timer = false;
                    }
                    self.wake(&lane, now);
                }
                Timer::Job(waiting) => {
                    if let Some(state) = self.lanes.get_mut(&waiting.job.lane) {
                        state.aside = state.aside.saturating_sub(1);
                    }
                    self.delayed = self.delayed.saturating_sub(1);
                    self.enqueue(waiting, End::Back);
                }
            }
        }
    }

    /// Takes back the leases that ran out. It looks four times in a lease's length, so one may last a quarter
    /// longer; there are never more than `in_flight` to look at.
    fn sweep_leases(&mut self, now: Timestamp) {
        if self.next_sweep.is_none_or(|at| now < at) {
            return;
        }
        let ran_out: Vec<LeaseId> = self
            .leases
            .iter()
            .filter(|(_, leased)| leased.until <= now)
            .map(|(slot, leased)| LeaseId { slot, serial: leased.serial })
            .collect();
        for waiting in ran_out.into_iter().filter_map(|id| self.take_lease(id)).collect::<Vec<_>>() {
            if let Some(state) = self.lanes.get_mut(&waiting.job.lane) {
                state.leased = state.leased.saturating_sub(1);
            }
            // Counted as an attempt: what breaks its attempts off must not do so for ever.
            let failures = waiting.failures.saturating_add(1);
            self.enqueue(Waiting { failures, ..waiting }, End::Front);
        }
        self.next_sweep = (!self.leases.is_empty()).then(|| after(now, self.config.lease.div_f64(4.0)));
    }

    fn take_lease(&mut self, id: LeaseId) -> Option<Waiting> {
        self.leases.get(id.slot).filter(|leased| leased.serial == id.serial)?;
        let leased = self.leases.try_remove(id.slot)?;
        self.doubtful = self.doubtful.saturating_sub(usize::from(leased.class == Class::Doubtful));
        Some(leased.waiting)
    }

    /// When something becomes due that isn't now, if anything does.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        let timer = self.timers.keys().next().map(|(at, _)| *at);
        timer.into_iter().chain(self.next_sweep).min()
    }

    /// Jobs by state; `dead` is for the backend to add.
    #[must_use]
    pub fn depth(&self) -> Depth {
        let count = |jobs: usize| u64::try_from(jobs).unwrap_or(u64::MAX);
        Depth {
            ready: count(self.ready),
            delayed: count(self.delayed),
            leased: count(self.leases.len()),
            dead: 0,
        }
    }

    /// Every job that isn't settled.
    pub fn jobs(&self) -> impl Iterator<Item = &Arc<Job>> {
        let waiting = self.lanes.values().flat_map(|state| &state.waiting);
        let aside = self.timers.values().filter_map(|timer| match timer {
            Timer::Job(waiting) => Some(waiting),
            Timer::Lane(_) => None,
        });
        let leased = self.leases.iter().map(|(_, leased)| &leased.waiting);
        waiting.chain(aside).chain(leased).map(|waiting| &waiting.job)
    }
}

enum End {
    Back,
    Front,
}

enum Turn {
    Lease,
    PassOver,
    Leave,
}

/// What came of settling a lease.
#[derive(Debug)]
pub enum Settled {
    /// The job is gone.
    Done(Arc<Job>),
    /// The job waits for its retry.
    Retried,
    /// The job is the caller's to bury.
    Dead(Arc<Job>, Cause),
}
