//! Run queues: the lanes that may have a job to lease, by the health of their endpoints.

use std::collections::VecDeque;

use super::lane::LaneState;
use super::per_health::PerHealth;
use crate::common::job::Lane;

/// The run queues.
pub(super) type RunQueues = PerHealth<VecDeque<Lane>>;

impl RunQueues {
    /// Puts a lane at the end of its run queue, unless it is in there.
    pub(super) fn put<J>(&mut self, lane: &Lane, state: &mut LaneState<J>) {
        let health = state.throttle.health();
        if !std::mem::replace(state.is_queued.of_mut(health), true) {
            self.of_mut(health).push_back(lane.clone());
        }
    }
}
