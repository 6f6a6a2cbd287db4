//! Where opened events go: to stdout, a JSON line each, or to a local application.

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

use super::receiver::{Event, Opened, Plaintext, Rejection};
use crate::common::crypto::signature::Signer;
use crate::common::http::{PlainClient, plain_client, root_cause};
use crate::deliver::{WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP};

/// How long the local application may take: under the provider's 30 s, so that it hears an answer.
const FORWARD_TIME: Duration = Duration::from_secs(25);

/// An event on stdout.
#[derive(Serialize)]
struct Line<'a> {
    id: Option<&'a str>,
    event_id: Option<&'a str>,
    r#type: Option<&'a str>,
    time: &'a str,
    data: &'a RawValue,
}

/// Writes lines to stdout, one after the other. A reader that doesn't read holds up one of the runtime's threads,
/// and every delivery until it does.
pub(super) struct Printer(Mutex<io::Stdout>);

impl Printer {
    pub(super) fn new() -> Self {
        Self(Mutex::new(io::stdout()))
    }

    /// Prints one event; an answer of `Ok` means that stdout has it.
    pub(super) async fn print(&self, event: &Event<'_>) -> io::Result<()> {
        let Event { id, event_id, kind, time, data } = event;
        let (id, event_id) = (id.as_deref(), event_id.as_deref());
        let fields = Line { id, event_id, r#type: kind.as_deref(), time, data };
        // Room for the frame as well: a buffer that grows leaves copies behind.
        let mut line = Zeroizing::new(Vec::with_capacity(data.get().len().saturating_add(1_024)));
        serde_json::to_writer(&mut *line, &fields)?;
        // Line ends stand only between a payload's tokens (RFC 8259, section 7): without them it is one line.
        line.retain(|byte| !matches!(byte, b'\n' | b'\r'));
        line.push(b'\n');
        let mut out = self.0.lock().await;
        out.write_all(&line)?;
        out.flush()
    }
}

/// Lends decrypted bytes to a request without a copy.
struct Wiped(Plaintext);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Hands decrypted messages to a local application, signed anew so that it can verify them as usual.
pub(super) struct Forwarder {
    client: PlainClient,
    url: Uri,
    signer: Option<Signer>,
}

impl Forwarder {
    pub(super) fn new(url: Uri, signer: Option<Signer>) -> Self {
        Self { client: plain_client(64), url, signer }
    }

    /// The application's status.
    pub(super) async fn forward(&self, opened: &Opened) -> Result<StatusCode, Rejection> {
        let request = self.request(opened)?;
        match tokio::time::timeout(FORWARD_TIME, self.client.request(request)).await {
            Ok(Ok(response)) => Ok(response.status()),
            Ok(Err(error)) => Err(Rejection::Unreachable(root_cause(&error).to_string())),
            Err(_) => Err(Rejection::Unanswered(FORWARD_TIME)),
        }
    }

    fn request(&self, opened: &Opened) -> Result<Request<Full<Bytes>>, Rejection> {
        let event = opened.event()?;
        let id = event.id.as_deref().unwrap_or_default();
        let timestamp = jiff::Timestamp::now().as_second();
        let body = Bytes::from_owner(Wiped(Arc::clone(opened.plaintext())));
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
