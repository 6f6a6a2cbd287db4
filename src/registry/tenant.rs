//! Tenants, their API keys and their public keys. Constructors check values, so a value that exists is valid.

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

/// A customer, isolated from all others.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// Id, which never changes.
    pub id: TenantId,
    /// Name, unique among tenants.
    pub name: Name,
    /// Limits that differ from the server's defaults.
    pub limits: LimitOverrides,
    /// Time of its creation.
    pub created_at: Timestamp,
    /// Version, which grows with every change.
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

/// An API key as the registry keeps it, without the key itself.
#[derive(Debug, Clone)]
pub struct ApiKeyRecord {
    /// Id, by which the key is revoked.
    pub id: ApiKeyId,
    /// Tenant that owns the key. `None` for the provider.
    pub tenant: Option<TenantId>,
    /// SHA-256 of the key.
    pub hash: KeyHash,
    /// First characters of the key.
    pub hint: String,
    /// Note for people.
    pub description: Option<Name>,
    /// Time of its creation.
    pub created_at: Timestamp,
}

/// State of a public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// New events are encrypted with the key. A tenant with public keys has exactly one active key
    Active,
    /// Another key replaced it. Earlier events may be undelivered, so the customer must keep the private key
    Retiring,
    /// The key is out of use: the customer expects no more events that are encrypted with it
    Retired,
}

/// A public key of a tenant.
#[derive(Debug)]
pub struct TenantKey {
    /// RFC 7638 thumbprint.
    pub kid: Box<str>,
    /// SPKI as PEM.
    pub pem: Box<str>,
    /// Bits of the modulus.
    pub bits: u32,
    /// State of the key.
    pub state: KeyState,
    /// Time at which the key was added.
    pub created_at: Timestamp,
    /// Time of the last change of its state.
    pub changed_at: Timestamp,
    /// Sealer, created on first use. Of ten thousand tenants' keys, most are idle.
    sealer: OnceLock<Sealer>,
}

impl TenantKey {
    /// Returns a key in that state. `times` are its creation and its last change of state.
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

    /// Returns the same key in another state, from `now` on.
    #[must_use]
    pub fn in_state(&self, state: KeyState, now: Timestamp) -> Self {
        Self::new(&self.kid, &self.pem, self.bits, state, [self.created_at, now])
    }

    /// Returns the sealer for this key.
    ///
    /// # Errors
    /// The stored PEM can't be parsed.
    pub fn sealer(&self, reuse: KeyReuse) -> Result<&Sealer, KeyError> {
        if let Some(sealer) = self.sealer.get() {
            return Ok(sealer);
        }
        let key = PublicKey::parse(&self.pem)?;
        Ok(self.sealer.get_or_init(|| Sealer::new(key, reuse)))
    }
}
