//! Jobs: sealed events on their way to endpoints.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use rand::RngExt as _;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::endpoint_url::EndpointUrl;
use super::id::{EndpointId, EventId, MessageId, TenantId};

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

/// Trace of a message (W3C Trace Context). The job carries it, so that publishing and every attempt are one trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: u128,
    sampled: bool,
}

impl TraceContext {
    /// Starts a new trace, which is sampled.
    #[must_use]
    pub fn new() -> Self {
        Self { trace_id: rand::rng().random_range(1..=u128::MAX), sampled: true }
    }

    /// Parses a `traceparent` header of version 00. `None` if it is malformed.
    #[must_use]
    pub fn parse(header: &str) -> Option<Self> {
        let lower_hex = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let mut parts = header.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let is_well_formed = version == "00" && trace.len() == 32 && span.len() == 16 && flags.len() == 2;
        if !is_well_formed || parts.next().is_some() || ![trace, span, flags].into_iter().all(lower_hex) {
            return None;
        }
        let trace_id = u128::from_str_radix(trace, 16).ok().filter(|id| *id != 0)?;
        u64::from_str_radix(span, 16).ok().filter(|id| *id != 0)?;
        let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        Some(Self { trace_id, sampled })
    }

    /// Returns the `traceparent` header of one attempt, with a new span id.
    #[must_use]
    pub fn attempt_header(&self) -> String {
        let span_id = rand::rng().random_range(1..=u64::MAX);
        format!("00-{:032x}-{span_id:016x}-{:02x}", self.trace_id, u8::from(self.sampled))
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}-{:02x}", self.trace_id, u8::from(self.sampled))
    }
}

impl Serialize for TraceContext {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TraceContext {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        let parsed = text.split_once('-').and_then(|(trace, flags)| {
            let trace_id = u128::from_str_radix(trace, 16).ok()?;
            Some(Self { trace_id, sampled: flags == "01" })
        });
        parsed.ok_or_else(|| D::Error::custom("not a trace"))
    }
}

impl Default for TraceContext {
    fn default() -> Self {
        Self::new()
    }
}

/// One sealed event on its way to one endpoint. `Debug` omits the body.
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
    fn each_attempt_continues_the_trace_with_a_new_span() {
        let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let trace = TraceContext::parse(header).unwrap();
        let attempt = trace.attempt_header();
        assert_eq!(attempt[..36], header[..36]);
        assert_ne!(attempt[36..52], header[36..52]);
        assert!(attempt.ends_with("-01"));
    }

    #[test]
    fn a_malformed_traceparent_is_ignored() {
        for header in [
            "",
            "00",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            assert_eq!(TraceContext::parse(header), None, "{header}");
        }
    }

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
