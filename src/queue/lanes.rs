//! The scheduler: decides which job is next. It has no clock, no I/O and no locks; the backends bring those.
//!
//! ```text
//! lanes             one LaneState per lane that has jobs: its next jobs, its number of leases, its throttle
//! idle              throttles of the lanes without jobs, the latest 16,384
//! run_queues        lanes that may have a job to lease, served round-robin: taken from the front, put back at the end.
//!                   One queue each for lanes of healthy, new and failing endpoints, and these three take turns. A
//!                   lane is in each queue at most once. After its health has changed, its place in the old queue is
//!                   skipped
//! timers            when a lane is looked at again: its first job is due, or its throttle allows more
//! leases            leased jobs, until they are settled or a sweep finds their leases expired
//! lanes_to_load     lanes whose next jobs the backend should load: memory holds a window of each lane
//! ```
//!
//! `J` is the form in which the backend keeps a waiting job.
//!
//! `lane` is one lane and `window` its jobs, `run_queue` the run queues, `lease` the leases, `wake` the timers,
//! `load` the loading of windows, and `bulk` changes many lanes at once.

mod bulk;
mod lane;
mod lease;
mod load;
mod per_health;
mod run_queue;
#[cfg(test)]
mod tests;
mod wake;
pub mod window;

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;

use jiff::Timestamp;
use lru::LruCache;
use slab::Slab;

pub(super) use self::lane::LaneView;
use self::lane::{LaneState, new_throttle};
use self::lease::ActiveLease;
pub use self::lease::{LeasedJob, ScheduledRetry};
use self::per_health::{PerHealth, round_robin_from};
use self::run_queue::RunQueues;
use self::window::{LanePosition, WaitingJob, Window};
use super::throttle::{Allowance, EndpointHealth, Throttle};
use super::{Depth, QueueConfig};
use crate::common::job::Lane;

/// The jobs of all lanes, and when each is due.
pub struct Lanes<J> {
    config: QueueConfig,
    /// Maximum number of waiting jobs of one lane in memory.
    window: usize,
    lanes: HashMap<Lane, LaneState<J>>,
    idle: LruCache<Lane, Throttle>,
    run_queues: RunQueues,
    timers: BTreeMap<(Timestamp, u64), Lane>,
    leases: Slab<ActiveLease<J>>,
    lanes_to_load: Vec<Lane>,
    /// Time of the next look for expired leases; `None` while nothing is leased.
    next_sweep: Option<Timestamp>,
    /// Number of leases by the health that the endpoint had when the job was leased.
    leases_by_health: PerHealth<usize>,
    /// The run queue that is served next. It outlives a claim, because each claim may be for one job.
    next_health: EndpointHealth,
    serial: u64,
}

/// Number of lanes without jobs whose throttles are kept.
const IDLE_LANES: NonZeroUsize = NonZeroUsize::MIN.saturating_add(16_383);

/// Free slots that must exist for each lease that a lane already has.
pub(crate) const FREE_SLOTS_PER_LEASE: usize = 4;

/// Fraction of the slots, as a divisor, that only healthy endpoints may use.
pub(crate) const HEALTHY_SLOTS_DIVISOR: usize = 4;

/// Fraction of the slots, as a divisor, that failing endpoints may use.
pub(crate) const FAILING_SLOTS_DIVISOR: usize = 2;

/// Next step for a lane at the front of its run queue.
enum LaneAction {
    /// Leases its first job.
    Lease,
    /// Puts it back at the end: it has its share of the slots.
    Skip,
    /// Leaves it out until the backend has loaded its first job.
    Load,
    /// Leaves it out until a settlement or a timer wakes it.
    Leave,
}

impl<J: Clone> Lanes<J> {
    /// Creates an empty scheduler that keeps up to `window` waiting jobs of each lane in memory.
    #[must_use]
    pub fn new(config: QueueConfig, window: usize) -> Self {
        Self {
            config,
            window,
            lanes: HashMap::new(),
            idle: LruCache::new(IDLE_LANES),
            run_queues: RunQueues::default(),
            timers: BTreeMap::new(),
            leases: Slab::new(),
            lanes_to_load: Vec::new(),
            next_sweep: None,
            leases_by_health: PerHealth::default(),
            next_health: EndpointHealth::Healthy,
            serial: 0,
        }
    }

    /// Adds a job to its lane. From now on the lane is ordered if `ordered` is set or all lanes are.
    pub fn push(&mut self, lane: &Lane, ordered: bool, position: LanePosition, job: J, now: Timestamp) {
        let ordered = self.config.ordered || ordered;
        let state = self.state_of(lane);
        // Only new jobs decide this. A job that failed before its endpoint became ordered must not revoke the order.
        state.ordered = ordered;
        state.window.insert(position, WaitingJob::new(job));
        self.wake(lane, now);
    }

    /// Adds a job that may have been attempted before. It can make the lane ordered, but not unordered.
    pub fn push_again(
        &mut self,
        lane: &Lane,
        ordered: bool,
        position: LanePosition,
        waiting: WaitingJob<J>,
        now: Timestamp,
    ) {
        let ordered = self.config.ordered || ordered;
        let state = self.state_of(lane);
        state.ordered |= ordered;
        state.window.insert(position, waiting);
        self.wake(lane, now);
    }

