//! JSON of the records, and parts of their keys.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::common::job::ContentType;
use crate::registry::endpoint::{DisabledReason, EnvelopeKind};
use crate::registry::tenant::KeyState;

/// A record's key and its JSON, or `None` for a deletion.
pub(in crate::registry) type Write = (String, Option<String>);

/// Version that is written, and the newest that is read.
pub(super) const VERSION: u32 = 1;

/// Owner in the keys of the provider's API keys.
pub(super) const PROVIDER: &str = "provider";

/// Value of a tenant.
#[derive(Serialize, Deserialize)]
pub(super) struct TenantJson {
    pub(super) v: u32,
    pub(super) name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) queued_jobs: Option<NonZeroU32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) publishes_per_second: Option<NonZeroU32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) endpoints: Option<NonZeroU32>,
    pub(super) created_at: i64,
    pub(super) version: u64,
}

/// Value of an API key.
#[derive(Serialize, Deserialize)]
pub(super) struct ApiKeyJson {
    pub(super) v: u32,
    pub(super) hash: String,
    pub(super) hint: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) description: Option<String>,
    pub(super) created_at: i64,
}

/// Value of a public key.
#[derive(Serialize, Deserialize)]
pub(super) struct PublicKeyJson {
    pub(super) v: u32,
    pub(super) pem: String,
    pub(super) bits: u32,
    pub(super) state: KeyState,
    pub(super) created_at: i64,
    pub(super) changed_at: i64,
}

/// Value of an endpoint.
#[derive(Serialize, Deserialize)]
pub(super) struct EndpointJson {
    pub(super) v: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) description: Option<String>,
    pub(super) events: Vec<String>,
    pub(super) content_type: ContentType,
    pub(super) envelope: EnvelopeKind,
    pub(super) ordered: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) disabled: Option<DisabledJson>,
    pub(super) sealed: String,
    pub(super) created_at: i64,
    pub(super) version: u64,
}

/// Member `disabled` of an endpoint.
#[derive(Serialize, Deserialize)]
pub(super) struct DisabledJson {
    pub(super) reason: DisabledReason,
    pub(super) since: i64,
}
