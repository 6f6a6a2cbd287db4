//! Delivery attempts: an attempt signs a job, sends it through the egress guard, and returns the outcome.

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

/// Header with the message id (Standard Webhooks).
pub const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
/// Header with the time of the attempt in Unix seconds (Standard Webhooks).
pub const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
/// Header with the signatures (Standard Webhooks).
pub const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
/// Header with the trace (W3C Trace Context).
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Maximum bytes of a response. A longer one is a failure, and its rest isn't read.
pub const MAX_RESPONSE_BYTES: usize = 64 * 1024;

/// Time after which an unused connection to an endpoint is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Interval of the pings on an HTTP/2 connection in use.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// Time limit for the response to a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// Time limit for reading the body of a failed response. A body that is read to its end leaves the connection
/// reusable.
const FAILED_BODY_TIMEOUT: Duration = Duration::from_secs(1);

/// Settings of a [`Deliverer`].
#[derive(Debug, Clone)]
pub struct DeliverConfig {
    /// Time limit of an attempt: connecting, headers and body together.
    pub time_limit: Duration,
    /// Rules for the addresses that may be called.
    pub guard: EgressGuard,
    /// Roots of trust beside Mozilla's.
    pub extra_roots: ExtraRoots,
    /// Maximum unused connections kept per host and port.
    pub idle_connections: usize,
}

/// Destination of an attempt, with its headers and signing secrets.
#[derive(Debug)]
pub struct Destination<'a> {
    /// URL of the endpoint.
    pub url: &'a EndpointUrl,
    /// Headers that the endpoint's settings add.
    pub headers: &'a [(HeaderName, HeaderValue)],
    /// Secrets that sign the attempt. If there are none, it isn't signed.
    pub secrets: Vec<&'a Secret>,
}

/// HTTP client that makes attempts.
pub struct Deliverer {
    client: Client<HttpsConnector<GuardedDial>, Full<Bytes>>,
    time_limit: Duration,
    clock: Clock,
}

impl Deliverer {
    /// Makes a deliverer. `clock` gives the times of the outcomes.
    #[must_use]
    pub fn new(config: DeliverConfig, clock: Clock) -> Self {
        let roots = (*config.extra_roots.0).clone();
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(config.idle_connections)
            .http1_max_buf_size(MAX_RESPONSE_BYTES)
            // Without pings, a connection that died silently would be reused again and again.
            .http2_keep_alive_interval(PING_INTERVAL)
            .http2_keep_alive_timeout(PING_TIMEOUT)
            .build(connect::connector(&config.guard, roots, config.time_limit));
        Self { client, time_limit: config.time_limit, clock }
    }

    /// Makes one attempt to deliver `job` to `destination`.
    ///
    /// Dropping the future breaks off the attempt. The endpoint may have received the request.
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
        // The status alone decides the outcome, so failures of the body are ignored.
        drop(tokio::time::timeout(FAILED_BODY_TIMEOUT, read_to_end(response.into_body())).await);
        Err(failure)
    }
}

fn request(job: &Job, destination: &Destination<'_>) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(job.body.clone()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = destination.url.uri().clone();
    let headers = request.headers_mut();
    // The endpoint's headers come first, so that they can't replace the headers below.
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

/// Returns the seconds since 1970 by the system's clock, because receivers compare them with their own clock.
fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: String) {
    // Ids, numbers and base64 are always valid header values.
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

/// Reads a response to its end and discards it.
async fn read_to_end(mut body: Incoming) -> Result<(), Failure> {
    let mut read = 0_usize;
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| Failure::Broken(format!("response broke off: {}", root_cause(&error))))?;
        read = read.saturating_add(frame.data_ref().map_or(0, Bytes::len));
        if read > MAX_RESPONSE_BYTES {
            return Err(Failure::ResponseTooLarge(MAX_RESPONSE_BYTES));
        }
    }
    Ok(())
}

/// Returns the delay of the `Retry-After` header of a 429 or 503, given in seconds or as a date (RFC 9110, section
/// 10.2.3).
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

/// Whether this machine caused the error: file descriptors, memory, buffers or ports are exhausted.
fn is_local(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOBUFS: i32 = 105;
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::OutOfMemory)
        || matches!(error.raw_os_error(), Some(ENFILE | EMFILE | ENOBUFS))
}
