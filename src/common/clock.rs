//! The clock that due times are kept by.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// Wall-clock time that only goes forward: read once, then advanced by the monotonic clock, so that a step of
/// the system's clock neither hurries nor delays a retry. Under tokio's paused time it pauses as well.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Timestamp,
    started: Instant,
}

impl Clock {
    /// A clock that starts from the system's.
    #[must_use]
    pub fn start() -> Self {
        Self { start: Timestamp::now(), started: Instant::now() }
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        after(self.start, self.started.elapsed())
    }

    /// The instant at which it will be `time`, for tokio's timers; now where that has passed.
    #[must_use]
    pub fn instant_at(&self, time: Timestamp) -> Instant {
        let ahead = Duration::try_from(time.duration_since(self.now())).unwrap_or_default();
        Instant::now().checked_add(ahead).unwrap_or_else(Instant::now)
    }
}

/// `time` plus `delay`, at most the end of time as jiff has it (the year 9999).
#[must_use]
pub fn after(time: Timestamp, delay: Duration) -> Timestamp {
    let delay = SignedDuration::try_from(delay).unwrap_or(SignedDuration::MAX);
    time.saturating_add(delay).unwrap_or(Timestamp::MAX)
}
