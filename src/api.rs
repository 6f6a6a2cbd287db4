//! JSON bodies of the HTTP API's requests and responses.
//!
//! The server, the commands that call it, and `/openapi.json` all use these types.

mod dead_letter;
mod endpoint;
mod key;
mod message;
mod publish;
mod schema;
mod tenant;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use dead_letter::{DeadLetterBody, DeadLetterView, DeadSelection, Purged, Replayed};
pub use endpoint::{CreatedEndpoint, EndpointUpdate, EndpointView, NewEndpoint, RotateSecret, SecretView};
pub use key::{ApiKeyView, CreatedApiKey, NewApiKey, NewPublicKey, PublicKeyView};
pub use message::{MessageStateView, MessageView};
pub use publish::{CloudEvent, NewEvent, Published, PublishedMessage, Refused, RefusedReason};
pub use tenant::{DeletedTenant, LimitsView, NewTenant, TenantUpdate, TenantView, UsageView};

/// A page of a list, oldest items first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The items
    pub data: Vec<T>,
    /// Value of `cursor` that requests the next page. Null on the last page
    #[schema(required)]
    pub next_cursor: Option<String>,
}

/// An error, with what to do about it (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProblemView {
    /// Always `about:blank`. The status tells the kind of error
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words
    pub title: String,
    /// The HTTP status
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    /// Explanation of this error, and what to do about it
    pub detail: String,
}
