//! Endpoints and their signing secrets.

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

/// An endpoint that is to be added.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewEndpoint {
    /// Where events go: https and public, but for networks that the provider allows
    #[schema(schema_with = schema::url)]
    pub url: String,
    /// The event types that are wanted
    #[schema(schema_with = schema::events)]
    pub events: Vec<String>,
    /// A note for people
    #[serde(default)]
    #[schema(schema_with = schema::description)]
    pub description: Option<String>,
    /// Headers that every delivery carries
    #[serde(default)]
    #[schema(schema_with = schema::headers)]
    pub headers: BTreeMap<String, String>,
    /// How deliveries are labelled; the rsa-oaep envelope is always application/json
    #[serde(default)]
    pub content_type: ContentType,
    /// How events are sealed
    #[serde(default)]
    pub envelope: EnvelopeKind,
    /// Whether each delivery waits for the one before it
    #[serde(default)]
    pub ordered: bool,
    /// A signing secret brought along, `whsec_` and base64 of 24 to 64 bytes; a new one is made without it
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present")]
    #[schema(nullable = false, format = "signing-secret")]
    pub secret: Option<String>,
}

impl fmt::Debug for NewEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewEndpoint").field("events", &self.events).finish_non_exhaustive()
    }
}

/// What is to change of an endpoint; what is absent stays.
#[derive(Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EndpointUpdate {
    /// Another URL: also what is queued already goes there
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present")]
    #[schema(schema_with = schema::url)]
    pub url: Option<String>,
    /// Other event types, all of them
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present")]
    #[schema(schema_with = schema::events)]
    pub events: Option<Vec<String>>,
    /// Another note; null for none
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present")]
    #[schema(schema_with = schema::description)]
    pub description: Option<Option<String>>,
    /// Other headers, all of them
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present")]
    #[schema(schema_with = schema::headers)]
    pub headers: Option<BTreeMap<String, String>>,
    /// How deliveries are labelled
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present")]
    #[schema(nullable = false)]
    pub content_type: Option<ContentType>,
    /// How events are sealed
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present")]
    #[schema(nullable = false)]
    pub envelope: Option<EnvelopeKind>,
    /// Whether each delivery waits for the one before it
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present")]
    #[schema(nullable = false)]
    pub ordered: Option<bool>,
    /// Whether events are delivered to it; jobs of a disabled endpoint are dead-lettered when their turn comes
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
    /// Its id
    #[schema(value_type = String, pattern = "^ep_[0-9a-f]{32}$")]
    pub id: EndpointId,
    /// Whose it is
    #[schema(value_type = String, pattern = "^ten_[0-9a-f]{32}$")]
    pub tenant: TenantId,
    /// Where events go
    pub url: String,
    /// The event types that are wanted
    pub events: Vec<String>,
    /// A note for people
    #[schema(required)]
    pub description: Option<String>,
    /// The names of its headers
    pub header_names: Vec<String>,
    /// How deliveries are labelled
    pub content_type: ContentType,
    /// How events are sealed
    pub envelope: EnvelopeKind,
    /// Whether each delivery waits for the one before it
    pub ordered: bool,
    /// Whether events are delivered to it
    pub enabled: bool,
    /// Why they aren't; null while they are
    #[schema(required)]
    pub disabled_reason: Option<DisabledReason>,
    /// Since when they aren't; null while they are
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub disabled_since: Option<Timestamp>,
    /// Signing secrets that sign now
    pub live_secrets: usize,
    /// When it was added
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

/// An endpoint that was added.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreatedEndpoint {
    /// What is known of it from now on
    #[serde(flatten)]
    pub about: EndpointView,
    /// What its deliveries are signed with, for the customer alone: it is shown this once
    pub secret: String,
}

impl fmt::Debug for CreatedEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.about.fmt(f)
    }
}

/// How a signing secret is to be replaced.
#[derive(Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateSecret {
    /// How long the secrets before it go on signing as well, in seconds; a day without it
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present_whole")]
    #[schema(nullable = false, minimum = 0, maximum = 2592000)]
    pub overlap_seconds: Option<u32>,
    /// The new secret, brought along; one is made without it
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present")]
    #[schema(nullable = false, format = "signing-secret")]
    pub secret: Option<String>,
}

impl fmt::Debug for RotateSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RotateSecret").field("overlap_seconds", &self.overlap_seconds).finish_non_exhaustive()
    }
}

/// A signing secret that was made.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecretView {
    /// What deliveries are signed with, for the customer alone: it is shown this once
    pub secret: String,
    /// Signing secrets that sign now, this one and those before it
    pub live_secrets: usize,
}

impl fmt::Debug for SecretView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretView").field("live_secrets", &self.live_secrets).finish_non_exhaustive()
    }
}
