//! Loading: the backend fills the windows of lanes that have more jobs than memory holds.

use std::time::Duration;

use jiff::Timestamp;

use super::Lanes;
use super::lane::{LaneState, new_throttle};
use super::window::{LanePosition, WaitingJob, Window};
use crate::common::clock::after;
use crate::common::job::Lane;

/// Delay before a lane that could not be loaded is tried again.
const LOAD_RETRY_DELAY: Duration = Duration::from_secs(1);

impl<J: Clone> Lanes<J> {
    /// Adds a lane whose `jobs` jobs are all in the backend, the first of them at position `first`.
    pub fn add_unloaded(
        &mut self,
        lane: &Lane,
        jobs: u64,
        first: LanePosition,
        ordered: bool,
        now: Timestamp,
    ) {
        let window = Window::unloaded(self.window, jobs, first);
        let mut state = LaneState::new(window, new_throttle(&self.config));
        state.ordered = self.config.ordered || ordered;
        self.lanes.insert(lane.clone(), state);
        self.wake(lane, now);
    }

    /// Marks a lane for loading.
    pub(super) fn load(&mut self, lane: &Lane) {
        if let Some(state) = self.lanes.get_mut(lane)
            && !std::mem::replace(&mut state.is_loading, true)
        {
            self.lanes_to_load.push(lane.clone());
        }
    }

    /// Takes the lanes that the backend should load: it calls [`Lanes::fill`] or [`Lanes::load_failed`] for each.
    pub fn take_lanes_to_load(&mut self) -> Vec<Lane> {
        std::mem::take(&mut self.lanes_to_load)
    }

    /// Returns the position from which a lane should be loaded. `None` if all of it is in memory.
    #[must_use]
    pub fn horizon(&self, lane: &Lane) -> Option<LanePosition> {
        self.lanes.get(lane)?.window.horizon()
    }

    /// Takes in the jobs that were loaded from `from`, which was the lane's horizon, in order. `is_all` tells that
    /// the lane has no further jobs.
    ///
    /// If leases that were given back have moved the horizon meanwhile, the jobs are ignored and the lane is loaded
    /// again.
    pub fn fill(
        &mut self,
        lane: &Lane,
        from: Option<LanePosition>,
        jobs: Vec<(LanePosition, WaitingJob<J>)>,
        is_all: bool,
        now: Timestamp,
    ) {
        let Some(state) = self.lanes.get_mut(lane) else { return };
        state.is_loading = false;
        let leases = &self.leases;
        if state.window.horizon() == from {
            let is_leased =
                |position: LanePosition| leases.iter().any(|(_, lease)| lease.position.1 == position.1);
            state.window.fill(jobs, is_all, is_leased);
        }
        self.wake(lane, now);
    }

    /// Records that a lane could not be loaded. It is tried again after `LOAD_RETRY_DELAY`.
    pub fn load_failed(&mut self, lane: &Lane, now: Timestamp) {
        if let Some(state) = self.lanes.get_mut(lane) {
            state.is_loading = false;
            self.set_timer(lane, after(now, LOAD_RETRY_DELAY));
        }
    }
}
