//! The clock for due times.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// Wall-clock time that only moves forward.
///
/// The system's clock is read once, and the monotonic clock advances it from there. If the system's clock is set
/// meanwhile, retries are neither early nor late. The clock follows tokio's paused time in tests.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Timestamp,
    started: Instant,
}

impl Clock {
    /// Starts a clock at the system's time.
    #[must_use]
    pub fn start() -> Self {
        Self { start: Timestamp::now(), started: Instant::now() }
    }

    /// Returns the current time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        after(self.start, self.started.elapsed())
    }

    /// Returns the instant of `time` for tokio's timers. A time in the past gives the current instant.
    #[must_use]
    pub fn instant_at(&self, time: Timestamp) -> Instant {
        let ahead = Duration::try_from(time.duration_since(self.now())).unwrap_or_default();
        Instant::now().checked_add(ahead).unwrap_or_else(Instant::now)
    }
}

/// Returns `time` plus `delay`, at most jiff's latest timestamp (the year 9999).
#[must_use]
pub fn after(time: Timestamp, delay: Duration) -> Timestamp {
    let delay = SignedDuration::try_from(delay).unwrap_or(SignedDuration::MAX);
    time.saturating_add(delay).unwrap_or(Timestamp::MAX)
}
