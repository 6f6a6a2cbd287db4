//! Jobs: sealed events on their way to endpoints.

mod trace;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::endpoint_url::EndpointUrl;
use super::id::{EndpointId, EventId, MessageId, TenantId};
pub use trace::TraceContext;

/// Plaintext of a message, before it is sealed. All messages of one event to one tenant have the same plaintext.
#[derive(Serialize)]
pub struct Message<'a> {
    /// Id of the event. The id of the message is in its `webhook-id` header.
    pub id: EventId,
    /// Event type, such as `invoice.paid`.
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// Time of publishing, as RFC 3339.
    pub timestamp: Timestamp,
    /// Published payload, byte for byte.
    pub data: &'a RawValue,
}

/// Unit of order, fairness and throttling: one endpoint, or in direct mode one URL.
///
/// `Debug` hides the name, because a URL may hold a token.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane(Arc<str>);

impl Lane {
    /// Makes the lane called `name`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// Returns the name, which may be a secret.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lane(…)")
    }
}

/// Content type of a delivery.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum ContentType {
    /// The registered type of a JWE in JSON
    #[default]
    #[serde(rename = "application/jose+json")]
    Jose,
    /// Plain JSON, for receivers whose framework parses no other type
    #[serde(rename = "application/json")]
    Json,
}

impl ContentType {
    /// Returns the value of the header.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Jose => "application/jose+json",
            Self::Json => "application/json",
        }
    }

    /// Returns the content type called `name`, or `None` if it is another one.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Jose, Self::Json].into_iter().find(|content_type| content_type.as_str() == name)
    }
}

/// Target of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Direct mode: the URL that the event named.
    Url(EndpointUrl),
    /// An endpoint of a tenant, with its settings at the time of the attempt.
    Endpoint(TenantId, EndpointId),
}

impl Target {
    /// Returns the lane of the target's jobs.
    #[must_use]
    pub fn lane(&self) -> Lane {
        match self {
            Self::Url(url) => Lane::new(&url.uri().to_string()),
            Self::Endpoint(_, id) => Lane::new(&id.to_string()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => url.fmt(f),
            Self::Endpoint(_, id) => id.fmt(f),
        }
    }
}

/// Sealed event on its way to one endpoint. `Debug` omits the body.
#[derive(Clone)]
pub struct Job {
    /// Message id, the same on every attempt.
    pub id: MessageId,
    /// Id of the tenant; in direct mode the publisher's `target`.
    pub tenant: Arc<str>,
    /// Lane of the job.
    pub lane: Lane,
    /// Whether the job waits for the jobs before it in its lane.
    pub ordered: bool,
    /// Target of the job.
    pub target: Target,
    /// Content type of the body.
    pub content_type: ContentType,
    /// Sealed event: an envelope.
    pub body: Bytes,
    /// Time of publishing.
    pub published_at: Timestamp,
    /// Trace of the message.
    pub trace: TraceContext,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("id", &self.id)
            .field("tenant", &self.tenant)
            .field("target", &self.target)
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_body() {
        let job = Job {
            id: MessageId::new(),
            tenant: "customer-1".into(),
            lane: Lane::new("http://localhost/"),
            ordered: false,
            target: Target::Url(EndpointUrl::parse("http://localhost/?token=secret").unwrap()),
            content_type: ContentType::Jose,
            body: Bytes::from_static(b"payload"),
            published_at: Timestamp::now(),
            trace: TraceContext::new(),
        };
        let shown = format!("{job:?}");
        assert!(!shown.contains("payload") && !shown.contains("token"), "{shown}");
    }
}