    fn state_of(&mut self, lane: &Lane) -> &mut LaneState<J> {
        let (config, window, idle) = (&self.config, self.window, &mut self.idle);
        self.lanes.entry(lane.clone()).or_insert_with(|| {
            LaneState::new(Window::new(window), idle.pop(lane).unwrap_or_else(|| new_throttle(config)))
        })
    }

    /// Leases up to `max` jobs that are due at `now`: one lane after the other, one job each time.
    pub fn claim(&mut self, max: usize, now: Timestamp) -> Vec<LeasedJob<J>> {
        self.fire_timers(now);
        self.sweep_leases(now);
        let mut claimed = Vec::new();
        // Lanes of each run queue that were skipped in a row. Once all are, the queue has nothing more to give.
        let mut skipped = PerHealth::<usize>::default();
        while claimed.len() < max {
            let has_turn = |health: &EndpointHealth| {
                skipped.of(*health) < &self.run_queues.of(*health).len() && self.has_slot_for(*health)
            };
            let Some(health) = round_robin_from(self.next_health).into_iter().find(has_turn) else { break };
            let Some(lane) = self.run_queues.of_mut(health).pop_front() else { break };
            let Some(state) = self.lanes.get_mut(&lane) else { continue };
            *state.is_queued.of_mut(health) = false;
            if state.throttle.health() != health {
                self.wake(&lane, now);
                continue;
            }
            self.next_health = round_robin_from(health)[1];
            match self.action_of(&lane, now) {
                LaneAction::Lease => {
                    let Some(leased) = self.lease_first(&lane, now) else { continue };
                    claimed.push(leased);
                    self.put_back(&lane);
                    skipped = PerHealth::default();
                }
                LaneAction::Skip => {
                    self.put_back(&lane);
                    let skipped = skipped.of_mut(health);
                    *skipped = skipped.saturating_add(1);
                }
                LaneAction::Load => self.load(&lane),
                LaneAction::Leave => self.wake(&lane, now),
            }
        }
        claimed
    }

    /// Puts a lane at the end of its run queue.
    fn put_back(&mut self, lane: &Lane) {
        if let Some(state) = self.lanes.get_mut(lane) {
            self.run_queues.put(lane, state);
        }
    }

    fn action_of(&self, lane: &Lane, now: Timestamp) -> LaneAction {
        let Some(state) = self.lanes.get(lane) else { return LaneAction::Leave };
        let is_due = state.window.first_due().is_some_and(|due| due <= now);
        if !is_due || (state.ordered && state.leased > 0) {
            return LaneAction::Leave;
        }
        match state.throttle.allowance(now) {
            Allowance::NotBefore(_) => LaneAction::Leave,
            Allowance::UpTo(limit) if state.leased >= limit => LaneAction::Leave,
            Allowance::UpTo(_) if state.window.is_unloaded() => LaneAction::Load,
            Allowance::UpTo(_) if self.leaves_slots(state) => LaneAction::Lease,
            Allowance::UpTo(_) => LaneAction::Skip,
        }
    }

    /// Returns whether a lane may take another slot. A lane takes no more than a share of the free slots, so a few
    /// lanes that stop answering leave most of them.
    /// (Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet switches", 1998.)
    fn leaves_slots(&self, state: &LaneState<J>) -> bool {
        let free = self.config.in_flight.saturating_sub(self.leases.len());
        let leased = usize::try_from(state.leased).unwrap_or(usize::MAX);
        free > leased.saturating_mul(FREE_SLOTS_PER_LEASE)
    }

    /// Returns whether another job of an endpoint of that health may be leased.
    ///
    /// However many endpoints hang, a healthy one finds a slot. Failing lanes take at most half of the slots.
    /// Together with new lanes, any of which may hang as well, they take at most three quarters.
    fn has_slot_for(&self, health: EndpointHealth) -> bool {
        let slots = self.config.in_flight;
        let failing = *self.leases_by_health.of(EndpointHealth::Failing);
        let unproven = failing.saturating_add(*self.leases_by_health.of(EndpointHealth::New));
        let has_unproven = unproven < slots.saturating_sub(slots / HEALTHY_SLOTS_DIVISOR);
        match health {
            EndpointHealth::Healthy => true,
            EndpointHealth::New => has_unproven,
            EndpointHealth::Failing => has_unproven && failing < slots.div_ceil(FAILING_SLOTS_DIVISOR),
        }
    }

    /// Returns the earliest time at which a claim may find further jobs. `None` if only a change brings them.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        let timer = self.timers.keys().next().map(|(at, _)| *at);
        timer.into_iter().chain(self.next_sweep).min()
    }

    /// Returns the number of jobs in memory by state. The backend adds the number of dead letters.
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

    /// Returns every unsettled job in memory.
    pub fn jobs(&self) -> impl Iterator<Item = &J> {
        let waiting = self.lanes.values().flat_map(|state| state.window.loaded().values());
        let leased = self.leases.iter().map(|(_, leased)| &leased.waiting);
        waiting.chain(leased).map(|waiting| &waiting.job)
    }

    fn next_serial(&mut self) -> u64 {
        self.serial = self.serial.wrapping_add(1);
        self.serial
    }
}
