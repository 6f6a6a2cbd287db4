//! API keys and public keys.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::schema;
use crate::common::id::ApiKeyId;
use crate::registry::name::Name;
use crate::registry::tenant::{ApiKeyRecord, KeyState, TenantKey};

/// An API key that is to be made.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewApiKey {
    /// A note for people
    #[serde(default)]
    #[schema(schema_with = schema::description)]
    pub description: Option<String>,
}

/// An API key, without the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApiKeyView {
    /// What it is revoked by
    #[schema(value_type = String, pattern = "^key_[0-9a-f]{32}$")]
    pub id: ApiKeyId,
    /// Its first characters
    pub hint: String,
    /// A note for people
    #[schema(required)]
    pub description: Option<String>,
    /// When it was made
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

impl From<&ApiKeyRecord> for ApiKeyView {
    fn from(key: &ApiKeyRecord) -> Self {
        Self {
            id: key.id,
            hint: key.hint.clone(),
            description: key.description.as_ref().map(Name::to_string),
            created_at: key.created_at,
        }
    }
}

/// An API key that was made.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreatedApiKey {
    /// What is known of it from now on
    #[serde(flatten)]
    pub about: ApiKeyView,
    /// The key itself, for its holder alone: it is shown this once
    pub key: String,
}

impl fmt::Debug for CreatedApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.about.fmt(f)
    }
}

/// A public key that is to be added.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPublicKey {
    /// RSA of 2048 bits or more: PEM (SPKI or PKCS#1), base64 of PEM, or a JWK as text
    #[schema(format = "rsa-public-key", max_length = 16384)]
    pub public_key: String,
}

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PublicKeyView {
    /// Its RFC 7638 thumbprint, which is also in every envelope sealed to it
    #[schema(pattern = "^[A-Za-z0-9_-]{43}$")]
    pub kid: String,
    /// Whether events are sealed to it
    pub state: KeyState,
    /// Bits of its modulus
    pub bits: u32,
    /// SPKI as PEM
    pub public_key: String,
    /// When it was added
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it came into this state
    #[schema(value_type = String, format = DateTime)]
    pub changed_at: Timestamp,
}

impl From<&TenantKey> for PublicKeyView {
    fn from(key: &TenantKey) -> Self {
        Self {
            kid: key.kid.to_string(),
            state: key.state,
            bits: key.bits,
            public_key: key.pem.to_string(),
            created_at: key.created_at,
            changed_at: key.changed_at,
        }
    }
}
