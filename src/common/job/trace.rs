//! Traces of messages (W3C Trace Context).

use std::fmt;

use rand::RngExt as _;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

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
}
