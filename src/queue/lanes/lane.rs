//! One lane's state, and the rings that lanes wait in for their turn.

use std::collections::VecDeque;
use std::sync::Arc;

use jiff::Timestamp;

use crate::common::job::{Job, Lane};
use crate::queue::throttle::Throttle;

/// A lane that has jobs.
pub(super) struct LaneState {
    pub(super) waiting: VecDeque<Waiting>,
    pub(super) leased: u32,
    /// Retried jobs among the timers.
    pub(super) aside: usize,
    /// Whether it has an entry in either ring.
    pub(super) in_well: bool,
    pub(super) in_doubtful: bool,
    /// Whether a timer will wake it: never more than one a lane.
    pub(super) has_timer: bool,
    /// Ordered: when the head is due again.
    pub(super) head_due: Option<Timestamp>,
    pub(super) throttle: Throttle,
}

/// A job in its lane, or aside.
pub(super) struct Waiting {
    pub(super) job: Arc<Job>,
    pub(super) failures: u32,
}

/// Which ring a lane waits in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Its last attempt was successful.
    Well,
    /// It failed last, or nothing is known of it.
    Doubtful,
}

impl Class {
    pub(super) fn other(self) -> Self {
        match self {
            Self::Well => Self::Doubtful,
            Self::Doubtful => Self::Well,
        }
    }
}

impl LaneState {
    pub(super) fn new(throttle: Throttle) -> Self {
        Self {
            waiting: VecDeque::new(),
            leased: 0,
            aside: 0,
            in_well: false,
            in_doubtful: false,
            has_timer: false,
            head_due: None,
            throttle,
        }
    }

    pub(super) fn class(&self) -> Class {
        if self.throttle.is_doubtful() { Class::Doubtful } else { Class::Well }
    }

    /// Whether it has an entry in that ring.
    pub(super) fn entry(&mut self, class: Class) -> &mut bool {
        match class {
            Class::Well => &mut self.in_well,
            Class::Doubtful => &mut self.in_doubtful,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.leased == 0 && self.aside == 0
    }
}

/// The lanes whose turn comes, by class.
#[derive(Default)]
pub(super) struct Rings {
    pub(super) well: VecDeque<Lane>,
    pub(super) doubtful: VecDeque<Lane>,
}

impl Rings {
    pub(super) fn of(&mut self, class: Class) -> &mut VecDeque<Lane> {
        match class {
            Class::Well => &mut self.well,
            Class::Doubtful => &mut self.doubtful,
        }
    }

    /// Puts a lane at the end of its ring, unless it is there.
    pub(super) fn put(&mut self, lane: &Lane, state: &mut LaneState) {
        let class = state.class();
        if !std::mem::replace(state.entry(class), true) {
            self.of(class).push_back(lane.clone());
        }
    }
}
