//! One lane's state, and the rings that lanes wait in for their turn.

use std::collections::VecDeque;
use std::sync::Arc;

use jiff::Timestamp;

use crate::common::job::{Job, Lane};
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
pub(super) struct LaneState {
    pub(super) waiting: VecDeque<Waiting>,
    pub(super) leased: u32,
    /// Whether each job waits for the one before it: as the latest one has it.
    pub(super) ordered: bool,
    /// Retried jobs among the timers.
    pub(super) aside: usize,
    /// Whether it has an entry in each ring.
    pub(super) in_ring: PerStanding<bool>,
    /// Whether a timer will wake it: never more than one a lane. It is set only while nothing of the lane is
    /// leased, so nothing can open the lane before it fires.
    pub(super) has_timer: bool,
    /// Ordered: when the head is due again.
    pub(super) head_due: Option<Timestamp>,
    pub(super) throttle: Throttle,
}

/// A job in its lane, or aside.
pub(super) struct Waiting {
    pub(super) job: Arc<Job>,
    pub(super) failures: u32,
    pub(super) first_attempt_at: Option<Timestamp>,
}

impl LaneState {
    pub(super) fn new(throttle: Throttle) -> Self {
        Self {
            waiting: VecDeque::new(),
            leased: 0,
            ordered: false,
            aside: 0,
            in_ring: PerStanding::default(),
            has_timer: false,
            head_due: None,
            throttle,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.leased == 0 && self.aside == 0
    }

    pub(super) fn is_in_any_ring(&self) -> bool {
        turns_from(Standing::Well).into_iter().any(|standing| *self.in_ring.of(standing))
    }
}

/// The lanes whose turn comes, by standing.
pub(super) type Rings = PerStanding<VecDeque<Lane>>;

impl Rings {
    /// Puts a lane at the end of its ring, unless it is there.
    pub(super) fn put(&mut self, lane: &Lane, state: &mut LaneState) {
        let standing = state.throttle.standing();
        if !std::mem::replace(state.in_ring.of_mut(standing), true) {
            self.of_mut(standing).push_back(lane.clone());
        }
    }
}
