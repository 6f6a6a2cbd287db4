//! Events, jobs and their names.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use rand::RngExt as _;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::endpoint_url::EndpointUrl;

/// The id of a job, `msg_` and 32 hexadecimal digits: what a customer dedupes by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(Uuid);

/// The id of a published event, `evt_` and 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(Uuid);

macro_rules! prefixed_id {
    ($name:ident, $prefix:literal) => {
        impl $name {
            /// A new id: a UUID version 7 (RFC 9562, section 5.7), so ids sort by the time they were made.
            #[expect(clippy::new_without_default, reason = "every call gives another id")]
            #[must_use]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0.simple())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

prefixed_id!(MessageId, "msg_");
prefixed_id!(EventId, "evt_");

/// What is sealed: the plaintext of one message.
#[derive(Serialize)]
pub struct Message<'a> {
    /// The message id, also in the `webhook-id` header.
    pub id: MessageId,
    /// The event type, such as `invoice.paid`.
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// When the event was published, RFC 3339.
    pub timestamp: Timestamp,
    /// What was published, byte for byte.
    pub data: &'a RawValue,
}

/// What order, fairness and throttling are kept by: one endpoint, or in direct mode one URL. `Debug` hides its
/// name, since a URL may hold a token.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane(Arc<str>);

impl Lane {
    /// The lane of that name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lane(…)")
    }
}

/// How a sealed body is labelled when it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentType {
    /// `application/jose+json`.
    Jose,
    /// `application/json`.
    Json,
}

impl ContentType {
    /// The header's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Jose => "application/jose+json",
            Self::Json => "application/json",
        }
    }
}

/// The trace that a message belongs to (W3C Trace Context): it rides in the job, so that publish and every
/// attempt are one trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: u128,
    sampled: bool,
}

impl TraceContext {
    /// A new trace, sampled.
    #[must_use]
    pub fn new() -> Self {
        Self { trace_id: rand::rng().random_range(1..=u128::MAX), sampled: true }
    }

    /// The trace of a `traceparent` header of version 00; `None` where it isn't one.
    #[must_use]
    pub fn parse(header: &str) -> Option<Self> {
        let lower_hex = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let mut parts = header.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let shaped = version == "00" && trace.len() == 32 && span.len() == 16 && flags.len() == 2;
        if !shaped || parts.next().is_some() || ![trace, span, flags].into_iter().all(lower_hex) {
            return None;
        }
        let trace_id = u128::from_str_radix(trace, 16).ok().filter(|id| *id != 0)?;
        u64::from_str_radix(span, 16).ok().filter(|id| *id != 0)?;
        let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        Some(Self { trace_id, sampled })
    }

    /// The `traceparent` header of one attempt, with a span id of its own.
    #[must_use]
    pub fn attempt_header(&self) -> String {
        let span_id = rand::rng().random_range(1..=u64::MAX);
        format!("00-{:032x}-{span_id:016x}-{:02x}", self.trace_id, u8::from(self.sampled))
    }
}

impl Default for TraceContext {
    fn default() -> Self {
        Self::new()
    }
}

/// One sealed event on its way to one endpoint. `Debug` leaves the body out.
#[derive(Clone)]
pub struct Job {
    /// The same on every attempt.
    pub id: MessageId,
    /// The tenant it belongs to; in direct mode the publisher's `target`.
    pub tenant: Arc<str>,
    /// What it is ordered and throttled by.
    pub lane: Lane,
    /// Where it goes.
    pub url: EndpointUrl,
    /// How the body is labelled.
    pub content_type: ContentType,
    /// The sealed event: an envelope.
    pub body: Bytes,
    /// When it was published.
    pub published_at: Timestamp,
    /// The trace it belongs to.
    pub trace: TraceContext,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("id", &self.id)
            .field("tenant", &self.tenant)
            .field("url", &self.url)
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_prefixed_and_sort_by_time() {
        let (first, second) = (MessageId::new(), MessageId::new());
        assert!(first < second);
        assert!(first.to_string().starts_with("msg_"));
        assert_eq!(EventId::new().to_string().len(), "evt_".len() + 32);
    }

    #[test]
    fn a_trace_goes_on_with_another_span() {
        let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let trace = TraceContext::parse(header).unwrap();
        let attempt = trace.attempt_header();
        assert_eq!(attempt[..36], header[..36]);
        assert_ne!(attempt[36..52], header[36..52]);
        assert!(attempt.ends_with("-01"));
    }

    #[test]
    fn a_traceparent_that_is_not_one_is_passed_over() {
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
            url: EndpointUrl::parse("http://localhost/?token=secret").unwrap(),
            content_type: ContentType::Jose,
            body: Bytes::from_static(b"payload"),
            published_at: Timestamp::now(),
            trace: TraceContext::new(),
        };
        let shown = format!("{job:?}");
        assert!(!shown.contains("payload") && !shown.contains("token"), "{shown}");
    }
}
