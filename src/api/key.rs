//! Bodies of the key routes: API keys and public keys.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::schema;
use crate::common::id::ApiKeyId;
use crate::registry::name::Name;
use crate::registry::tenant::{ApiKeyRecord, KeyState, TenantKey};

/// A new API key.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewApiKey {
    /// Note for people, not interpreted by the server
    #[serde(default)]
    #[schema(schema_with = schema::description)]
    pub description: Option<String>,
}

/// An API key, without the key itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApiKeyView {
    /// Id of the API key. Revoking the key needs it
    #[schema(value_type = String, pattern = "^key_[0-9a-f]{32}$")]
    pub id: ApiKeyId,
    /// First characters of the key
    pub hint: String,
    /// Note for people, not interpreted by the server
    #[schema(required)]
    pub description: Option<String>,
    /// Time of creation
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

/// A new API key with the key itself.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreatedApiKey {
    /// The API key as later requests show it
    #[serde(flatten)]
    pub about: ApiKeyView,
    /// The key itself, for its holder only. It is shown only once
    pub key: String,
}

impl fmt::Debug for CreatedApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.about.fmt(f)
    }
}

/// A new public key.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPublicKey {
    /// RSA key of at least 2048 bits: PEM (SPKI or PKCS#1), base64 of PEM, or a JWK as text
    #[schema(format = "rsa-public-key", max_length = 16384)]
    pub public_key: String,
}

/// A public key of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PublicKeyView {
    /// Id of the key: its RFC 7638 thumbprint. Every event encrypted with the key names it
    #[schema(pattern = "^[A-Za-z0-9_-]{43}$")]
    pub kid: String,
    /// State of the key. New events are encrypted with the active one
    pub state: KeyState,
    /// Size of the modulus in bits
    pub bits: u32,
    /// The key as PEM (SPKI)
    pub public_key: String,
    /// Time of creation
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Time since which the key is in this state
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
