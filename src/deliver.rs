//! One attempt: egress guard, signature, POST, outcome.

mod connect;
pub mod egress;

use std::io;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, RETRY_AFTER, USER_AGENT};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::common::clock::Clock;
use crate::common::crypto::signature::{self, Secret};
use crate::common::endpoint_url::EndpointUrl;
use crate::common::http::{self as plumbing, root_cause};
use crate::common::job::Job;
use crate::common::retry::{Failure, Outcome};
pub use connect::{ExtraRoots, ExtraRootsError};
use connect::{GuardedDial, refusal_in};
use egress::EgressGuard;

/// The header with the message id (Standard Webhooks).
pub const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
/// The header with the attempt's time in Unix seconds (Standard Webhooks).
pub const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
/// The header with the signatures (Standard Webhooks).
pub const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
/// The header with the trace (W3C Trace Context).
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// A response longer than this is a failure, and no more of it is read.
pub const MOST_RESPONSE: usize = 64 * 1024;

/// How long an unused connection to a customer is kept.
const IDLE: Duration = Duration::from_secs(60);
/// How often an HTTP/2 connection in use is asked whether it lives, and how long the answer may take.
const PING_AFTER: Duration = Duration::from_secs(10);
const PING_TIME: Duration = Duration::from_secs(5);

/// How long the rest of a refusal is read so that its connection can be used again.
const REST_TIME: Duration = Duration::from_secs(1);

/// What attempts are made with.
#[derive(Debug, Clone)]
pub struct DeliverConfig {
    /// Connect, headers and body together.
    pub time_limit: Duration,
    /// Which addresses may be called.
    pub guard: EgressGuard,
    /// Roots of trust beyond Mozilla's.
    pub extra_roots: ExtraRoots,
    /// Unused connections that are kept per host and port.
    pub idle_connections: usize,
}

/// Where an attempt goes, and what it carries beside the sealed event.
#[derive(Debug)]
pub struct Destination<'a> {
    /// Where.
    pub url: &'a EndpointUrl,
    /// Headers of the endpoint's own.
    pub headers: &'a [(HeaderName, HeaderValue)],
    /// What the attempt is signed with: where there are none, it isn't.
    pub secrets: Vec<&'a Secret>,
}

/// Makes attempts.
pub struct Deliverer {
    client: Client<HttpsConnector<GuardedDial>, Full<Bytes>>,
    time_limit: Duration,
    clock: Clock,
}

impl Deliverer {
    /// A deliverer whose outcomes are timed by `clock`.
    #[must_use]
    pub fn new(config: DeliverConfig, clock: Clock) -> Self {
        let roots = (*config.extra_roots.0).clone();
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(config.idle_connections)
            .http1_max_buf_size(MOST_RESPONSE)
            // Without it a connection that died silently would be handed out again and again.
            .http2_keep_alive_interval(PING_AFTER)
            .http2_keep_alive_timeout(PING_TIME)
            .build(connect::connector(&config.guard, roots, config.time_limit));
        Self { client, time_limit: config.time_limit, clock }
    }

    /// Makes one attempt to deliver `job` to `destination`. Dropping the future breaks the attempt off.
    pub async fn attempt(&self, job: &Job, destination: &Destination<'_>) -> Outcome {
        let exchange = self.exchange(request(job, destination));
        let result = match tokio::time::timeout(self.time_limit, exchange).await {
            Ok(result) => result,
            Err(_) => Err(Failure::TimedOut),
        };
        Outcome { at: self.clock.now(), result }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<u16, Failure> {
        let response = self.client.request(request).await.map_err(|error| failure_of(&error))?;
        let status = response.status();
        if status.is_success() {
            read_to_end(response.into_body()).await?;
            return Ok(status.as_u16());
        }
        let failure = Failure::Status { status: status.as_u16(), retry_after: retry_after(&response) };
        // The status has said what there is to know, whatever becomes of the rest.
        drop(tokio::time::timeout(REST_TIME, read_to_end(response.into_body())).await);
        Err(failure)
    }
}

fn request(job: &Job, destination: &Destination<'_>) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(job.body.clone()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = destination.url.uri().clone();
    let headers = request.headers_mut();
    // First, so that none of them takes the place of ours.
    headers.extend(destination.headers.iter().cloned());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(job.content_type.as_str()));
    headers.insert(USER_AGENT, HeaderValue::from_static(plumbing::USER_AGENT));
    let signed_at = unix_seconds();
    let id = job.id.to_string();
    if !destination.secrets.is_empty() {
        let signatures = signature::sign(destination.secrets.iter().copied(), &id, signed_at, &job.body);
        insert(headers, WEBHOOK_SIGNATURE, signatures);
    }
    insert(headers, WEBHOOK_ID, id);
    insert(headers, WEBHOOK_TIMESTAMP, signed_at.to_string());
    insert(headers, TRACEPARENT, job.trace.attempt_header());
    request
}

/// Seconds since 1970 by the system's clock, which receivers compare with theirs.
fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: String) {
    // Ids, numbers and base64: always a valid header value.
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

/// Reads a response to its end and keeps none of it.
async fn read_to_end(mut body: Incoming) -> Result<(), Failure> {
    let mut read = 0_usize;
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| Failure::Broken(format!("response broke off: {}", root_cause(&error))))?;
        read = read.saturating_add(frame.data_ref().map_or(0, Bytes::len));
        if read > MOST_RESPONSE {
            return Err(Failure::ResponseTooLarge(MOST_RESPONSE));
        }
    }
    Ok(())
}

/// RFC 9110, section 10.2.3: seconds, or a date.
fn retry_after(response: &Response<Incoming>) -> Option<Duration> {
    if !matches!(response.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        return None;
    }
    let value = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    match value.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(SystemTime::now()).ok(),
    }
}

fn failure_of(error: &Error) -> Failure {
    if let Some(refusal) = refusal_in(error) {
        return Failure::Refused(refusal.to_string());
    }
    let cause = root_cause(error);
    if let Some(error) = cause.downcast_ref::<io::Error>().filter(|error| is_local(error)) {
        return Failure::Local(error.to_string());
    }
    let cause = cause.to_string();
    if error.is_connect() { Failure::Connect(cause) } else { Failure::Broken(cause) }
}

/// Whether this machine, and not the customer, is the reason: no descriptors, memory, buffers or ports are left.
fn is_local(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOBUFS: i32 = 105;
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::OutOfMemory)
        || matches!(error.raw_os_error(), Some(ENFILE | EMFILE | ENOBUFS))
}
