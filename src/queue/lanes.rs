//! The scheduler: which job is next. No clock, no I/O, no locks: the backends bring those.
//!
//! ```text
//! lanes    one Lane State per lane that has jobs: those whose turn is near, how many are leased, its throttle
//! idle     what was learnt of lanes that have no jobs just now, the latest 16,384
//! rings    the lanes that may have a job to lease: taken from the front, put back at the end. One ring each for
//!          lanes that do well, new ones and failing ones, served in turn. A lane is in each at most once; where
//!          its health changed since, its entry in the other ring is passed over
//! timers   when a lane is looked at again: its first job is due, or it isn't held back any more
//! leases   the jobs that are out, until they are settled or a sweep finds that their lease ran out
//! unread   lanes whose next jobs the backend is to read: memory holds no more than a window of each
//! ```
//!
//! `J` is what the backend keeps of a job while it waits.

mod lane;
#[cfg(test)]
mod tests;
pub mod window;

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::time::Duration;

use jiff::Timestamp;
use lru::LruCache;
use slab::Slab;

use self::lane::{LaneState, PerHealth, Rings, turns_from};
use self::window::{Key, Waiting, Window};
use super::throttle::{Allowance, EndpointHealth, Throttle};
use super::{Depth, LeaseId, QueueConfig};
use crate::common::clock::after;
use crate::common::job::Lane;
use crate::common::retry::{Cause, EndpointState, Verdict};

/// Jobs by lane, and what is due when.
pub struct Lanes<J> {
    config: QueueConfig,
    /// Jobs of one lane that are held in memory.
    window: usize,
    lanes: HashMap<Lane, LaneState<J>>,
    idle: LruCache<Lane, Throttle>,
    rings: Rings,
    timers: BTreeMap<(Timestamp, u64), Lane>,
    leases: Slab<Leased<J>>,
    unread: Vec<Lane>,
    /// When to look for leases that ran out, while any are out.
    next_sweep: Option<Timestamp>,
    /// Leases by the health of their lanes when they were given out.
    held: PerHealth<usize>,
    /// Whose turn it is: kept, since claims may be for one job each.
    turn: EndpointHealth,
    serial: u64,
}

/// Lanes without jobs whose throttles are kept.
const IDLE_LANES: NonZeroUsize = NonZeroUsize::MIN.saturating_add(16_383);

/// The share of the free slots, as a divisor, that bounds what one lane holds.
const FREE_PER_HELD: usize = 4;

/// How long a lane that couldn't be read waits before it is tried again.
const READ_AGAIN: Duration = Duration::from_secs(1);

struct Leased<J> {
    lane: Lane,
    key: Key,
    waiting: Waiting<J>,
    serial: u64,
    until: Timestamp,
    health: EndpointHealth,
}

/// A job that was leased.
#[derive(Debug)]
pub struct Picked<J> {
    /// What it is settled by.
    pub(super) id: LeaseId,
    /// Where it stood in its lane.
    pub key: Key,
    /// What the backend has of it.
    pub job: J,
    /// Which attempt this is, counted from 1.
    pub attempt: u32,
    /// When the first was made: now, if this is it.
    pub first_attempt_at: Timestamp,
    /// Whether those behind it wait for it.
    pub ordered: bool,
}

/// A lane, as it is looked at from outside.
pub(super) struct LaneView<'a, J> {
    /// Whether each job waits for the one before it.
    pub(super) ordered: bool,
    /// Whether its endpoint takes no more just now: it has as many attempts as it may, or is left alone, or the first job
    /// of an ordered one waits for its retry.
    pub(super) is_throttled: bool,
    /// Whether its endpoint took the last job that it was sent.
    pub(super) is_healthy: bool,
    /// Its jobs that wait, the next one first.
    pub(super) near: &'a BTreeMap<Key, Waiting<J>>,
}

