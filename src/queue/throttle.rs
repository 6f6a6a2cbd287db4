//! The throttle of one endpoint: how many attempts it is sent at once.
//!
//! Concurrency follows TCP: slow start, additive increase, multiplicative decrease. After `BREAKER_FAILURES`
//! failures in a row a breaker opens and nothing is sent. When its delay is over the breaker is half-open: one probe
//! at a time finds out whether the endpoint is back.

use std::time::Duration;

use jiff::Timestamp;

use crate::common::clock::after;
use crate::common::retry::RetryPolicy;

/// Concurrent attempts that a new endpoint starts with. It is 1 because an endpoint that has never answered may hang.
/// Each success adds one, so the limit doubles with each round trip.
pub(crate) const INITIAL_CONCURRENCY: u32 = 1;

/// Failures in a row that open the breaker.
pub(crate) const BREAKER_FAILURES: u32 = 5;

/// Maximum delay between probes, so that an endpoint that is back is noticed within a minute.
pub(crate) const MAX_PROBE_DELAY: Duration = Duration::from_secs(60);

/// The throttle of one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Throttle {
    /// Current limit of concurrent attempts.
    limit: u32,
    /// Upper bound of `limit`.
    max_limit: u32,
    failures_in_a_row: u32,
    has_succeeded: bool,
    breaker: Option<Breaker>,
}

/// A breaker that is open, or half-open once `open_until` has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Breaker {
    /// Number of delays so far; it selects the next delay.
    probes: u32,
    open_until: Timestamp,
}

/// Health of an endpoint, judged by its last attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointHealth {
    /// The last attempt succeeded.
    Healthy,
    /// No attempt has ended yet.
    New,
    /// The last attempt failed.
    Failing,
}

/// Attempts that an endpoint may be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowance {
    /// Up to that many attempts at once, counting those under way.
    UpTo(u32),
    /// No attempt before that time.
    NotBefore(Timestamp),
}

impl Throttle {
    /// Creates the throttle of a new endpoint, which is never sent more than `max_limit` attempts at once.
    #[must_use]
    pub fn new(max_limit: u32) -> Self {
        Self {
            limit: INITIAL_CONCURRENCY,
            max_limit: max_limit.max(1),
            failures_in_a_row: 0,
            has_succeeded: false,
            breaker: None,
        }
    }

    /// Returns what the endpoint may be sent at `now`.
    #[must_use]
    pub fn allowance(&self, now: Timestamp) -> Allowance {
        match self.breaker {
            Some(breaker) if now < breaker.open_until => Allowance::NotBefore(breaker.open_until),
            Some(_) => Allowance::UpTo(1),
            None => Allowance::UpTo(self.limit),
        }
    }

    /// Returns the endpoint's health.
    #[must_use]
    pub fn health(&self) -> EndpointHealth {
        match (self.failures_in_a_row, self.has_succeeded) {
            (0, true) => EndpointHealth::Healthy,
            (0, false) => EndpointHealth::New,
            _ => EndpointHealth::Failing,
        }
    }

    /// Records a successful attempt.
    pub fn succeeded(&mut self) {
        if self.breaker.take().is_some() {
            self.limit = INITIAL_CONCURRENCY;
        }
        self.failures_in_a_row = 0;
        self.has_succeeded = true;
        self.limit = self.limit.saturating_add(1).min(self.max_limit);
    }

    /// Sends nothing before `until`, as the endpoint has asked.
    pub fn pause(&mut self, until: Timestamp) {
        let probes = self.breaker.map_or(0, |breaker| breaker.probes);
        let open_until = self.breaker.map_or(until, |breaker| breaker.open_until.max(until));
        self.breaker = Some(Breaker { probes, open_until });
    }

    /// Records an attempt that failed at `now`. `delays` gives the delay before each probe.
    pub fn failed(&mut self, now: Timestamp, delays: &RetryPolicy) {
        self.limit = (self.limit / 2).max(1);
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        let probes = match self.breaker {
            // The attempt began before the breaker opened, so it is no probe.
            Some(breaker) if now < breaker.open_until => return,
            Some(breaker) => breaker.probes.saturating_add(1),
            None if self.failures_in_a_row < BREAKER_FAILURES => return,
            None => 1,
        };
        let delay = delays.delay(probes).min(MAX_PROBE_DELAY);
        self.breaker = Some(Breaker { probes, open_until: after(now, delay) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn later(seconds: u64) -> Timestamp {
        after(NOW, Duration::from_secs(seconds))
    }

    fn open_breaker() -> Throttle {
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
        assert_eq!(throttle.allowance(NOW), Allowance::UpTo(1));
        throttle.succeeded();
        assert_eq!(throttle.allowance(NOW), Allowance::UpTo(2));
        for _ in 0..9 {
            throttle.succeeded();
        }
        assert_eq!(throttle.allowance(NOW), Allowance::UpTo(10));
        throttle.failed(NOW, &RetryPolicy::default());
        assert_eq!(throttle.allowance(NOW), Allowance::UpTo(5));
        for _ in 0..3 {
            throttle.failed(NOW, &RetryPolicy::default());
        }
        assert_eq!(throttle.allowance(NOW), Allowance::UpTo(1));
    }

    #[test]
    fn five_failures_in_a_row_open_the_breaker() {
        let throttle = open_breaker();
        assert_eq!(throttle.allowance(NOW), Allowance::NotBefore(later(1)));
        assert_eq!(throttle.allowance(later(1)), Allowance::UpTo(1));
    }

    #[test]
    fn delays_between_probes_grow_to_at_most_a_minute() {
        let mut throttle = open_breaker();
        let hourly = RetryPolicy::try_list(vec![Duration::from_secs(3600)], None, 0.0).unwrap();
        throttle.failed(later(1), &RetryPolicy::default());
        assert_eq!(throttle.allowance(later(1)), Allowance::NotBefore(later(3)));
        throttle.failed(later(3), &hourly);
        assert_eq!(throttle.allowance(later(3)), Allowance::NotBefore(later(63)));
    }

    #[test]
    fn failures_from_before_the_breaker_opened_do_not_keep_it_open() {
        let mut throttle = open_breaker();
        throttle.failed(NOW, &RetryPolicy::default());
        assert_eq!(throttle.allowance(NOW), Allowance::NotBefore(later(1)));
    }

    #[test]
    fn a_paused_endpoint_is_sent_nothing_until_the_pause_ends() {
        let mut throttle = Throttle::new(64);
        throttle.pause(later(600));
        throttle.failed(NOW, &RetryPolicy::default());
        assert_eq!(throttle.allowance(later(599)), Allowance::NotBefore(later(600)));
        assert_eq!(throttle.allowance(later(600)), Allowance::UpTo(1));
    }

    #[test]
    fn a_successful_probe_restarts_slow_start() {
        let mut throttle = open_breaker();
        throttle.succeeded();
        assert_eq!(throttle.allowance(NOW), Allowance::UpTo(2));
    }

    #[test]
    fn health_is_new_then_follows_the_last_attempt() {
        let mut throttle = Throttle::new(10);
        assert_eq!(throttle.health(), EndpointHealth::New);
        throttle.succeeded();
        assert_eq!(throttle.health(), EndpointHealth::Healthy);
        throttle.failed(NOW, &RetryPolicy::default());
        assert_eq!(throttle.health(), EndpointHealth::Failing);
    }
}
