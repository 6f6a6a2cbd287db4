//! Decrypted events in either format.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::rejection::Rejection;
use super::seen::IdGuard;
use crate::common::crypto::legacy::LegacyMessage;

/// Decrypted bytes. The request that forwards them shares them, and the last owner wipes them.
pub(super) type Plaintext = Arc<Zeroizing<Vec<u8>>>;

/// Decrypted event. `Debug` shows no payload.
pub(super) struct OpenedEvent {
    pub(super) plaintext: Plaintext,
    /// The `webhook-id` header, if there is one.
    pub(super) id: Option<String>,
    /// Guard of the id. `None` if the delivery has no id.
    pub(super) guard: Option<IdGuard>,
    /// Whether the event came in the format of the Deno scripts.
    pub(super) is_legacy: bool,
}

/// Members of an event in either format. It has no `Debug`, which would show the payload.
pub(super) struct Event<'a> {
    /// Id by which duplicates are recognized: the `webhook-id` header, or else the id in the plaintext.
    pub(super) id: Option<Cow<'a, str>>,
    /// Id of the event in the plaintext, the same at every endpoint.
    pub(super) event_id: Option<Cow<'a, str>>,
    pub(super) kind: Option<Cow<'a, str>>,
    pub(super) time: Cow<'a, str>,
    pub(super) data: &'a RawValue,
}

/// Plaintext of an envelope.
#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    timestamp: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a RawValue,
}

impl OpenedEvent {
    /// Parses the plaintext.
    pub(super) fn event(&self) -> Result<Event<'_>, Rejection> {
        if self.is_legacy {
            let message: LegacyMessage<'_> =
                serde_json::from_slice(&self.plaintext).map_err(|_| Rejection::Message)?;
            let time = Timestamp::from_millisecond(message.timestamp).map_err(|_| Rejection::Message)?;
            let id = self.id.as_deref().map(Cow::from);
            let time = time.to_string().into();
            return Ok(Event { id, event_id: None, kind: None, time, data: message.payload });
        }
        let message: Message<'_> = serde_json::from_slice(&self.plaintext).map_err(|_| Rejection::Message)?;
        let Message { id, r#type, timestamp, data } = message;
        let message_id = self.id.as_deref().map_or_else(|| id.clone(), Cow::from);
        let (id, event_id) = (Some(message_id), Some(id));
        Ok(Event { id, event_id, kind: Some(r#type), time: timestamp, data })
    }

    /// Returns the plaintext of the message.
    pub(super) fn plaintext(&self) -> &Plaintext {
        &self.plaintext
    }

    /// Records the id as handled.
    pub(super) fn mark_handled(mut self) {
        if let Some(guard) = self.guard.take() {
            guard.mark_handled();
        }
    }
}

impl fmt::Debug for OpenedEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenedEvent").field("id", &self.id).finish_non_exhaustive()
    }
}
