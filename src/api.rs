//! What the HTTP API carries: the bodies of requests and answers, for the server, for the commands that call
//! it, and for `/openapi.json`, which is made from these types.

mod dead_letter;
mod endpoint;
mod key;
mod message;
mod schema;
mod tenant;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::common::json;

pub use dead_letter::{DeadLetterBody, DeadLetterView, DeadSelection, Purged, Replayed};
pub use endpoint::{CreatedEndpoint, EndpointUpdate, EndpointView, NewEndpoint, RotateSecret, SecretView};
pub use key::{ApiKeyView, CreatedApiKey, NewApiKey, NewPublicKey, PublicKeyView};
pub use message::{MessageStateView, MessageView};
pub use tenant::{DeletedTenant, LimitsView, NewTenant, TenantUpdate, TenantView, UsageView};

/// A page of a list, in the order in which its items were made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The items
    pub data: Vec<T>,
    /// What to ask for as `cursor` to get the page after this one; null on the last
    #[schema(required)]
    pub next_cursor: Option<String>,
}

/// An event for those who subscribe to it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewEvent {
    /// The event type
    #[serde(rename = "type")]
    #[schema(schema_with = schema::event_type)]
    pub kind: String,
    /// What is delivered, byte for byte: any JSON, nested at most 128 deep
    pub payload: serde_json::Value,
    /// The id or name of the one tenant that is meant; everybody who subscribes, without it
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present")]
    #[schema(nullable = false)]
    pub tenant: Option<String>,
}

/// A CloudEvents 1.0 event in structured mode. `source` and `id` together make a repeated one known.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CloudEvent {
    /// 1.0
    #[schema(pattern = "^1\\.0$")]
    pub specversion: String,
    /// What names the event within its source
    #[schema(min_length = 1, max_length = 512)]
    pub id: String,
    /// Where the event comes from
    #[schema(min_length = 1, max_length = 512, example = "/billing")]
    pub source: String,
    /// The event type
    #[serde(rename = "type")]
    #[schema(schema_with = schema::event_type)]
    pub kind: String,
    /// What is delivered: any JSON
    #[serde(default)]
    pub data: serde_json::Value,
    /// What `data` is: JSON, which is also what its absence means
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^application/(json|[a-z0-9.-]+\\+json)$")]
    pub datacontenttype: Option<String>,
    /// Extension: the id or name of the one tenant that is meant
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
}

/// What went wrong, and what to do about it (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProblemView {
    /// Always `about:blank`: the status says the kind
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words
    pub title: String,
    /// The HTTP status
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    /// What happened this time, and what to do
    pub detail: String,
}
