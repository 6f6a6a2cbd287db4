//! A request to publish an event to subscribed endpoints, the same for every wire format.

use std::borrow::Cow;

use serde::{Deserialize as _, Deserializer};
use serde_json::value::RawValue;

/// An event for subscribed endpoints, as it was sent. Its values are unchecked.
pub(super) struct PublishRequest<'a> {
    /// Payload, borrowed from the request's body.
    pub(super) payload: Option<&'a RawValue>,
    /// Event type.
    pub(super) kind: Option<Cow<'a, str>>,
    /// Id or name of the only tenant that gets the event.
    pub(super) tenant: Option<Cow<'a, str>>,
    /// Identity of a CloudEvent: its source and id. Events with the same identity are one event.
    pub(super) cloud_event_identity: Option<Vec<u8>>,
}

/// Deserializes any JSON, `null` included, so that `null` and an absent member stay apart.
pub(super) fn present_json<'de: 'a, 'a, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}
