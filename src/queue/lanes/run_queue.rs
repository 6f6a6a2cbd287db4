//! Run queues: the lanes that may have a job to lease, by the health of their endpoints.

use std::collections::VecDeque;

use super::lane::LaneState;
use crate::common::job::Lane;
use crate::queue::throttle::EndpointHealth;

/// A value for each health of an endpoint.
#[derive(Debug, Default)]
pub(super) struct PerHealth<T> {
    healthy: T,
    new: T,
    failing: T,
}

impl<T> PerHealth<T> {
    pub(super) fn of(&self, health: EndpointHealth) -> &T {
        match health {
            EndpointHealth::Healthy => &self.healthy,
            EndpointHealth::New => &self.new,
            EndpointHealth::Failing => &self.failing,
        }
    }

    pub(super) fn of_mut(&mut self, health: EndpointHealth) -> &mut T {
        match health {
            EndpointHealth::Healthy => &mut self.healthy,
            EndpointHealth::New => &mut self.new,
            EndpointHealth::Failing => &mut self.failing,
        }
    }
}

/// Returns the order in which the run queues are served, beginning with `first`.
pub(super) fn round_robin_from(first: EndpointHealth) -> [EndpointHealth; 3] {
    use EndpointHealth::{Failing, Healthy, New};
    match first {
        Healthy => [Healthy, New, Failing],
        New => [New, Failing, Healthy],
        Failing => [Failing, Healthy, New],
    }
}

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
