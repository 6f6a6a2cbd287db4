//! What a tenant is made of. Values are checked where they are made, so that one that exists is valid.

use std::sync::OnceLock;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::limits::LimitOverrides;
use super::name::Name;
use crate::common::crypto::api_key::KeyHash;
use crate::common::crypto::envelope::{KeyReuse, Sealer};
use crate::common::crypto::keys::{KeyError, PublicKey};
use crate::common::id::{ApiKeyId, TenantId};

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

/// Reference to a tenant by id or by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TenantRef {
    /// Id of the tenant.
    Id(TenantId),
    /// Name of the tenant.
    Name(String),
}

impl TenantRef {
    /// Parses an id, and takes any other text for a name.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Name(text.to_owned()), Self::Id)
    }
}

impl From<TenantId> for TenantRef {
    fn from(id: TenantId) -> Self {
        Self::Id(id)
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