impl<'a, J> LaneView<'a, J> {
    fn of(state: &'a LaneState<J>, now: Timestamp) -> Self {
        let waits_for_head = state.ordered && state.window.head_due().is_some_and(|due| due > now);
        let is_throttled = match state.throttle.allowance(now) {
            _ if waits_for_head => true,
            Allowance::NotBefore(_) => true,
            Allowance::UpTo(limit) => state.leased >= if state.ordered { 1 } else { limit },
        };
        let is_healthy = state.throttle.health() == EndpointHealth::Healthy;
        Self { ordered: state.ordered, is_throttled, is_healthy, near: state.window.near() }
    }
}

/// How a job that failed waits for its next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Where it stands in its lane.
    pub key: Key,
    /// Ordered: when it is tried again.
    pub held_until: Option<Timestamp>,
    /// Attempts that have failed.
    pub failures: u32,
    /// When the first was made.
    pub first_attempt_at: Option<Timestamp>,
}

impl<J: Clone> Lanes<J> {
    /// An empty scheduler that holds `window` jobs of each lane.
    #[must_use]
    pub fn new(config: QueueConfig, window: usize) -> Self {
        Self {
            config,
            window,
            lanes: HashMap::new(),
            idle: LruCache::new(IDLE_LANES),
            rings: Rings::default(),
            timers: BTreeMap::new(),
            leases: Slab::new(),
            unread: Vec::new(),
            next_sweep: None,
            held: PerHealth::default(),
            turn: EndpointHealth::Healthy,
            serial: 0,
        }
    }

    /// Adds a lane that the backend has `jobs` of, from `first` on.
    pub fn add_unread(&mut self, lane: &Lane, jobs: u64, first: Key, ordered: bool, now: Timestamp) {
        let window = Window::unread(self.window, jobs, first);
        let mut state = LaneState::new(window, Throttle::new(self.config.lane_in_flight));
        state.ordered = self.config.ordered || ordered;
        self.lanes.insert(lane.clone(), state);
        self.wake(lane, now);
    }

    /// Adds a job to its lane. `ordered` says whether the lane keeps order from now on, unless all do.
    pub fn push(&mut self, lane: &Lane, ordered: bool, key: Key, job: J, now: Timestamp) {
        let ordered = self.config.ordered || ordered;
        let state = self.state_of(lane);
        // By new jobs alone: one that failed before an endpoint was set to keep order mustn't take that back.
        state.ordered = ordered;
        state.window.insert(key, Waiting::new(job));
        self.wake(lane, now);
    }

    /// Adds a job that may have been tried before. That the lane keeps order it can't take back.
    pub fn push_again(&mut self, lane: &Lane, ordered: bool, key: Key, waiting: Waiting<J>, now: Timestamp) {
        let ordered = self.config.ordered || ordered;
        let state = self.state_of(lane);
        state.ordered |= ordered;
        state.window.insert(key, waiting);
        self.wake(lane, now);
    }

    fn state_of(&mut self, lane: &Lane) -> &mut LaneState<J> {
        let (most, window, idle) = (self.config.lane_in_flight, self.window, &mut self.idle);
        self.lanes.entry(lane.clone()).or_insert_with(|| {
            LaneState::new(Window::new(window), idle.pop(lane).unwrap_or_else(|| Throttle::new(most)))
        })
    }

