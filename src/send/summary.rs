//! The result of a load: counts, rates and latencies.

use std::time::Duration;

use hdrhistogram::Histogram;
use http::StatusCode;
use serde::Serialize;
use tokio::time::Instant;

/// Largest latency that is recorded, in microseconds: ten minutes.
const MAX_MICROS: u64 = 600_000_000;

/// Result of a load.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// Events that the server answered with 202.
    pub accepted: u64,
    /// Events that were answered otherwise or not at all.
    pub refused: u64,
    /// Seconds from the first request to the last response.
    pub seconds: f64,
    /// Accepted events per second.
    pub accepted_per_second: f64,
    /// Milliseconds until the response, from when an event was sent, or from when it was due if it was sent late.
    pub latency_ms: Latency,
    /// Reason of the first refusal.
    pub first_refusal: Option<String>,
    /// Whether every connection failed, so that probably no server is running.
    #[serde(skip)]
    pub is_without_server: bool,
}

/// Percentiles of the latency, in milliseconds.
#[derive(Debug, Serialize)]
pub struct Latency {
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Maximum.
    pub max: f64,
}

/// Reason why an event wasn't accepted.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Refusal {
    /// No connection was made.
    NoServer(String),
    /// Any other reason.
    Other(String),
}

impl Refusal {
    pub(super) fn other(reason: &str) -> Self {
        Self::Other(reason.to_owned())
    }

    /// Describes a response other than 202: its status, and the `detail` of a problem (RFC 9457) if it has one.
    pub(super) fn answered(status: StatusCode, body: &[u8]) -> Self {
        #[derive(serde::Deserialize)]
        struct Problem {
            detail: String,
        }
        Self::Other(match serde_json::from_slice::<Problem>(body) {
            Ok(problem) => format!("{status}: {}", problem.detail),
            Err(_) => status.to_string(),
        })
    }

    fn into_reason(self) -> String {
        match self {
            Self::NoServer(reason) | Self::Other(reason) => reason,
        }
    }
}

/// Counts and latencies of one worker, or of several merged.
#[derive(Default)]
pub(super) struct Tally {
    accepted: u64,
    refused: u64,
    /// Refusals of the kind [`Refusal::NoServer`].
    without_server: u64,
    first_refusal: Option<(Instant, Refusal)>,
    latencies: Option<Histogram<u64>>,
}

impl Tally {
    /// Makes an empty tally that records latencies with three significant digits.
    pub(super) fn new() -> Self {
        Self { latencies: Histogram::new(3).ok(), ..Self::default() }
    }

    /// Records the result of one event.
    pub(super) fn record(&mut self, result: Result<(), Refusal>, latency: Duration) {
        match result {
            Ok(()) => self.accepted = self.accepted.saturating_add(1),
            Err(refusal) => {
                self.refused = self.refused.saturating_add(1);
                let is_without_server = matches!(refusal, Refusal::NoServer(_));
                self.without_server = self.without_server.saturating_add(u64::from(is_without_server));
                self.first_refusal.get_or_insert((Instant::now(), refusal));
            }
        }
        if let Some(latencies) = &mut self.latencies {
            let micros = u64::try_from(latency.as_micros()).unwrap_or(MAX_MICROS);
            // Recording fails only beyond the range that the histogram can grow to.
            let _ = latencies.record(micros.clamp(1, MAX_MICROS));
        }
    }

    /// Adds the counts and latencies of `other`.
    pub(super) fn merge(&mut self, other: Self) {
        self.accepted = self.accepted.saturating_add(other.accepted);
        self.refused = self.refused.saturating_add(other.refused);
        self.without_server = self.without_server.saturating_add(other.without_server);
        self.first_refusal = [self.first_refusal.take(), other.first_refusal].into_iter().flatten().min();
        match (&mut self.latencies, other.latencies) {
            (Some(mine), Some(theirs)) => mine.add(theirs).unwrap_or_default(),
            (mine, theirs) => *mine = mine.take().or(theirs),
        }
    }

    /// Summarizes a load that took `elapsed`.
    pub(super) fn summary(self, elapsed: Duration) -> Summary {
        let milliseconds_at = |quantile: f64| {
            let micros = self.latencies.as_ref().map_or(0, |latencies| latencies.value_at_quantile(quantile));
            Duration::from_micros(micros).as_secs_f64() * 1_000.0
        };
        let seconds = elapsed.as_secs_f64();
        let latency_ms = Latency {
            p50: milliseconds_at(0.5),
            p90: milliseconds_at(0.9),
            p99: milliseconds_at(0.99),
            max: milliseconds_at(1.0),
        };
        Summary {
            accepted: self.accepted,
            refused: self.refused,
            seconds,
            accepted_per_second: self.accepted as f64 / seconds.max(f64::MIN_POSITIVE),
            latency_ms,
            first_refusal: self.first_refusal.map(|(_, refusal)| refusal.into_reason()),
            is_without_server: self.accepted == 0 && self.refused > 0 && self.without_server == self.refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary_of(results: Vec<Result<(), Refusal>>) -> Summary {
        let mut total = Tally::default();
        for result in results {
            let mut tally = Tally::new();
            tally.record(result, Duration::from_millis(2));
            total.merge(tally);
        }
        total.summary(Duration::from_secs(1))
    }

    #[test]
    fn a_server_is_missing_only_if_every_connection_failed() {
        let no_server = || Err(Refusal::NoServer("connection refused".into()));
        let all = summary_of(vec![no_server(), no_server()]);
        assert!(all.is_without_server);
        assert_eq!(all.first_refusal.as_deref(), Some("connection refused"));
        assert!(!summary_of(vec![Ok(()), no_server()]).is_without_server);
        assert!(!summary_of(vec![no_server(), Err(Refusal::other("503"))]).is_without_server);
        assert!(!summary_of(vec![]).is_without_server);
    }

    #[test]
    fn a_refusal_shows_the_detail_of_a_problem() {
        let refusal = Refusal::answered(StatusCode::FORBIDDEN, br#"{"title":"t","detail":"the reason"}"#);
        assert_eq!(refusal, Refusal::other("403 Forbidden: the reason"));
        assert_eq!(Refusal::answered(StatusCode::BAD_GATEWAY, b"<html>"), Refusal::other("502 Bad Gateway"));
    }
}
