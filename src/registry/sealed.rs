//! The sealed part of a stored endpoint: its URL, headers and signing secrets. All three may be secret.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use super::endpoint::{Endpoint, SigningSecret};
use super::headers::StaticHeaders;
use crate::common::crypto::signature::Secret;
use crate::common::crypto::vault::{Vault, VaultError};
use crate::common::endpoint_url::EndpointUrl;
use crate::common::id::{EndpointId, TenantId};

/// Name and content of a store's check value. It reveals a wrong secret key at once.
const CHECK: (&str, &[u8]) = ("vault_check", b"whk");

/// Content of the sealed part, as JSON.
#[derive(Serialize, Deserialize)]
struct SealedContent {
    url: String,
    headers: Vec<(String, String)>,
    secrets: Vec<SealedSecret>,
}

#[derive(Serialize, Deserialize)]
struct SealedSecret {
    secret: String,
    expires_at: Option<i64>,
}

impl Drop for SealedContent {
    fn drop(&mut self) {
        self.url.zeroize();
        self.headers.iter_mut().for_each(|(_, value)| value.zeroize());
        self.secrets.iter_mut().for_each(|secret| secret.secret.zeroize());
    }
}

/// The unsealed and parsed part of an endpoint.
pub(super) struct OpenedPart {
    pub(super) url: EndpointUrl,
    pub(super) headers: StaticHeaders,
    pub(super) secrets: Vec<SigningSecret>,
}

/// Returns the name that the part is sealed under, so that it opens for this endpoint of this tenant alone.
fn name_of(tenant: TenantId, id: EndpointId) -> String {
    format!("{tenant}/{id}")
}

/// Seals the URL, headers and signing secrets of an endpoint.
pub(super) fn seal(endpoint: &Endpoint, vault: &Vault) -> Result<Vec<u8>, VaultError> {
    let settings = &endpoint.settings;
    let text = |value: &http::HeaderValue| value.to_str().unwrap_or_default().to_owned();
    let secrets = endpoint.secrets.iter().map(|live| SealedSecret {
        secret: live.secret.reveal().to_string(),
        expires_at: live.expires_at.map(Timestamp::as_millisecond),
    });
    let content = SealedContent {
        url: settings.url.uri().to_string(),
        headers: settings
            .headers
            .as_slice()
            .iter()
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect(),
        secrets: secrets.collect(),
    };
    let json = Zeroizing::new(serde_json::to_vec(&content).unwrap_or_default());
    vault.seal(&name_of(endpoint.tenant, endpoint.id), &json)
}

/// Opens the sealed part of an endpoint.
///
/// # Errors
/// The reason why it can't be opened or parsed, without any of its content.
pub(super) fn open(
    tenant: TenantId,
    id: EndpointId,
    sealed: &[u8],
    vault: &Vault,
) -> Result<OpenedPart, String> {
    let json = vault.open(&name_of(tenant, id), sealed).map_err(|error| error.to_string())?;
    let content: SealedContent = serde_json::from_slice(&json).map_err(|_| "the sealed part isn't JSON")?;
    let headers = content.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    Ok(OpenedPart {
        url: EndpointUrl::parse(&content.url).map_err(|error| format!("url {error}"))?,
        headers: StaticHeaders::parse(headers).map_err(|error| error.to_string())?,
        secrets: content.secrets.iter().map(secret).collect::<Result<_, String>>()?,
    })
}

fn secret(sealed: &SealedSecret) -> Result<SigningSecret, String> {
    let expires_at = sealed.expires_at.map(Timestamp::from_millisecond).transpose();
    Ok(SigningSecret {
        secret: Secret::parse(&sealed.secret).map_err(|_| "a signing secret is malformed")?,
        expires_at: expires_at.map_err(|_| "the expiry isn't a time")?,
    })
}

/// Returns the check value for a new store.
pub(super) fn check_value(vault: &Vault) -> Result<Vec<u8>, VaultError> {
    vault.seal(CHECK.0, CHECK.1)
}

/// Checks that a store's check value was sealed with this secret key.
///
/// # Errors
/// It was sealed with another key, or is damaged.
pub(super) fn check(vault: &Vault, value: &[u8]) -> Result<(), VaultError> {
    vault.open(CHECK.0, value).map(drop)
}
