//! The in-memory scheduler: which job is next. No clock, no I/O, no locks: the backends bring those.
//!
//! ```text
//! lanes    one Lane State per lane that has jobs: those waiting in order, how many are leased, its throttle
//! idle     what was learnt of lanes that have no jobs just now, the latest 16,384
//! rings    the lanes that may have a job to lease: taken from the front, put back at the end. One ring each for
//!          lanes that do well, new ones and failing ones, served in turn. A lane is in each at most once; where
//!          its standing changed since, its entry in the other ring is passed over
//! timers   what becomes due: a retried job (unordered), or a lane that was held back
//! leases   the jobs that are out, until they are settled or a sweep finds that their lease ran out
//! ```

mod lane;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::Arc;

use jiff::Timestamp;
use lru::LruCache;
use slab::Slab;

use self::lane::{LaneState, PerStanding, Rings, Waiting, turns_from};
use super::throttle::{Room, Standing, Throttle};
use super::{Depth, Lease, LeaseId, QueueConfig};
use crate::common::clock::after;
use crate::common::job::{Job, Lane};
use crate::common::retry::{Cause, EndpointState, Verdict};

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
    /// Leases by the standing of their lanes when they were given out.
    held: PerStanding<usize>,
    /// Whose turn it is: kept, since claims may be for one job each.
    turn: Standing,
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
    standing: Standing,
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
            held: PerStanding::default(),
            turn: Standing::Well,
            serial: 0,
            ready: 0,
            delayed: 0,
        }
    }

    /// Adds a new job at the end of its lane.
    pub fn push(&mut self, job: Arc<Job>) {
        let (lane, ordered) = (job.lane.clone(), self.config.ordered || job.ordered);
        self.enqueue(Waiting { job, failures: 0, first_attempt_at: None }, End::Back);
        // By new jobs alone: one that failed before an endpoint was set to keep order mustn't take that back.
        if let Some(state) = self.lanes.get_mut(&lane) {
            state.ordered = ordered;
        }
    }

    /// Leases up to `max` jobs that are due at `now`: one lane after the other, one job each time.
    pub fn claim(&mut self, max: usize, now: Timestamp) -> Vec<Lease> {
        self.fire_timers(now);
        self.sweep_leases(now);
        let mut claimed = Vec::new();
        // Lanes of each ring that were passed over in a row.
        let mut passed_over = PerStanding::<usize>::default();
        while claimed.len() < max {
            let has_turn = |standing: &Standing| {
                passed_over.of(*standing) < &self.rings.of(*standing).len() && self.has_slot_for(*standing)
            };
            let Some(standing) = turns_from(self.turn).into_iter().find(has_turn) else { break };
            let Some(lane) = self.rings.of_mut(standing).pop_front() else { break };
            let Some(state) = self.lanes.get_mut(&lane) else { continue };
            *state.in_ring.of_mut(standing) = false;
            if state.throttle.standing() != standing {
                self.wake(&lane, now);
                continue;
            }
            self.turn = turns_from(standing)[1];
            match self.turn_of(&lane, now) {
                Turn::Lease => {
                    claimed.extend(self.lease_head(&lane, now));
                    self.put_back(&lane);
                    passed_over = PerStanding::default();
                }
                Turn::PassOver => {
                    self.put_back(&lane);
                    let passed = passed_over.of_mut(standing);
                    *passed = passed.saturating_add(1);
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
        if state.waiting.is_empty() || held_back || (state.ordered && state.leased > 0) {
            return Turn::Leave;
        }
        match state.throttle.room(now) {
            Room::NotBefore(_) => Turn::Leave,
            Room::Upto(limit) if state.leased >= limit => Turn::Leave,
            Room::Upto(_) if self.leaves_slots(state) => Turn::Lease,
            Room::Upto(_) => Turn::PassOver,
        }
    }

    /// A lane holds no more than a share of what is still free, so a few that stop answering leave most of it.
    /// (Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet switches", 1998.)
    fn leaves_slots(&self, state: &LaneState) -> bool {
        let free = self.config.in_flight.saturating_sub(self.leases.len());
        let held = usize::try_from(state.leased).unwrap_or(usize::MAX);
        free > held.saturating_mul(FREE_PER_HELD)
    }

    /// However many endpoints hang, one that answers finds a slot: lanes that fail hold no more than half of them,
    /// and together with new ones, of which any may hang as well, no more than three quarters.
    fn has_slot_for(&self, standing: Standing) -> bool {
        let slots = self.config.in_flight;
        let failing = *self.held.of(Standing::Failing);
        let unproven = failing.saturating_add(*self.held.of(Standing::New));
        let has_unproven = unproven < slots.saturating_sub(slots / 4);
        match standing {
            Standing::Well => true,
            Standing::New => has_unproven,
            Standing::Failing => has_unproven && failing < slots.div_ceil(2),
        }
    }

    fn lease_head(&mut self, lane: &Lane, now: Timestamp) -> Option<Lease> {
        let state = self.lanes.get_mut(lane)?;
        let mut waiting = state.waiting.pop_front()?;
        let ordered = state.ordered;
        let first_attempt_at = *waiting.first_attempt_at.get_or_insert(now);
        let standing = state.throttle.standing();
        state.head_due = None;
        state.leased = state.leased.saturating_add(1);
        let held = self.held.of_mut(standing);
        *held = held.saturating_add(1);
        self.ready = self.ready.saturating_sub(1);
        self.serial = self.serial.wrapping_add(1);
        let (job, attempt) = (Arc::clone(&waiting.job), waiting.failures.saturating_add(1));
        let until = after(now, self.config.lease);
        let slot = self.leases.insert(Leased { waiting, serial: self.serial, until, standing });
        self.next_sweep.get_or_insert(until);
        Some(Lease { job, attempt, first_attempt_at, ordered, id: LeaseId { slot, serial: self.serial } })
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
                Verdict::Dropped
                | Verdict::Dead {
                    cause: Cause::Refused(_) | Cause::Disabled | Cause::Interrupted | Cause::Damaged(_),
                }
                | Verdict::Retry { endpoint: EndpointState::Unknown, .. } => {}
                Verdict::Retry { at, endpoint: EndpointState::Paused } => state.throttle.pause(*at),
                Verdict::Retry { .. } | Verdict::Dead { .. } => state.throttle.failed(now, policy),
            }
        }
        let settled = match verdict {
            Verdict::Done | Verdict::Dropped => Settled::Done,
            Verdict::Dead { cause } => Settled::Dead(cause),
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
        if state.ordered {
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
        let Some(state) = self.lanes.get_mut(lane) else { return };
        if state.is_empty() && !state.is_in_any_ring() {
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
        if state.leased >= if state.ordered { 1 } else { limit } {
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

    /// Forgets what was learnt of the endpoints behind `lanes`, since they have changed: their jobs are due at once.
    pub fn release(&mut self, lanes: &HashSet<Lane>, now: Timestamp) {
        let of_lanes = |_: &(Timestamp, u64), timer: &mut Timer| match timer {
            Timer::Lane(lane) => lanes.contains(lane),
            Timer::Job(waiting) => lanes.contains(&waiting.job.lane),
        };
        let timers: Vec<Timer> = self.timers.extract_if(.., of_lanes).map(|(_, timer)| timer).collect();
        for lane in lanes {
            self.idle.pop(lane);
            if let Some(state) = self.lanes.get_mut(lane) {
                state.throttle = Throttle::new(self.config.lane_in_flight);
                (state.head_due, state.has_timer) = (None, false);
            }
        }
        for timer in timers {
            if let Timer::Job(waiting) = timer {
                self.end_wait(waiting);
            }
        }
        for lane in lanes {
            self.wake(lane, now);
        }
    }

    /// A job that waited aside is due.
    fn end_wait(&mut self, waiting: Waiting) {
        if let Some(state) = self.lanes.get_mut(&waiting.job.lane) {
            state.aside = state.aside.saturating_sub(1);
        }
        self.delayed = self.delayed.saturating_sub(1);
        self.enqueue(waiting, End::Back);
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
                Timer::Job(waiting) => self.end_wait(waiting),
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
        let held = self.held.of_mut(leased.standing);
        *held = held.saturating_sub(1);
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
    Done,
    /// The job waits for its retry.
    Retried,
    /// The job is the caller's to bury.
    Dead(Cause),
}
