//! What a tenant is made of. Values are checked where they are made, so that one that exists is valid.

use std::num::NonZeroU32;
use std::sync::OnceLock;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::name::Name;
use crate::common::crypto::api_key::KeyHash;
use crate::common::crypto::envelope::{KeyReuse, Sealer};
use crate::common::crypto::keys::{KeyError, PublicKey};
use crate::common::id::{ApiKeyId, TenantId};
use crate::common::json::{present_whole_or_null, whole};

/// How a tenant names itself, in place of its id.
pub const ME: &str = "me";

/// One isolated customer.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// For good.
    pub id: TenantId,
    /// No other tenant has it.
    pub name: Name,
    /// Where it differs from the server's limits.
    pub limits: LimitOverrides,
    /// When it was made.
    pub created_at: Timestamp,
    /// Grows with every change.
    pub version: u64,
}

/// A tenant's own limits; what is absent is the server's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitOverrides {
    /// Jobs in the queue at once, over all endpoints
    #[serde(default, deserialize_with = "whole")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 4294967295_u64, format = Int64)]
    pub queued_jobs: Option<NonZeroU32>,
    /// Events published to the tenant by name, or by itself, a second
    #[serde(default, deserialize_with = "whole")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 4294967295_u64, format = Int64)]
    pub publishes_per_second: Option<NonZeroU32>,
    /// Endpoints
    #[serde(default, deserialize_with = "whole")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 4294967295_u64, format = Int64)]
    pub endpoints: Option<NonZeroU32>,
}

/// What is to change of a tenant's own limits: absent stays, null is the server's default again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitUpdate {
    /// Jobs in the queue at once, over all endpoints
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present_whole_or_null")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 4294967295_u64, format = Int64)]
    pub queued_jobs: Option<Option<NonZeroU32>>,
    /// Events published to the tenant by name, or by itself, a second
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present_whole_or_null")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 4294967295_u64, format = Int64)]
    pub publishes_per_second: Option<Option<NonZeroU32>>,
    /// Endpoints
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present_whole_or_null")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 4294967295_u64, format = Int64)]
    pub endpoints: Option<Option<NonZeroU32>>,
}

impl LimitUpdate {
    /// No limits of its own.
    pub const TO_DEFAULTS: Self =
        Self { queued_jobs: Some(None), publishes_per_second: Some(None), endpoints: Some(None) };

    pub(super) fn applied_to(self, old: LimitOverrides) -> LimitOverrides {
        LimitOverrides {
            queued_jobs: self.queued_jobs.unwrap_or(old.queued_jobs),
            publishes_per_second: self.publishes_per_second.unwrap_or(old.publishes_per_second),
            endpoints: self.endpoints.unwrap_or(old.endpoints),
        }
    }
}

/// What is known of an API key.
#[derive(Debug, Clone)]
pub struct ApiKeyRecord {
    /// What it is revoked by.
    pub id: ApiKeyId,
    /// Whose it is: `None` for the provider.
    pub tenant: Option<TenantId>,
    /// What a presented key is compared with.
    pub hash: KeyHash,
    /// Its first characters.
    pub hint: String,
    /// What its owner noted of it.
    pub description: Option<Name>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Where a public key is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// New events are sealed to it. A tenant with keys has exactly one of these.
    Active,
    /// Another took its place: what was sealed to it before may still be on its way, so its private half is needed.
    Retiring,
    /// The customer said that it expects nothing any more that was sealed to it.
    Retired,
}

/// A public key of a tenant.
#[derive(Debug)]
pub struct TenantKey {
    /// RFC 7638 thumbprint.
    pub kid: Box<str>,
    /// SPKI as PEM.
    pub pem: Box<str>,
    /// Of its modulus.
    pub bits: u32,
    /// Where it is in its life.
    pub state: KeyState,
    /// When it was added.
    pub created_at: Timestamp,
    /// When it came into this state.
    pub changed_at: Timestamp,
    /// Made when it is first sealed to: most of ten thousand tenants' keys lie idle.
    sealer: OnceLock<Sealer>,
}

impl TenantKey {
    /// A key in that state.
    #[must_use]
    pub fn new(kid: &str, pem: &str, bits: u32, state: KeyState, times: [Timestamp; 2]) -> Self {
        let [created_at, changed_at] = times;
        Self {
            kid: kid.into(),
            pem: pem.into(),
            bits,
            state,
            created_at,
            changed_at,
            sealer: OnceLock::new(),
        }
    }

    /// The same key in another state.
    #[must_use]
    pub fn in_state(&self, state: KeyState, now: Timestamp) -> Self {
        Self::new(&self.kid, &self.pem, self.bits, state, [self.created_at, now])
    }

    /// What seals to it.
    ///
    /// # Errors
    /// What was stored isn't a key any more.
    pub fn sealer(&self, reuse: KeyReuse) -> Result<&Sealer, KeyError> {
        if let Some(sealer) = self.sealer.get() {
            return Ok(sealer);
        }
        let key = PublicKey::parse(&self.pem)?;
        Ok(self.sealer.get_or_init(|| Sealer::new(key, reuse)))
    }
}
