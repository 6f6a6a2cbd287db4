//! Bodies of the endpoint routes: endpoints and their signing secrets.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::schema;
use crate::common::event_type::EventFilter;
use crate::common::id::{EndpointId, TenantId};
use crate::common::job::ContentType;
use crate::common::json;
use crate::registry::endpoint::{DisabledReason, Endpoint, EnvelopeKind};
use crate::registry::name::Name;

/// A new endpoint.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewEndpoint {
    /// URL that events are delivered to
    #[schema(schema_with = schema::url)]
    pub url: String,
    /// Event types that the endpoint subscribes to
    #[schema(schema_with = schema::events)]
    pub events: Vec<String>,
    /// Note for people, not interpreted by the server
    #[serde(default)]
    #[schema(schema_with = schema::description)]
    pub description: Option<String>,
    /// Headers of every delivery
    #[serde(default)]
    #[schema(schema_with = schema::headers)]
    pub headers: BTreeMap<String, String>,
    /// Content type of deliveries. With the envelope rsa-oaep it is always application/json
    #[serde(default)]
    pub content_type: ContentType,
    /// Format that events are encrypted in
    #[serde(default)]
    pub envelope: EnvelopeKind,
    /// Whether each delivery waits until the one before it is settled
    #[serde(default)]
    pub ordered: bool,
    /// An existing signing secret: `whsec_` and base64 of 24 to 64 bytes. Without it, the server generates one
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present")]
    #[schema(nullable = false, format = "signing-secret")]
    pub secret: Option<String>,
}

impl fmt::Debug for NewEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewEndpoint").field("events", &self.events).finish_non_exhaustive()
    }
}

/// Changes to an endpoint. Absent members keep their value.
#[derive(Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EndpointUpdate {
    /// New URL. Queued messages are delivered to it as well
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present")]
    #[schema(schema_with = schema::url)]
    pub url: Option<String>,
    /// New event types, which replace all earlier ones
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present")]
    #[schema(schema_with = schema::events)]
    pub events: Option<Vec<String>>,
    /// New note, or null for none
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present")]
    #[schema(schema_with = schema::description)]
    pub description: Option<Option<String>>,
    /// New headers, which replace all earlier ones
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present")]
    #[schema(schema_with = schema::headers)]
    pub headers: Option<BTreeMap<String, String>>,
    /// Content type of deliveries
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present")]
    #[schema(nullable = false)]
    pub content_type: Option<ContentType>,
    /// Format that events are encrypted in
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present")]
    #[schema(nullable = false)]
    pub envelope: Option<EnvelopeKind>,
    /// Whether each delivery waits until the one before it is settled
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present")]
    #[schema(nullable = false)]
    pub ordered: Option<bool>,
    /// Whether events are delivered to the endpoint. Disabling it dead-letters its queued messages
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present")]
    #[schema(nullable = false)]
    pub enabled: Option<bool>,
}

impl fmt::Debug for EndpointUpdate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointUpdate").finish_non_exhaustive()
    }
}

/// An endpoint, without its signing secrets and the values of its headers.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EndpointView {
    /// Id of the endpoint
    #[schema(value_type = String, pattern = "^ep_[0-9a-f]{32}$")]
    pub id: EndpointId,
    /// Id of the tenant
    #[schema(value_type = String, pattern = "^ten_[0-9a-f]{32}$")]
    pub tenant: TenantId,
    /// URL that events are delivered to
    pub url: String,
    /// Event types that the endpoint subscribes to
    pub events: Vec<String>,
    /// Note for people, not interpreted by the server
    #[schema(required)]
    pub description: Option<String>,
    /// Names of the headers of every delivery
    pub header_names: Vec<String>,
    /// Content type of deliveries
    pub content_type: ContentType,
    /// Format that events are encrypted in
    pub envelope: EnvelopeKind,
    /// Whether each delivery waits until the one before it is settled
    pub ordered: bool,
    /// Whether events are delivered to the endpoint
    pub enabled: bool,
    /// Reason why the endpoint is disabled. Null while it is enabled
    #[schema(required)]
    pub disabled_reason: Option<DisabledReason>,
    /// Time since which the endpoint is disabled. Null while it is enabled
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub disabled_since: Option<Timestamp>,
    /// Number of secrets that deliveries are signed with now
    pub live_secrets: usize,
    /// Time of creation
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

impl fmt::Debug for EndpointView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointView").field("id", &self.id).finish_non_exhaustive()
    }
}

impl From<&Endpoint> for EndpointView {
    fn from(endpoint: &Endpoint) -> Self {
        let settings = &endpoint.settings;
        Self {
            id: endpoint.id,
            tenant: endpoint.tenant,
            url: settings.url.uri().to_string(),
            events: settings.events.iter().map(EventFilter::to_string).collect(),
            description: settings.description.as_ref().map(Name::to_string),
            header_names: settings.headers.as_slice().iter().map(|(name, _)| name.to_string()).collect(),
            content_type: settings.content_type,
            envelope: settings.envelope,
            ordered: settings.ordered,
            enabled: endpoint.disabled.is_none(),
            disabled_reason: endpoint.disabled.as_ref().map(|disabled| disabled.reason),
            disabled_since: endpoint.disabled.as_ref().map(|disabled| disabled.since),
            live_secrets: endpoint.live_secrets(Timestamp::now()).count(),
            created_at: endpoint.created_at,
        }
    }
}

/// A new endpoint with its signing secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreatedEndpoint {
    /// The endpoint as later requests show it
    #[serde(flatten)]
    pub about: EndpointView,
    /// Signing secret, for the customer only. It is shown only once
    pub secret: String,
}

impl fmt::Debug for CreatedEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.about.fmt(f)
    }
}

/// Rotation of a signing secret.
#[derive(Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateSecret {
    /// Seconds for which the earlier secrets go on signing as well. The default is a day
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present_whole")]
    #[schema(nullable = false, minimum = 0, maximum = 2592000)]
    pub overlap_seconds: Option<u32>,
    /// The new secret. Without it, the server generates one
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present")]
    #[schema(nullable = false, format = "signing-secret")]
    pub secret: Option<String>,
}

impl fmt::Debug for RotateSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RotateSecret").field("overlap_seconds", &self.overlap_seconds).finish_non_exhaustive()
    }
}

/// The new signing secret of an endpoint.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecretView {
    /// Signing secret, for the customer only. It is shown only once
    pub secret: String,
    /// Number of secrets that deliveries are signed with now, this one included
    pub live_secrets: usize,
}

impl fmt::Debug for SecretView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretView").field("live_secrets", &self.live_secrets).finish_non_exhaustive()
    }
}