    /// Leases up to `max` jobs that are due at `now`: one lane after the other, one job each time.
    pub fn claim(&mut self, max: usize, now: Timestamp) -> Vec<Picked<J>> {
        self.fire_timers(now);
        self.sweep_leases(now);
        let mut claimed = Vec::new();
        // Lanes of each ring that were passed over in a row.
        let mut passed_over = PerHealth::<usize>::default();
        while claimed.len() < max {
            let has_turn = |health: &EndpointHealth| {
                passed_over.of(*health) < &self.rings.of(*health).len() && self.has_slot_for(*health)
            };
            let Some(health) = turns_from(self.turn).into_iter().find(has_turn) else { break };
            let Some(lane) = self.rings.of_mut(health).pop_front() else { break };
            let Some(state) = self.lanes.get_mut(&lane) else { continue };
            *state.in_ring.of_mut(health) = false;
            if state.throttle.health() != health {
                self.wake(&lane, now);
                continue;
            }
            self.turn = turns_from(health)[1];
            match self.turn_of(&lane, now) {
                Turn::Lease => {
                    let Some(picked) = self.lease_head(&lane, now) else { continue };
                    claimed.push(picked);
                    self.put_back(&lane);
                    passed_over = PerHealth::default();
                }
                Turn::PassOver => {
                    self.put_back(&lane);
                    let passed = passed_over.of_mut(health);
                    *passed = passed.saturating_add(1);
                }
                Turn::Read => self.read(&lane),
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
        let is_due = state.window.head_due().is_some_and(|due| due <= now);
        if !is_due || (state.ordered && state.leased > 0) {
            return Turn::Leave;
        }
        match state.throttle.allowance(now) {
            Allowance::NotBefore(_) => Turn::Leave,
            Allowance::UpTo(limit) if state.leased >= limit => Turn::Leave,
            Allowance::UpTo(_) if state.window.is_unread() => Turn::Read,
            Allowance::UpTo(_) if self.leaves_slots(state) => Turn::Lease,
            Allowance::UpTo(_) => Turn::PassOver,
        }
    }

    /// A lane holds no more than a share of what is still free, so a few that stop answering leave most of it.
    /// (Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet switches", 1998.)
    fn leaves_slots(&self, state: &LaneState<J>) -> bool {
        let free = self.config.in_flight.saturating_sub(self.leases.len());
        let held = usize::try_from(state.leased).unwrap_or(usize::MAX);
        free > held.saturating_mul(FREE_PER_HELD)
    }

    /// However many endpoints hang, one that answers finds a slot: lanes that fail hold no more than half of them,
    /// and together with new ones, of which any may hang as well, no more than three quarters.
    fn has_slot_for(&self, health: EndpointHealth) -> bool {
        let slots = self.config.in_flight;
        let failing = *self.held.of(EndpointHealth::Failing);
        let unproven = failing.saturating_add(*self.held.of(EndpointHealth::New));
        let has_unproven = unproven < slots.saturating_sub(slots / 4);
        match health {
            EndpointHealth::Healthy => true,
            EndpointHealth::New => has_unproven,
            EndpointHealth::Failing => has_unproven && failing < slots.div_ceil(2),
        }
    }

    fn lease_head(&mut self, lane: &Lane, now: Timestamp) -> Option<Picked<J>> {
        let state = self.lanes.get_mut(lane)?;
        let (key, mut waiting) = state.window.pop_first()?;
        let (health, ordered, runs_low) = (state.throttle.health(), state.ordered, state.window.runs_low());
        state.leased = state.leased.saturating_add(1);
        let held = self.held.of_mut(health);
        *held = held.saturating_add(1);
        let serial = self.next_serial();
        let first_attempt_at = *waiting.first_attempt_at.get_or_insert(now);
        let (job, attempt) = (waiting.job.clone(), waiting.failures.saturating_add(1));
        let until = after(now, self.config.lease);
        let slot = self.leases.insert(Leased { lane: lane.clone(), key, waiting, serial, until, health });
        self.next_sweep.get_or_insert(until);
        if runs_low {
            self.read(lane);
        }
        Some(Picked { id: LeaseId { slot, serial }, key, job, attempt, first_attempt_at, ordered })
    }

    /// How the job of a lease waits with that verdict; `None` where it isn't tried again, or the lease was settled or
    /// ran out.
    #[must_use]
    pub(super) fn retry_of(&self, id: LeaseId, verdict: &Verdict) -> Option<Retry> {
        let Verdict::Retry { at, endpoint } = *verdict else { return None };
        let leased = self.leased(id)?;
        let was_asked = endpoint != EndpointState::NotContacted;
        let ordered = self.lanes.get(&leased.lane).is_some_and(|state| state.ordered);
        let (key, held_until) = match ordered {
            true => (leased.key, Some(at)),
            false => ((at, leased.key.1), None),
        };
        let failures = leased.waiting.failures.saturating_add(u32::from(was_asked));
        let first_attempt_at = leased.waiting.first_attempt_at.filter(|_| failures > 0);
        Some(Retry { key, held_until, failures, first_attempt_at })
    }

    /// What the backend has of a leased job; `None` where the lease was settled or ran out.
    #[must_use]
    pub(super) fn job_of(&self, id: LeaseId) -> Option<&J> {
        self.leased(id).map(|leased| &leased.waiting.job)
    }

    /// Where the job of a lease stood in its lane; `None` where the lease was settled or ran out.
    #[must_use]
    pub(super) fn key_of(&self, id: LeaseId) -> Option<Key> {
        self.leased(id).map(|leased| leased.key)
    }

    /// Takes a lease back with its verdict; a job that is retried waits as `job`, in the way that [`Self::retry_of`]
    /// has said. Says whether it was out: it is harmless where it was settled before or ran out, since a job whose
    /// lease ran out is delivered again.
    pub(super) fn settle(
        &mut self,
        id: LeaseId,
        verdict: &Verdict,
        retry: Option<Retry>,
        job: J,
        now: Timestamp,
    ) -> bool {
        let Some(Leased { lane, .. }) = self.take_lease(id) else { return false };
        let policy = &self.config.retry;
        if let Some(state) = self.lanes.get_mut(&lane) {
            state.leased = state.leased.saturating_sub(1);
            learn(&mut state.throttle, verdict, |throttle| throttle.failed(now, policy));
            if let Some(Retry { key, held_until, failures, first_attempt_at }) = retry {
                state.window.insert(key, Waiting { job, failures, first_attempt_at, held_until });
            }
        }
        self.wake(&lane, now);
        true
    }

    /// Gives a lease back as if it hadn't been claimed.
    pub(super) fn unclaim(&mut self, id: LeaseId, now: Timestamp) {
        let Some(Leased { lane, key, waiting, .. }) = self.take_lease(id) else { return };
        if let Some(state) = self.lanes.get_mut(&lane) {
            state.leased = state.leased.saturating_sub(1);
            state.window.insert(key, waiting);
        }
        self.wake(&lane, now);
    }

    /// Puts a lane into the ring, or sets the timer that will, or forgets it where it has no jobs. A lane that
    /// has as many leases as it may is woken again when one is settled, one that is read when it has been.
    fn wake(&mut self, lane: &Lane, now: Timestamp) {
        let Some(state) = self.lanes.get_mut(lane) else { return };
        if state.is_empty() && !state.is_in_any_ring() {
            self.forget(lane);
            return;
        }
        let Some(head_due) = state.window.head_due() else { return };
        if state.loading && state.window.is_unread() {
            return;
        }
        let (limit, throttled_until) = match state.throttle.allowance(now) {
            Allowance::NotBefore(time) => (1, Some(time)),
            Allowance::UpTo(limit) => (limit, None),
        };
        let most = if state.ordered { 1 } else { limit };
        if state.leased >= most {
            return;
        }
        match throttled_until.map_or(head_due, |until| until.max(head_due)) {
            time if now < time => self.set_timer(lane, time),
            _ => self.rings.put(lane, state),
        }
    }

    fn forget(&mut self, lane: &Lane) {
        if let Some((lane, state)) = self.lanes.remove_entry(lane) {
            if let Some(timer) = state.timer {
                self.timers.remove(&timer);
            }
            self.idle.put(lane, state.throttle);
        }
    }

    /// Forgets what was learnt of the endpoints behind `lanes`, since they have changed: their jobs are due at once.
    pub fn release<'a>(&mut self, lanes: impl IntoIterator<Item = &'a Lane>, now: Timestamp) {
        for lane in lanes {
            self.idle.pop(lane);
            if let Some(state) = self.lanes.get_mut(lane) {
                state.throttle = Throttle::new(self.config.lane_in_flight);
                state.window.release(now);
            }
            for (_, leased) in self.leases.iter_mut().filter(|(_, leased)| leased.lane == *lane) {
                leased.key.0 = leased.key.0.min(now);
            }
            self.wake(lane, now);
        }
    }

    /// Lets go of the jobs that `is_gone` tells, waiting or leased: they are no longer this queue's.
    pub(super) fn remove(&mut self, is_gone: impl Fn(&J) -> bool, now: Timestamp) {
        let leased = self.leases.iter().filter(|(_, leased)| is_gone(&leased.waiting.job));
        let ids: Vec<_> = leased.map(|(slot, leased)| LeaseId { slot, serial: leased.serial }).collect();
        for id in ids {
            let Some(Leased { lane, .. }) = self.take_lease(id) else { continue };
            if let Some(state) = self.lanes.get_mut(&lane) {
                state.leased = state.leased.saturating_sub(1);
            }
        }
        for state in self.lanes.values_mut() {
            state.window.remove(|waiting| is_gone(&waiting.job));
        }
        self.wake_all(now);
    }

    /// Every lane that has jobs.
    pub(super) fn views(&self, now: Timestamp) -> impl Iterator<Item = LaneView<'_, J>> {
        self.lanes.values().map(move |state| LaneView::of(state, now))
    }

