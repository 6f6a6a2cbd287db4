//! One lane's state, and the rings that lanes wait in for their turn.

use std::collections::VecDeque;

use jiff::Timestamp;

use super::window::Window;
use crate::common::job::Lane;
use crate::queue::throttle::{Standing, Throttle};

/// Something for each standing that an endpoint may have.
#[derive(Debug, Default)]
pub(super) struct PerStanding<T> {
    well: T,
    new: T,
    failing: T,
}

impl<T> PerStanding<T> {
    pub(super) fn of(&self, standing: Standing) -> &T {
        match standing {
            Standing::Well => &self.well,
            Standing::New => &self.new,
            Standing::Failing => &self.failing,
        }
    }

    pub(super) fn of_mut(&mut self, standing: Standing) -> &mut T {
        match standing {
            Standing::Well => &mut self.well,
            Standing::New => &mut self.new,
            Standing::Failing => &mut self.failing,
        }
    }
}

/// The order in which the rings are served, beginning with `first`.
pub(super) fn turns_from(first: Standing) -> [Standing; 3] {
    use Standing::{Failing, New, Well};
    match first {
        Well => [Well, New, Failing],
        New => [New, Failing, Well],
        Failing => [Failing, Well, New],
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
    pub(super) in_ring: PerStanding<bool>,
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
            in_ring: PerStanding::default(),
            timer: None,
            throttle,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.window.is_empty() && self.leased == 0
    }

    pub(super) fn is_in_any_ring(&self) -> bool {
        turns_from(Standing::Well).into_iter().any(|standing| *self.in_ring.of(standing))
    }
}

/// The lanes whose turn comes, by standing.
pub(super) type Rings = PerStanding<VecDeque<Lane>>;

impl Rings {
    /// Puts a lane at the end of its ring, unless it is there.
    pub(super) fn put<J>(&mut self, lane: &Lane, state: &mut LaneState<J>) {
        let standing = state.throttle.standing();
        if !std::mem::replace(state.in_ring.of_mut(standing), true) {
            self.of_mut(standing).push_back(lane.clone());
        }
    }
}
