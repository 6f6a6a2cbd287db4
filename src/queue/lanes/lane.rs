//! The state of one lane.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::per_health::{PerHealth, round_robin_from};
use super::window::{LanePosition, WaitingJob, Window};
use crate::queue::QueueConfig;
use crate::queue::throttle::{Allowance, EndpointHealth, Throttle};

/// Returns the throttle of a new endpoint.
pub(super) fn new_throttle(config: &QueueConfig) -> Throttle {
    Throttle::new(config.lane_in_flight)
}

/// A lane that has jobs.
pub(super) struct LaneState<J> {
    pub(super) window: Window<J>,
    /// Number of leases that are out.
    pub(super) leased: u32,
    /// Whether each job waits for the one before it. The latest job decides.
    pub(super) ordered: bool,
    /// Whether the backend is loading more of the lane.
    pub(super) is_loading: bool,
    /// Whether the lane is in each of the run queues.
    pub(super) is_queued: PerHealth<bool>,
    /// The timer that wakes the lane. There is at most one.
    pub(super) timer: Option<(Timestamp, u64)>,
    pub(super) throttle: Throttle,
}

impl<J> LaneState<J> {
    pub(super) fn new(window: Window<J>, throttle: Throttle) -> Self {
        Self {
            window,
            leased: 0,
            ordered: false,
            is_loading: false,
            is_queued: PerHealth::default(),
            timer: None,
            throttle,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.window.is_empty() && self.leased == 0
    }

    pub(super) fn is_in_a_run_queue(&self) -> bool {
        round_robin_from(EndpointHealth::Healthy).into_iter().any(|health| *self.is_queued.of(health))
    }
}

/// A lane as a backend sees it.
pub(in crate::queue) struct LaneView<'a, J> {
    /// Whether each job waits for the one before it.
    pub(in crate::queue) ordered: bool,
    /// Whether the lane gives out no job now: it has as many leases as it may have, its breaker is open or its
    /// endpoint has asked for a pause, or it is ordered and its first job waits for a retry.
    pub(in crate::queue) is_throttled: bool,
    /// Whether the endpoint's last attempt succeeded.
    pub(in crate::queue) is_healthy: bool,
    /// Waiting jobs in memory, in order.
    pub(in crate::queue) loaded: &'a BTreeMap<LanePosition, WaitingJob<J>>,
}

impl<'a, J> LaneView<'a, J> {
    pub(super) fn new(state: &'a LaneState<J>, now: Timestamp) -> Self {
        let waits_for_first = state.ordered && state.window.first_due().is_some_and(|due| due > now);
        let is_throttled = match state.throttle.allowance(now) {
            _ if waits_for_first => true,
            Allowance::NotBefore(_) => true,
            Allowance::UpTo(limit) => state.leased >= if state.ordered { 1 } else { limit },
        };
        let is_healthy = state.throttle.health() == EndpointHealth::Healthy;
        Self { ordered: state.ordered, is_throttled, is_healthy, loaded: state.window.loaded() }
    }
}
