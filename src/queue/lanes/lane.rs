//! One lane's state, and the rings that lanes wait in for their turn.

use std::collections::VecDeque;

use jiff::Timestamp;

use super::window::Window;
use crate::common::job::Lane;
use crate::queue::throttle::{EndpointHealth, Throttle};

/// Something for each health that an endpoint may have.
#[derive(Debug, Default)]
pub(super) struct PerHealth<T> {
    well: T,
    new: T,
    failing: T,
}

impl<T> PerHealth<T> {
    pub(super) fn of(&self, health: EndpointHealth) -> &T {
        match health {
            EndpointHealth::Healthy => &self.well,
            EndpointHealth::New => &self.new,
            EndpointHealth::Failing => &self.failing,
        }
    }

    pub(super) fn of_mut(&mut self, health: EndpointHealth) -> &mut T {
        match health {
            EndpointHealth::Healthy => &mut self.well,
            EndpointHealth::New => &mut self.new,
            EndpointHealth::Failing => &mut self.failing,
        }
    }
}

/// The order in which the rings are served, beginning with `first`.
pub(super) fn turns_from(first: EndpointHealth) -> [EndpointHealth; 3] {
    use EndpointHealth::{Failing, Healthy, New};
    match first {
        Healthy => [Healthy, New, Failing],
        New => [New, Failing, Healthy],
        Failing => [Failing, Healthy, New],
    }
}

/// A lane that has jobs.
pub(super) struct LaneState<J> {
    pub(super) window: Window<J>,
    pub(super) leased: u32,
    /// Whether each job waits for the one before it: as the latest one has it.
    pub(super) ordered: bool,
    /// Whether more of it is being read.
    pub(super) loading: bool,
    /// Whether it has an entry in each ring.
    pub(super) in_ring: PerHealth<bool>,
    /// The timer that wakes it: never more than one a lane.
    pub(super) timer: Option<(Timestamp, u64)>,
    pub(super) throttle: Throttle,
}

impl<J> LaneState<J> {
    pub(super) fn new(window: Window<J>, throttle: Throttle) -> Self {
        Self {
            window,
            leased: 0,
            ordered: false,
            loading: false,
            in_ring: PerHealth::default(),
            timer: None,
            throttle,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.window.is_empty() && self.leased == 0
    }

    pub(super) fn is_in_any_ring(&self) -> bool {
        turns_from(EndpointHealth::Healthy).into_iter().any(|health| *self.in_ring.of(health))
    }
}

/// The lanes whose turn comes, by health.
pub(super) type Rings = PerHealth<VecDeque<Lane>>;

impl Rings {
    /// Puts a lane at the end of its ring, unless it is there.
    pub(super) fn put<J>(&mut self, lane: &Lane, state: &mut LaneState<J>) {
        let health = state.throttle.health();
        if !std::mem::replace(state.in_ring.of_mut(health), true) {
            self.of_mut(health).push_back(lane.clone());
        }
    }
}
