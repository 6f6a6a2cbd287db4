//! The load generator: publishes events at a given rate or as fast as the server accepts them, and measures.

mod request;
mod summary;
mod template;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderValue, StatusCode, Uri};
use http_body_util::{BodyExt as _, Limited};
use indicatif::ProgressBar;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::common::http::{PlainClient, connect_failure, plain_client, root_cause};
pub use summary::{Latency, Summary};
use summary::{Refusal, Tally};
pub use template::{Template, TemplateError};

/// Time limit of one request.
const REQUEST_TIME_LIMIT: Duration = Duration::from_secs(60);

/// Maximum bytes of a refusal that are read to be shown.
const MAX_REFUSAL_BYTES: usize = 64 * 1024;

/// Events to publish.
#[derive(Debug)]
pub struct Load {
    /// URL of the publish route.
    pub publish_url: Uri,
    /// Recipients of the events.
    pub to: Recipients,
    /// Targets of direct mode and the number of events for each, in this order.
    pub batches: Vec<(Option<String>, u64)>,
    /// Event types, used in turn. If there are none, events carry no type.
    pub kinds: Vec<String>,
    /// Template of the payloads.
    pub template: Template,
    /// Maximum requests in flight.
    pub concurrency: usize,
    /// Events per second. `None` sends as fast as the server accepts them.
    pub rate: Option<f64>,
}

/// Recipients of the events.
#[derive(Debug)]
pub enum Recipients {
    /// Direct mode: the webhook URLs, used in turn.
    Urls(Vec<String>),
    /// The endpoints that subscribe to the event type.
    Subscribers {
        /// Value of the `Authorization` header.
        authorization: HeaderValue,
        /// Tenant whose endpoints receive the events. `None` addresses all tenants.
        tenant: Option<String>,
    },
}

/// The load with the state that its workers share.
struct Sender {
    load: Load,
    total: u64,
    next: AtomicU64,
    client: PlainClient,
    started: Instant,
    progress: ProgressBar,
}

impl Load {
    /// Returns the total number of events.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.batches.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// Sends all events, or those that are due before `stop` is cancelled. Each response advances `progress` by one.
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
        while let Some(result) = workers.join_next().await {
            tally.merge(result.unwrap_or_default());
        }
        tally.summary(started.elapsed())
    }
}

impl Sender {
    /// Sends events until none is left or `stop` is cancelled.
    async fn work(&self, stop: CancellationToken) -> Tally {
        let mut tally = Tally::new();
        while !stop.is_cancelled() {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.total {
                break;
            }
            let due = self.load.rate.map_or_else(Instant::now, |rate| self.due(index, rate));
            // A late event is measured from the time it was due. Otherwise a server that stalls would hide behind the
            // events it delays. An event in time is measured from when it is sent, because timers are up to 1 ms late.
            let mut start = due;
            if due > Instant::now() {
                if stop.run_until_cancelled(tokio::time::sleep_until(due)).await.is_none() {
                    break;
                }
                start = Instant::now();
            }
            let result = self.post(index).await;
            tally.record(result, start.elapsed());
            self.progress.inc(1);
        }
        tally
    }

    /// Returns the time at which event `index` is due at `rate` events per second.
    fn due(&self, index: u64, rate: f64) -> Instant {
        let after = Duration::try_from_secs_f64(index as f64 / rate).unwrap_or_default();
        self.started.checked_add(after).unwrap_or(self.started)
    }

    async fn post(&self, index: u64) -> Result<(), Refusal> {
        let request = self.load.request(index).ok_or_else(|| Refusal::other("the event isn't valid JSON"))?;
        let exchange = async {
            let response =
                self.client.request(request).await.map_err(|error| match connect_failure(&error) {
                    Some(reason) => Refusal::NoServer(reason),
                    None => Refusal::Other(root_cause(&error).to_string()),
                })?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_REFUSAL_BYTES).collect().await;
            let body = body.map(|body| body.to_bytes()).unwrap_or_default();
            if status == StatusCode::ACCEPTED { Ok(()) } else { Err(Refusal::answered(status, &body)) }
        };
        let result = tokio::time::timeout(REQUEST_TIME_LIMIT, exchange).await;
        result.unwrap_or_else(|_| {
            Err(Refusal::Other(format!("no response within {} s", REQUEST_TIME_LIMIT.as_secs())))
        })
    }
}
