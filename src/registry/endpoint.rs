//! Endpoints: where a tenant's events go, and which.

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

/// Filters of one endpoint.
pub const MOST_FILTERS: usize = 64;
/// Signing secrets of one endpoint that sign at once: Standard Webhooks' libraries look at all of them.
pub const MOST_SECRETS: usize = 8;

/// How an endpoint's events are sealed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EnvelopeKind {
    /// Flattened JWE
    #[default]
    Jwe,
    /// The Deno scripts' format: at most 470 bytes at 4096 bits
    RsaOaep,
}

/// What an endpoint's owner chooses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSettings {
    /// Where deliveries go.
    pub url: EndpointUrl,
    /// What its owner noted of it.
    pub description: Option<Name>,
    /// The event types it wants.
    pub events: Vec<EventFilter>,
    /// Headers that every delivery carries.
    pub headers: StaticHeaders,
    /// How deliveries are labelled.
    pub content_type: ContentType,
    /// How events are sealed.
    pub envelope: EnvelopeKind,
    /// Whether each delivery waits for the one before it.
    pub ordered: bool,
}

/// One URL of a tenant.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// For good.
    pub id: EndpointId,
    /// Whose it is.
    pub tenant: TenantId,
    /// What its owner chose.
    pub settings: EndpointSettings,
    /// Live signing secrets, the newest first.
    pub secrets: Vec<SigningSecret>,
    /// Why it takes no deliveries; `None` while it does.
    pub disabled: Option<Disabled>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Grows with every change.
    pub version: u64,
}

/// What is to change of an endpoint; what is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct EndpointPatch {
    /// Where deliveries go: also those that are queued already.
    pub url: Option<EndpointUrl>,
    /// Its note, or none.
    pub description: Option<Option<Name>>,
    /// The event types it wants.
    pub events: Option<Vec<EventFilter>>,
    /// All its headers.
    pub headers: Option<StaticHeaders>,
    /// How deliveries are labelled.
    pub content_type: Option<ContentType>,
    /// How events are sealed.
    pub envelope: Option<EnvelopeKind>,
    /// Whether each delivery waits for the one before it.
    pub ordered: Option<bool>,
    /// Whether it takes deliveries.
    pub enabled: Option<bool>,
}

impl EndpointPatch {
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

/// A signing secret and its end.
#[derive(Debug, Clone)]
pub struct SigningSecret {
    /// Shared with the customer.
    pub secret: Secret,
    /// From when it doesn't sign any more; `None` for the newest.
    pub expires_at: Option<Timestamp>,
}

/// An endpoint that takes no deliveries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disabled {
    /// Why.
    pub reason: DisabledReason,
    /// Since when.
    pub since: Timestamp,
}

/// Why an endpoint takes no deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DisabledReason {
    /// The tenant said so
    ByTenant,
    /// The provider said so
    ByProvider,
    /// It answered 410: the customer wants nothing more there
    Gone,
}

impl Endpoint {
    /// The secrets that sign at `now`.
    pub fn live_secrets(&self, now: Timestamp) -> impl Iterator<Item = &SigningSecret> {
        self.secrets.iter().filter(move |secret| secret.expires_at.is_none_or(|end| now < end))
    }
}
