//! Metrics of one process, rendered as OpenMetrics text.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::common::retry::Verdict;
use crate::common::task;

/// Upper bounds of the histograms' buckets in seconds: from half a millisecond, which a local endpoint takes, to the
/// default time limit of 30 s.
const BUCKETS: [f64; 12] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0];

/// Counters, gauges and histograms.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Jobs that were queued and answered with 202.
    pub published: Counter,
    /// Delivery attempts, successful or not.
    pub attempts: Counter,
    /// Jobs that an endpoint took.
    pub delivered: Counter,
    /// Verdicts that schedule a retry.
    pub retried: Counter,
    /// Jobs that were dead-lettered.
    dead: Counter,
    /// Jobs that were dead-lettered, by cause.
    dead_by_cause: Family<CauseLabels, Counter>,
    /// Dead letters that were replayed.
    pub replayed: Counter,
    /// Dead letters that were deleted, on request or because of their age.
    pub purged: Counter,
    /// Jobs that were deleted, because their endpoint or tenant was deleted.
    pub dropped: Counter,
    /// Duration of attempts in seconds.
    pub attempt_seconds: Histogram,
    /// Seconds from publishing to the end of a successful attempt.
    pub delivery_seconds: Histogram,
    /// Jobs in the queue, by state.
    depth: Family<DepthLabels, Gauge>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DepthLabels {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseLabels {
    cause: &'static str,
}

impl Metrics {
    /// Makes metrics that start at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("whk"),
            published: Counter::default(),
            attempts: Counter::default(),
            delivered: Counter::default(),
            retried: Counter::default(),
            dead: Counter::default(),
            dead_by_cause: Family::default(),
            replayed: Counter::default(),
            purged: Counter::default(),
            dropped: Counter::default(),
            attempt_seconds: Histogram::new(BUCKETS),
            delivery_seconds: Histogram::new(BUCKETS),
            depth: Family::default(),
        };
        let registry = &mut metrics.registry;
        registry.register("jobs_published", "Jobs queued and answered with 202", metrics.published.clone());
        registry.register("attempts", "Delivery attempts, successful or not", metrics.attempts.clone());
        registry.register("jobs_delivered", "Jobs delivered to an endpoint", metrics.delivered.clone());
        registry.register(
            "retries",
            "Retries scheduled after an attempt failed or could not be made",
            metrics.retried.clone(),
        );
        registry.register("jobs_dead", "Jobs dead-lettered", metrics.dead.clone());
        registry.register(
            "jobs_dead_by_cause",
            "Jobs dead-lettered, by cause",
            metrics.dead_by_cause.clone(),
        );
        registry.register("jobs_replayed", "Dead letters replayed", metrics.replayed.clone());
        registry.register(
            "dead_letters_purged",
            "Dead letters deleted, on request or because of their age",
            metrics.purged.clone(),
        );
        registry.register(
            "jobs_dropped",
            "Jobs deleted undelivered, because their endpoint or tenant was deleted",
            metrics.dropped.clone(),
        );
        registry.register(
            "attempt_seconds",
            "Duration of a delivery attempt in seconds",
            metrics.attempt_seconds.clone(),
        );
        registry.register(
            "delivery_seconds",
            "Seconds from publishing an event to its successful delivery",
            metrics.delivery_seconds.clone(),
        );
        registry.register(
            "queue_jobs",
            "Jobs in the queue, by state: ready, delayed, leased or dead",
            metrics.depth.clone(),
        );
        registry.register(
            "task_panics",
            "Tasks of the server that panicked, by task; each one is a bug",
            task::panic_counters(),
        );
        metrics
    }

    /// Counts the verdict on one job.
    pub fn count_verdict(&self, verdict: &Verdict) {
        let counter = match verdict {
            Verdict::Done => &self.delivered,
            Verdict::Retry { .. } => &self.retried,
            Verdict::Dropped => &self.dropped,
            Verdict::Dead { cause } => {
                let labels = CauseLabels { cause: cause.kind().as_str() };
                self.dead_by_cause.get_or_create(&labels).inc();
                &self.dead
            }
        };
        counter.inc();
    }

    /// Sets the gauge of one state of the queue.
    pub fn set_depth(&self, state: &'static str, jobs: u64) {
        self.depth.get_or_create(&DepthLabels { state }).set(i64::try_from(jobs).unwrap_or(i64::MAX));
    }

    /// Returns all metrics as OpenMetrics text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a String can't fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
