//! Bodies of `POST /publish`: events, and what became of them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::schema;
use crate::common::id::{EndpointId, EventId, MessageId, TenantId};
use crate::common::json;
use crate::publish::{PublishOutcome, PublishRefusal, QueuedMessage, RefusalReason};

/// An event for the endpoints that subscribe to its type.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewEvent {
    /// The event type
    #[serde(rename = "type")]
    #[schema(schema_with = schema::event_type)]
    pub kind: String,
    /// Any JSON, nested at most 128 levels deep. It is delivered byte for byte
    pub payload: serde_json::Value,
    /// Id or name of the only tenant that gets the event. Without it, the event goes to every subscribed endpoint
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present")]
    #[schema(nullable = false)]
    pub tenant: Option<String>,
}

/// A CloudEvents 1.0 event in structured mode. An event with the same `source` and `id` as an earlier one is a
/// repetition of it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CloudEvent {
    /// Version of CloudEvents: 1.0
    #[schema(pattern = "^1\\.0$")]
    pub specversion: String,
    /// Id of the event, unique within its source
    #[schema(min_length = 1, max_length = 512)]
    pub id: String,
    /// Source of the event
    #[schema(min_length = 1, max_length = 512, example = "/billing")]
    pub source: String,
    /// The event type
    #[serde(rename = "type")]
    #[schema(schema_with = schema::event_type)]
    pub kind: String,
    /// The payload: any JSON
    #[serde(default)]
    pub data: serde_json::Value,
    /// Media type of `data`. Only JSON is accepted, and JSON is the default
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^application/(json|[a-z0-9.-]+\\+json)$")]
    pub datacontenttype: Option<String>,
    /// Extension attribute: id or name of the only tenant that gets the event
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
}

/// Result of a published event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Published {
    /// Id of the event. Each delivery's decrypted body holds it as well
    #[schema(value_type = String, pattern = "^evt_[0-9a-f]{32}$")]
    pub event_id: EventId,
    /// Queued messages, one per endpoint. Empty when no endpoint subscribes to the event type
    pub messages: Vec<PublishedMessage>,
    /// Subscribed recipients that don't get the event
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<Refused>,
}

impl From<PublishOutcome> for Published {
    fn from(outcome: PublishOutcome) -> Self {
        Self {
            event_id: outcome.event_id,
            messages: outcome.messages.into_iter().map(PublishedMessage::from).collect(),
            refused: outcome.refusals.into_iter().map(Refused::from).collect(),
        }
    }
}

/// A queued message: one event for one endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PublishedMessage {
    /// Id of the message. Each of its deliveries has it as `webhook-id`
    #[schema(value_type = String, pattern = "^msg_[0-9a-f]{32}$")]
    pub id: MessageId,
    /// Id of the tenant. Absent in direct mode
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, pattern = "^ten_[0-9a-f]{32}$")]
    pub tenant: Option<TenantId>,
    /// Id of the endpoint. Absent in direct mode
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, pattern = "^ep_[0-9a-f]{32}$")]
    pub endpoint: Option<EndpointId>,
}

impl From<QueuedMessage> for PublishedMessage {
    fn from(message: QueuedMessage) -> Self {
        let (tenant, endpoint) = message.recipient.unzip();
        Self { id: message.id, tenant, endpoint }
    }
}

/// An endpoint, or a whole tenant, that subscribes to an event and doesn't get it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Refused {
    /// Id of the tenant
    #[schema(value_type = String, pattern = "^ten_[0-9a-f]{32}$")]
    pub tenant: TenantId,
    /// Id of the endpoint. Absent when all endpoints of the tenant are refused
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, pattern = "^ep_[0-9a-f]{32}$")]
    pub endpoint: Option<EndpointId>,
    /// Reason for the refusal
    pub reason: RefusedReason,
}

impl From<PublishRefusal> for Refused {
    fn from(refusal: PublishRefusal) -> Self {
        Self { tenant: refusal.tenant, endpoint: refusal.endpoint, reason: refusal.reason.into() }
    }
}

/// Reason why a subscribed recipient doesn't get an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RefusedReason {
    /// The tenant's limit of queued jobs would be exceeded
    QueuedJobs,
    /// The tenant's limit of queued bytes would be exceeded
    QueuedBytes,
    /// The endpoint uses the envelope rsa-oaep, and the payload is too large for it
    TooLargeForEnvelope,
}

impl From<RefusalReason> for RefusedReason {
    fn from(reason: RefusalReason) -> Self {
        match reason {
            RefusalReason::QueuedJobs { .. } => Self::QueuedJobs,
            RefusalReason::QueuedBytes { .. } => Self::QueuedBytes,
            RefusalReason::TooLargeForEnvelope => Self::TooLargeForEnvelope,
        }
    }
}