    /// Takes jobs that wait out of the queue, of each lane in order: those that `chosen` picks.
    pub(super) fn take(
        &mut self,
        chosen: impl Fn(&LaneView<'_, J>) -> Vec<Key>,
        now: Timestamp,
    ) -> Vec<(bool, (Key, Waiting<J>))> {
        let mut taken = Vec::new();
        for state in self.lanes.values_mut() {
            let keys = chosen(&LaneView::of(state, now)).into_iter();
            taken.extend(keys.filter_map(|key| Some((state.ordered, (key, state.window.take(key)?)))));
        }
        if !taken.is_empty() {
            self.wake_all(now);
        }
        taken
    }

    fn wake_all(&mut self, now: Timestamp) {
        for lane in self.lanes.keys().cloned().collect::<Vec<_>>() {
            self.wake(&lane, now);
        }
    }

    /// How many leases are out of the jobs that `is_meant` tells.
    #[must_use]
    pub(super) fn leased_of(&self, is_meant: impl Fn(&J) -> bool) -> usize {
        self.leases.iter().filter(|(_, leased)| is_meant(&leased.waiting.job)).count()
    }

    /// Marks a lane as one to be read.
    fn read(&mut self, lane: &Lane) {
        if let Some(state) = self.lanes.get_mut(lane)
            && !std::mem::replace(&mut state.loading, true)
        {
            self.unread.push(lane.clone());
        }
    }

    /// The lanes that are to be read.
    pub fn take_unread(&mut self) -> Vec<Lane> {
        std::mem::take(&mut self.unread)
    }

    /// Where a lane is to be read on; `None` where nothing of it is unread.
    #[must_use]
    pub fn horizon(&self, lane: &Lane) -> Option<Key> {
        self.lanes.get(lane)?.window.horizon()
    }

    /// Takes in what was read of a lane from `from`, its horizon at that time, in order; `is_all` where it ends with
    /// that. Where leases that were given back have moved the horizon meanwhile, it is to be read again.
    pub fn fill(
        &mut self,
        lane: &Lane,
        from: Option<Key>,
        read: Vec<(Key, Waiting<J>)>,
        is_all: bool,
        now: Timestamp,
    ) {
        let Some(state) = self.lanes.get_mut(lane) else { return };
        state.loading = false;
        let leases = &self.leases;
        if state.window.horizon() == from {
            state.window.fill(read, is_all, |key| leases.iter().any(|(_, leased)| leased.key.1 == key.1));
        }
        self.wake(lane, now);
    }

    /// A lane couldn't be read: it is tried again in a second.
    pub fn read_failed(&mut self, lane: &Lane, now: Timestamp) {
        if let Some(state) = self.lanes.get_mut(lane) {
            state.loading = false;
            self.set_timer(lane, after(now, READ_AGAIN));
        }
    }

    fn next_serial(&mut self) -> u64 {
        self.serial = self.serial.wrapping_add(1);
        self.serial
    }

    /// Wakes the lane at `at`, unless it is woken earlier.
    fn set_timer(&mut self, lane: &Lane, at: Timestamp) {
        let timer = (at, self.next_serial());
        let Some(state) = self.lanes.get_mut(lane) else { return };
        if state.timer.is_some_and(|(earlier, _)| earlier <= at) {
            return;
        }
        if let Some(later) = state.timer.replace(timer) {
            self.timers.remove(&later);
        }
        self.timers.insert(timer, lane.clone());
    }

    fn fire_timers(&mut self, now: Timestamp) {
        while let Some(due) = self.timers.first_entry().filter(|entry| entry.key().0 <= now) {
            let lane = due.remove();
            if let Some(state) = self.lanes.get_mut(&lane) {
                state.timer = None;
            }
            self.wake(&lane, now);
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
        for id in ran_out {
            if let Some(leased) = self.leases.get_mut(id.slot) {
                // Counted as an attempt: what breaks its attempts off must not do so for ever.
                leased.waiting.failures = leased.waiting.failures.saturating_add(1);
            }
            self.unclaim(id, now);
        }
        self.next_sweep = (!self.leases.is_empty()).then(|| after(now, self.config.lease.div_f64(4.0)));
    }

    fn leased(&self, id: LeaseId) -> Option<&Leased<J>> {
        self.leases.get(id.slot).filter(|leased| leased.serial == id.serial)
    }

    fn take_lease(&mut self, id: LeaseId) -> Option<Leased<J>> {
        self.leased(id)?;
        let leased = self.leases.try_remove(id.slot)?;
        let held = self.held.of_mut(leased.health);
        *held = held.saturating_sub(1);
        Some(leased)
    }

    /// When something becomes due that isn't now, if anything does.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        let timer = self.timers.keys().next().map(|(at, _)| *at);
        timer.into_iter().chain(self.next_sweep).min()
    }

    /// Jobs in memory by state; `dead` is for the backend to add.
    #[must_use]
    pub fn depth(&self, now: Timestamp) -> Depth {
        let count = |jobs: usize| u64::try_from(jobs).unwrap_or(u64::MAX);
        let add = |(ready, delayed): (u64, u64), state: &LaneState<J>| {
            let (more_ready, more_delayed) = state.window.ready_and_delayed(now);
            (ready.saturating_add(count(more_ready)), delayed.saturating_add(count(more_delayed)))
        };
        let (ready, delayed) = self.lanes.values().fold((0, 0), add);
        Depth { ready, delayed, leased: self.leased_count(), dead: 0 }
    }

    /// How many leases are out.
    #[must_use]
    pub fn leased_count(&self) -> u64 {
        u64::try_from(self.leases.len()).unwrap_or(u64::MAX)
    }

    /// Every job in memory that isn't settled.
    pub fn jobs(&self) -> impl Iterator<Item = &J> {
        let waiting = self.lanes.values().flat_map(|state| state.window.near().values());
        let leased = self.leases.iter().map(|(_, leased)| &leased.waiting);
        waiting.chain(leased).map(|waiting| &waiting.job)
    }
}

/// What a verdict says of the endpoint.
fn learn(throttle: &mut Throttle, verdict: &Verdict, failed: impl FnOnce(&mut Throttle)) {
    match verdict {
        Verdict::Done => throttle.succeeded(),
        Verdict::Retry { at, endpoint: EndpointState::Paused } => throttle.pause(*at),
        // No request was sent, so nothing was learnt.
        Verdict::Dropped => {}
        Verdict::Retry { endpoint: EndpointState::Unknown | EndpointState::NotContacted, .. } => {}
        Verdict::Dead {
            cause: Cause::Refused(_) | Cause::Disabled | Cause::Interrupted | Cause::Damaged(_),
        } => {}
        Verdict::Retry { endpoint: EndpointState::Failed, .. }
        | Verdict::Dead { cause: Cause::Exhausted(_) | Cause::Blocked(_) | Cause::Gone } => failed(throttle),
    }
}

enum Turn {
    Lease,
    PassOver,
    Read,
    Leave,
}
