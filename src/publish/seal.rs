//! Encryption of one event's payload, in either envelope.

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::value::RawValue;

use super::PublishError;
use crate::common::crypto::envelope::Sealer;
use crate::common::crypto::keys::PublicKey;
use crate::common::crypto::legacy::{self, LegacyError};
use crate::common::id::EventId;
use crate::common::job::{ContentType, Message};

/// Envelope and key that direct-mode events are sealed with.
#[derive(Debug)]
pub enum DirectSealer {
    /// Flattened JWE.
    Jwe(Sealer),
    /// Format of the Deno scripts.
    RsaOaep(PublicKey),
}

/// A sealed body and its content type.
pub(super) type SealedBody = (ContentType, Bytes);

/// An event in plaintext, the same for every recipient.
#[derive(Clone, Copy)]
pub(super) struct PlainEvent<'a> {
    pub(super) id: EventId,
    pub(super) kind: &'a str,
    pub(super) payload: &'a RawValue,
    pub(super) timestamp: Timestamp,
}

impl PlainEvent<'_> {
    /// Seals the event as a JWE.
    pub(super) fn seal_as_jwe(&self, sealer: &Sealer) -> Result<SealedBody, PublishError> {
        let message = Message { id: self.id, kind: self.kind, timestamp: self.timestamp, data: self.payload };
        // The members around the payload take about 120 bytes. With room for them the buffer never grows.
        let mut plaintext = Vec::with_capacity(self.payload.get().len().saturating_add(192));
        serde_json::to_writer(&mut plaintext, &message)?;
        Ok((ContentType::Jose, sealer.seal(plaintext)?))
    }

    /// Seals the payload in the Deno scripts' format, which has no event id or type.
    pub(super) fn seal_as_rsa_oaep(&self, key: &PublicKey) -> Result<SealedBody, LegacyError> {
        let body = legacy::seal(key, self.payload, self.timestamp.as_millisecond())?;
        Ok((ContentType::Json, body))
    }
}
