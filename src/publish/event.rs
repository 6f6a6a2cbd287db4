//! An event to publish: its content, its audience and its idempotency key.

use serde_json::value::RawValue;

use crate::common::event_type::EventType;
use crate::common::id::{EndpointId, EventId, MessageId, TenantId};
use crate::common::job::TraceContext;
use crate::registry::Principal;

/// An event for the endpoints that subscribe to its type.
pub struct Event<'a> {
    /// Event type.
    pub kind: EventType,
    /// Payload as JSON, delivered byte for byte.
    pub payload: &'a RawValue,
    /// Trace context of the publish request.
    pub trace: TraceContext,
    /// Key that the ids of the event and of its messages are derived from. Without it they are random.
    pub idempotency_key: Option<IdempotencyKey>,
}

/// The endpoints that an event is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// The subscribed endpoints of every tenant.
    Everyone,
    /// The subscribed endpoints of one tenant.
    Tenant(TenantId),
    /// A single endpoint, whether it subscribes to the event type or not. Test events use it.
    Endpoint(TenantId, EndpointId),
}

impl Audience {
    /// Returns the tenant, unless the event is for everyone.
    pub(super) fn tenant(self) -> Option<TenantId> {
        match self {
            Self::Everyone => None,
            Self::Tenant(id) | Self::Endpoint(id, _) => Some(id),
        }
    }
}

/// An idempotency key of one publisher. The same key gives the same ids, so that a repeated event isn't queued twice.
#[derive(Debug, Clone)]
pub struct IdempotencyKey {
    publisher: String,
    key: Vec<u8>,
}

impl IdempotencyKey {
    /// Creates a key. Keys of two publishers never give the same ids.
    #[must_use]
    pub fn new(publisher: Principal, key: Vec<u8>) -> Self {
        let publisher = match publisher {
            Principal::Provider => "provider".to_owned(),
            Principal::Tenant(id) => id.to_string(),
        };
        Self { publisher, key }
    }

    /// Derives the event's id.
    pub(super) fn event_id(&self) -> EventId {
        EventId::derived(&[self.publisher.as_bytes(), &self.key])
    }

    /// Derives the id of the event's message for `endpoint`.
    pub(super) fn message_id(&self, endpoint: EndpointId) -> MessageId {
        MessageId::derived(&[self.publisher.as_bytes(), &self.key, endpoint.to_string().as_bytes()])
    }
}
