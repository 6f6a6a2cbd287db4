//! The load sender: posts events at a rate or as fast as they are taken, and measures.

mod template;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hdrhistogram::Histogram;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use indicatif::ProgressBar;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::common::http::{PlainClient, plain_client, root_cause};
pub use template::{Template, TemplateError};

/// Latencies are recorded in microseconds up to this.
const MOST_MICROS: u64 = 600_000_000;

/// How long one request may take.
const REQUEST_TIME: Duration = Duration::from_secs(60);

/// As much of a refusal is read to be shown.
const MOST_REFUSAL_BYTES: usize = 64 * 1024;

/// What is sent where.
#[derive(Debug)]
pub struct Load {
    /// The publish route.
    pub publish_url: Uri,
    /// Who gets them.
    pub to: Recipients,
    /// The direct mode's targets and how many events each gets, in this order.
    pub batches: Vec<(Option<String>, u64)>,
    /// The event types, in turn; none is sent where there are none.
    pub kinds: Vec<String>,
    /// The payload.
    pub template: Template,
    /// Requests at once.
    pub concurrency: usize,
    /// Events a second; as fast as they are taken otherwise.
    pub rate: Option<f64>,
}

/// Who gets the events.
#[derive(Debug)]
pub enum Recipients {
    /// Direct mode: these URLs, in turn.
    Urls(Vec<String>),
    /// Who subscribes.
    Subscribers {
        /// The `Authorization` header.
        authorization: HeaderValue,
        /// The one tenant that is meant.
        tenant: Option<String>,
    },
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// Events answered 202.
    pub accepted: u64,
    /// Events answered otherwise, or not at all.
    pub refused: u64,
    /// From the first request to the last answer.
    pub seconds: f64,
    /// Accepted events a second.
    pub accepted_per_second: f64,
    /// Milliseconds from when an event was to be sent to its answer.
    pub latency_ms: Latency,
    /// The first refusal, to know where to look.
    pub first_refusal: Option<String>,
}

/// Percentiles in milliseconds.
#[derive(Debug, Serialize)]
pub struct Latency {
    /// Half of the events were faster.
    pub p50: f64,
    /// Nine in ten.
    pub p90: f64,
    /// Ninety-nine in a hundred.
    pub p99: f64,
    /// The slowest.
    pub max: f64,
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
    payload: &'a RawValue,
}

struct Sender {
    load: Load,
    total: u64,
    next: AtomicU64,
    client: PlainClient,
    started: Instant,
    progress: ProgressBar,
}

#[derive(Default)]
struct Tally {
    accepted: u64,
    refused: u64,
    first_refusal: Option<(Instant, String)>,
    latencies: Option<Histogram<u64>>,
}

impl Load {
    /// Events in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.batches.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// Sends everything, or what goes out before `stop`; `progress` advances by one an answer.
    pub async fn run(self, progress: ProgressBar, stop: CancellationToken) -> Summary {
        let (total, concurrency) = (self.total(), self.concurrency.max(1));
        let client = plain_client(concurrency);
        let started = Instant::now();
        let sender =
            Arc::new(Sender { total, next: AtomicU64::new(0), client, started, progress, load: self });
        let mut workers = JoinSet::new();
        for _ in 0..concurrency {
            let (sender, stop) = (Arc::clone(&sender), stop.clone());
            workers.spawn(async move { sender.work(stop).await });
        }
        let mut tally = Tally::default();
        while let Some(done) = workers.join_next().await {
            tally.add(done.unwrap_or_default());
        }
        tally.summary(started.elapsed())
    }
}

impl Sender {
    async fn work(&self, stop: CancellationToken) -> Tally {
        let mut tally = Tally { latencies: Histogram::new(3).ok(), ..Tally::default() };
        while !stop.is_cancelled() {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.total {
                break;
            }
            let due = self.load.rate.map_or_else(Instant::now, |rate| self.due(index, rate));
            // Measured from when it was due where that has passed, so that a server that stalls can't hide behind
            // the events it delayed; a timer's own lateness of up to a millisecond isn't the server's.
            let mut start = due;
            if due > Instant::now() {
                if stop.run_until_cancelled(tokio::time::sleep_until(due)).await.is_none() {
                    break;
                }
                start = Instant::now();
            }
            match self.post(index).await {
                Ok(()) => tally.accepted = tally.accepted.saturating_add(1),
                Err(refusal) => {
                    tally.refused = tally.refused.saturating_add(1);
                    tally.first_refusal.get_or_insert((Instant::now(), refusal));
                }
            }
            if let Some(latencies) = &mut tally.latencies {
                let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(MOST_MICROS);
                // Fails only for values beyond what it can grow to.
                let _ = latencies.record(micros.clamp(1, MOST_MICROS));
            }
            self.progress.inc(1);
        }
        tally
    }

