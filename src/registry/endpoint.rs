//! Endpoints: the URLs of a tenant, their settings and their signing secrets.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::headers::StaticHeaders;
use super::name::Name;
use crate::common::crypto::signature::Secret;
use crate::common::endpoint_url::EndpointUrl;
use crate::common::event_type::EventFilter;
use crate::common::id::{EndpointId, TenantId};
use crate::common::job::ContentType;

/// Maximum number of event filters of one endpoint.
pub const MAX_FILTERS: usize = 64;
/// Maximum number of signing secrets of one endpoint that sign at once. Standard Webhooks' libraries check every
/// signature of a delivery.
pub const MAX_SECRETS: usize = 8;

/// Format of the encrypted events of an endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EnvelopeKind {
    /// Flattened JWE (RFC 7516)
    #[default]
    Jwe,
    /// RSA-OAEP, the format of the Deno scripts. With a 4096-bit key it holds 470 bytes of payload and timestamp
    RsaOaep,
}

/// Settings of an endpoint that the provider or the tenant chooses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSettings {
    /// URL that deliveries are posted to.
    pub url: EndpointUrl,
    /// Note for people.
    pub description: Option<Name>,
    /// Filters of the event types that the endpoint receives.
    pub events: Vec<EventFilter>,
    /// Additional headers of every delivery.
    pub headers: StaticHeaders,
    /// Content type of the deliveries.
    pub content_type: ContentType,
    /// Envelope format of the events.
    pub envelope: EnvelopeKind,
    /// Whether each delivery waits for the one before it.
    pub ordered: bool,
}

/// A URL of a tenant that receives events.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Id, which never changes.
    pub id: EndpointId,
    /// Tenant that the endpoint belongs to.
    pub tenant: TenantId,
    /// Settings that the provider or the tenant chose.
    pub settings: EndpointSettings,
    /// Live signing secrets, the newest first.
    pub secrets: Vec<SigningSecret>,
    /// Reason why the endpoint gets no deliveries. `None` while it is enabled.
    pub disabled: Option<Disabled>,
    /// Time of creation.
    pub created_at: Timestamp,
    /// Version, which grows with every change.
    pub version: u64,
}

/// Changes to an endpoint. A setting whose field is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct EndpointPatch {
    /// URL that deliveries are posted to, including the deliveries that are queued already.
    pub url: Option<EndpointUrl>,
    /// Note for people. `Some(None)` removes it.
    pub description: Option<Option<Name>>,
    /// Filters of the event types that the endpoint receives.
    pub events: Option<Vec<EventFilter>>,
    /// Additional headers of every delivery, in place of all existing ones.
    pub headers: Option<StaticHeaders>,
    /// Content type of the deliveries.
    pub content_type: Option<ContentType>,
    /// Envelope format of the events.
    pub envelope: Option<EnvelopeKind>,
    /// Whether each delivery waits for the one before it.
    pub ordered: Option<bool>,
    /// Whether the endpoint gets deliveries.
    pub enabled: Option<bool>,
}

impl EndpointPatch {
    /// Applies all changes but `enabled`.
    pub(super) fn apply(self, settings: &mut EndpointSettings) {
        fn set<T>(old: &mut T, new: Option<T>) {
            if let Some(new) = new {
                *old = new;
            }
        }
        set(&mut settings.url, self.url);
        set(&mut settings.description, self.description);
        set(&mut settings.events, self.events);
        set(&mut settings.headers, self.headers);
        set(&mut settings.content_type, self.content_type);
        set(&mut settings.envelope, self.envelope);
        set(&mut settings.ordered, self.ordered);
    }
}

/// A signing secret with its expiry.
#[derive(Debug, Clone)]
pub struct SigningSecret {
    /// Secret that the customer verifies signatures with.
    pub secret: Secret,
    /// Time from which it no longer signs. `None` for the newest secret.
    pub expires_at: Option<Timestamp>,
}

/// State of a disabled endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disabled {
    /// Reason why the endpoint is disabled.
    pub reason: DisabledReason,
    /// Time since which the endpoint is disabled.
    pub since: Timestamp,
}

/// Reason why an endpoint is disabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DisabledReason {
    /// The tenant disabled the endpoint
    ByTenant,
    /// The provider disabled the endpoint. Only the provider can enable it again
    ByProvider,
    /// The endpoint answered 410 Gone, so the server disabled it
    Gone,
}

impl Endpoint {
    /// Returns the secrets that sign at `now`, the newest first.
    pub fn live_secrets(&self, now: Timestamp) -> impl Iterator<Item = &SigningSecret> {
        self.secrets.iter().filter(move |secret| secret.expires_at.is_none_or(|end| now < end))
    }
}
