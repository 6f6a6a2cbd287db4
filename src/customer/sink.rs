//! Sinks of decrypted events: stdout, with one JSON line per event, or a local application.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::Full;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::event::{Event, OpenedEvent, Plaintext};
use super::rejection::Rejection;
use crate::common::crypto::signature::Signer;
use crate::common::http::{PlainClient, plain_client, root_cause};
use crate::deliver::{WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP};

/// Time limit for the local application. It is below the provider's 30 s, so that the provider gets a response.
const FORWARD_TIME_LIMIT: Duration = Duration::from_secs(25);

/// Line of an event on stdout.
#[derive(Serialize)]
struct Line<'a> {
    id: Option<&'a str>,
    event_id: Option<&'a str>,
    r#type: Option<&'a str>,
    time: &'a str,
    data: &'a RawValue,
}

/// Writer of lines to stdout. While the reader of the pipe doesn't read, a write blocks one of the runtime's threads
/// and all deliveries.
pub(super) struct Printer(Mutex<io::Stdout>);

impl Printer {
    pub(super) fn new() -> Self {
        Self(Mutex::new(io::stdout()))
    }

    /// Prints one event. Returns when stdout has taken it.
    pub(super) async fn print(&self, event: &Event<'_>) -> io::Result<()> {
        let Event { id, event_id, kind, time, data } = event;
        let (id, event_id) = (id.as_deref(), event_id.as_deref());
        let fields = Line { id, event_id, r#type: kind.as_deref(), time, data };
        // The capacity covers the members around the data as well, because a buffer that grows leaves unwiped copies.
        let mut line = Zeroizing::new(Vec::with_capacity(data.get().len().saturating_add(1_024)));
        serde_json::to_writer(&mut *line, &fields)?;
        // In JSON, line breaks only occur between tokens (RFC 8259, section 7), so they can be removed.
        line.retain(|byte| !matches!(byte, b'\n' | b'\r'));
        line.push(b'\n');
        let mut out = self.0.lock().await;
        out.write_all(&line)?;
        out.flush()
    }
}

/// Decrypted bytes, lent to a request without a copy.
struct SharedPlaintext(Plaintext);

impl AsRef<[u8]> for SharedPlaintext {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Client that forwards decrypted events to a local application. It signs them anew, so that the application can
/// verify them as usual.
pub(super) struct Forwarder {
    client: PlainClient,
    url: Uri,
    signer: Option<Signer>,
}

impl Forwarder {
    pub(super) fn new(url: Uri, signer: Option<Signer>) -> Self {
        Self { client: plain_client(64), url, signer }
    }

    /// Forwards an event. Returns the status of the application.
    pub(super) async fn forward(&self, opened: &OpenedEvent) -> Result<StatusCode, Rejection> {
        let request = self.request(opened)?;
        match tokio::time::timeout(FORWARD_TIME_LIMIT, self.client.request(request)).await {
            Ok(Ok(response)) => Ok(response.status()),
            Ok(Err(error)) => Err(Rejection::Unreachable(root_cause(&error).to_string())),
            Err(_) => Err(Rejection::Unanswered(FORWARD_TIME_LIMIT)),
        }
    }

    fn request(&self, opened: &OpenedEvent) -> Result<Request<Full<Bytes>>, Rejection> {
        let event = opened.event()?;
        let id = event.id.as_deref().unwrap_or_default();
        let timestamp = jiff::Timestamp::now().as_second();
        let body = Bytes::from_owner(SharedPlaintext(Arc::clone(opened.plaintext())));
        let mut request = Request::new(Full::new(body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.url.clone();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(WEBHOOK_ID, HeaderValue::try_from(id).map_err(|_| Rejection::Id)?);
        headers.insert(WEBHOOK_TIMESTAMP, timestamp.into());
        if let Some(signature) = self.signer.as_ref().map(|signer| signer.sign(id, timestamp, &body)) {
            headers.insert(WEBHOOK_SIGNATURE, HeaderValue::try_from(signature).map_err(|_| Rejection::Id)?);
        }
        Ok(request)
    }
}