    /// When event `index` is to be sent at `rate` events a second.
    fn due(&self, index: u64, rate: f64) -> Instant {
        let after = Duration::try_from_secs_f64(index as f64 / rate).unwrap_or_default();
        self.started.checked_add(after).unwrap_or(self.started)
    }

    async fn post(&self, index: u64) -> Result<(), String> {
        let request = self.request(index).ok_or("the event can't be written as JSON")?;
        let exchange = async {
            let response =
                self.client.request(request).await.map_err(|error| root_cause(&error).to_string())?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MOST_REFUSAL_BYTES).collect().await;
            let body = body.map(|body| body.to_bytes()).unwrap_or_default();
            if status == StatusCode::ACCEPTED { Ok(()) } else { Err(describe_refusal(status, &body)) }
        };
        let answer = tokio::time::timeout(REQUEST_TIME, exchange).await;
        answer.unwrap_or_else(|_| Err(format!("no answer within {} s", REQUEST_TIME.as_secs())))
    }

    fn request(&self, index: u64) -> Option<Request<Full<Bytes>>> {
        let payload = self.load.template.fill(index.saturating_add(1));
        let (url, tenant, authorization) = match &self.load.to {
            Recipients::Urls(urls) => (Some(in_turn(urls, index)?), None, None),
            Recipients::Subscribers { authorization, tenant } => {
                (None, tenant.as_deref(), Some(authorization))
            }
        };
        let body = Body {
            url,
            target: self.target_of(index),
            tenant,
            kind: in_turn(&self.load.kinds, index),
            payload: serde_json::from_str(&payload).ok()?,
        };
        let mut request = Request::new(Full::from(serde_json::to_vec(&body).ok()?));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.load.publish_url.clone();
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        request.headers_mut().extend(authorization.map(|key| (AUTHORIZATION, key.clone())));
        Some(request)
    }

    fn target_of(&self, index: u64) -> Option<&str> {
        let mut before = 0_u64;
        for (target, count) in &self.load.batches {
            before = before.saturating_add(*count);
            if index < before {
                return target.as_deref();
            }
        }
        None
    }
}

/// One of `texts`: each in its turn.
fn in_turn(texts: &[String], index: u64) -> Option<&str> {
    let turn = usize::try_from(index).unwrap_or(0).checked_rem(texts.len())?;
    texts.get(turn).map(String::as_str)
}

/// The status, and the `detail` of a problem (RFC 9457) where there is one.
fn describe_refusal(status: StatusCode, body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Problem {
        detail: String,
    }
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => format!("{status}: {}", problem.detail),
        Err(_) => status.to_string(),
    }
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.accepted = self.accepted.saturating_add(other.accepted);
        self.refused = self.refused.saturating_add(other.refused);
        self.first_refusal = [self.first_refusal.take(), other.first_refusal].into_iter().flatten().min();
        match (&mut self.latencies, other.latencies) {
            (Some(mine), Some(theirs)) => mine.add(theirs).unwrap_or_default(),
            (mine, theirs) => *mine = mine.take().or(theirs),
        }
    }

    fn summary(self, elapsed: Duration) -> Summary {
        let at = |quantile: f64| {
            let micros = self.latencies.as_ref().map_or(0, |latencies| latencies.value_at_quantile(quantile));
            Duration::from_micros(micros).as_secs_f64() * 1_000.0
        };
        let seconds = elapsed.as_secs_f64();
        Summary {
            accepted: self.accepted,
            refused: self.refused,
            seconds,
            accepted_per_second: self.accepted as f64 / seconds.max(f64::MIN_POSITIVE),
            latency_ms: Latency { p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1.0) },
            first_refusal: self.first_refusal.map(|(_, refusal)| refusal),
        }
    }
}
