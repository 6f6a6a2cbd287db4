//! How much at once one endpoint is sent: less when it fails, more when it does well, a probe when it is down.
//!
//! Slow start, additive increase, multiplicative decrease, as TCP does it; after five failures in a row a
//! breaker opens, and one attempt per delay finds out whether the endpoint is back.

use std::time::Duration;

use jiff::Timestamp;

use crate::common::clock::after;
use crate::common::retry::RetryPolicy;

/// Attempts at once that an endpoint starts with: as long as it hasn't answered it may be one that hangs. Each
/// success adds one, so an endpoint that does well has doubled after each round trip.
const START: u32 = 1;

/// Failures in a row that open the breaker.
const BREAKER_FAILURES: u32 = 5;

/// Probes are never further apart, so that an endpoint that is back is noticed within a minute.
const MOST_PROBE_DELAY: Duration = Duration::from_secs(60);

/// The state of one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Throttle {
    limit: u32,
    most: u32,
    /// In a row.
    failures: u32,
    has_succeeded: bool,
    breaker: Option<Breaker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Breaker {
    probes: u32,
    closed_until: Timestamp,
}

/// What is known of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its last attempt was successful.
    Well,
    /// None has ended yet.
    New,
    /// The last one failed.
    Failing,
}

/// What may be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// So many attempts at once, counting those under way.
    Upto(u32),
    /// Nothing before that time.
    NotBefore(Timestamp),
}

impl Throttle {
    /// An endpoint of which nothing is known, never to be sent more than `most` at once.
    #[must_use]
    pub fn new(most: u32) -> Self {
        Self { limit: START, most: most.max(1), failures: 0, has_succeeded: false, breaker: None }
    }

    /// What may be sent at `now`.
    #[must_use]
    pub fn room(&self, now: Timestamp) -> Room {
        match self.breaker {
            Some(breaker) if now < breaker.closed_until => Room::NotBefore(breaker.closed_until),
            Some(_) => Room::Upto(1),
            None => Room::Upto(self.limit),
        }
    }

    /// What is to be expected of the next attempt.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match (self.failures, self.has_succeeded) {
            (0, true) => Standing::Well,
            (0, false) => Standing::New,
            _ => Standing::Failing,
        }
    }

    /// An attempt was successful.
    pub fn succeeded(&mut self) {
        if self.breaker.take().is_some() {
            self.limit = START;
        }
        self.failures = 0;
        self.has_succeeded = true;
        self.limit = self.limit.saturating_add(1).min(self.most);
    }

    /// The endpoint asked to be left alone until then.
    pub fn pause(&mut self, until: Timestamp) {
        let probes = self.breaker.map_or(0, |breaker| breaker.probes);
        let closed_until = self.breaker.map_or(until, |breaker| breaker.closed_until.max(until));
        self.breaker = Some(Breaker { probes, closed_until });
    }

    /// An attempt failed at `now`.
    pub fn failed(&mut self, now: Timestamp, delays: &RetryPolicy) {
        self.limit = (self.limit / 2).max(1);
        self.failures = self.failures.saturating_add(1);
        let probes = match self.breaker {
            // An attempt from before the breaker opened says nothing new.
            Some(breaker) if now < breaker.closed_until => return,
            Some(breaker) => breaker.probes.saturating_add(1),
            None if self.failures < BREAKER_FAILURES => return,
            None => 1,
        };
        let delay = delays.delay(probes).min(MOST_PROBE_DELAY);
        self.breaker = Some(Breaker { probes, closed_until: after(now, delay) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn later(seconds: u64) -> Timestamp {
        after(NOW, Duration::from_secs(seconds))
    }

    fn broken() -> Throttle {
        let mut throttle = Throttle::new(64);
        for _ in 0..BREAKER_FAILURES {
            assert_eq!(throttle.breaker, None);
            throttle.failed(NOW, &RetryPolicy::default());
        }
        throttle
    }

    #[test]
    fn success_adds_one_and_failure_halves() {
        let mut throttle = Throttle::new(10);
        assert_eq!(throttle.room(NOW), Room::Upto(1));
        throttle.succeeded();
        assert_eq!(throttle.room(NOW), Room::Upto(2));
        for _ in 0..9 {
            throttle.succeeded();
        }
        assert_eq!(throttle.room(NOW), Room::Upto(10));
        throttle.failed(NOW, &RetryPolicy::default());
        assert_eq!(throttle.room(NOW), Room::Upto(5));
        for _ in 0..3 {
            throttle.failed(NOW, &RetryPolicy::default());
        }
        assert_eq!(throttle.room(NOW), Room::Upto(1));
    }

    #[test]
    fn five_failures_in_a_row_open_the_breaker() {
        let throttle = broken();
        assert_eq!(throttle.room(NOW), Room::NotBefore(later(1)));
        assert_eq!(throttle.room(later(1)), Room::Upto(1));
    }

    #[test]
    fn failed_probes_are_further_apart_up_to_a_minute() {
        let mut throttle = broken();
        let hourly = RetryPolicy::try_list(vec![Duration::from_secs(3600)], None, 0.0).unwrap();
        throttle.failed(later(1), &RetryPolicy::default());
        assert_eq!(throttle.room(later(1)), Room::NotBefore(later(3)));
        throttle.failed(later(3), &hourly);
        assert_eq!(throttle.room(later(3)), Room::NotBefore(later(63)));
    }

    #[test]
    fn attempts_from_before_the_breaker_opened_do_not_lengthen_it() {
        let mut throttle = broken();
        throttle.failed(NOW, &RetryPolicy::default());
        assert_eq!(throttle.room(NOW), Room::NotBefore(later(1)));
    }

    #[test]
    fn a_pause_holds_everything_back_until_it_is_over() {
        let mut throttle = Throttle::new(64);
        throttle.pause(later(600));
        throttle.failed(NOW, &RetryPolicy::default());
        assert_eq!(throttle.room(later(599)), Room::NotBefore(later(600)));
        assert_eq!(throttle.room(later(600)), Room::Upto(1));
    }

    #[test]
    fn a_successful_probe_starts_over_slowly() {
        let mut throttle = broken();
        throttle.succeeded();
        assert_eq!(throttle.room(NOW), Room::Upto(2));
    }

    #[test]
    fn an_endpoint_is_new_then_what_its_last_attempt_says() {
        let mut throttle = Throttle::new(10);
        assert_eq!(throttle.standing(), Standing::New);
        throttle.succeeded();
        assert_eq!(throttle.standing(), Standing::Well);
        throttle.failed(NOW, &RetryPolicy::default());
        assert_eq!(throttle.standing(), Standing::Failing);
    }
}
