//! What of an endpoint is written down sealed: its URL, headers and signing secrets, since all three may be secret.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use super::endpoint::{Endpoint, SigningSecret};
use super::headers::StaticHeaders;
use crate::common::crypto::signature::Secret;
use crate::common::crypto::vault::{Vault, VaultError};
use crate::common::endpoint_url::EndpointUrl;
use crate::common::id::{EndpointId, TenantId};

/// What the check value of a store is sealed as, and what it says: it tells a wrong secret key at once.
const CHECK: (&str, &[u8]) = ("vault_check", b"whk");

/// What is sealed, as JSON.
#[derive(Serialize, Deserialize)]
struct Sealed {
    url: String,
    headers: Vec<(String, String)>,
    secrets: Vec<SealedSecret>,
}

#[derive(Serialize, Deserialize)]
struct SealedSecret {
    secret: String,
    expires_at: Option<i64>,
}

impl Drop for Sealed {
    fn drop(&mut self) {
        self.url.zeroize();
        self.headers.iter_mut().for_each(|(_, value)| value.zeroize());
        self.secrets.iter_mut().for_each(|secret| secret.secret.zeroize());
    }
}

/// What was sealed.
pub(super) struct Opened {
    pub(super) url: EndpointUrl,
    pub(super) headers: StaticHeaders,
    pub(super) secrets: Vec<SigningSecret>,
}

/// The name under which it is sealed: it opens for this endpoint of this tenant alone.
fn name_of(tenant: TenantId, id: EndpointId) -> String {
    format!("{tenant}/{id}")
}

pub(super) fn seal(endpoint: &Endpoint, vault: &Vault) -> Result<Vec<u8>, VaultError> {
    let settings = &endpoint.settings;
    let text = |value: &http::HeaderValue| value.to_str().unwrap_or_default().to_owned();
    let secrets = endpoint.secrets.iter().map(|live| SealedSecret {
        secret: live.secret.reveal().to_string(),
        expires_at: live.expires_at.map(Timestamp::as_millisecond),
    });
    let sealed = Sealed {
        url: settings.url.uri().to_string(),
        headers: settings
            .headers
            .as_slice()
            .iter()
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect(),
        secrets: secrets.collect(),
    };
    let json = Zeroizing::new(serde_json::to_vec(&sealed).unwrap_or_default());
    vault.seal(&name_of(endpoint.tenant, endpoint.id), &json)
}

/// Opens it, or says what is wrong with it and nothing of what it holds.
pub(super) fn open(tenant: TenantId, id: EndpointId, sealed: &[u8], vault: &Vault) -> Result<Opened, String> {
    let json = vault.open(&name_of(tenant, id), sealed).map_err(|error| error.to_string())?;
    let sealed: Sealed = serde_json::from_slice(&json).map_err(|_| "sealed part isn't JSON")?;
    let headers = sealed.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    Ok(Opened {
        url: EndpointUrl::parse(&sealed.url).map_err(|error| format!("url {error}"))?,
        headers: StaticHeaders::parse(headers).map_err(|error| error.to_string())?,
        secrets: sealed.secrets.iter().map(secret).collect::<Result<_, String>>()?,
    })
}

fn secret(sealed: &SealedSecret) -> Result<SigningSecret, String> {
    let expires_at = sealed.expires_at.map(Timestamp::from_millisecond).transpose();
    Ok(SigningSecret {
        secret: Secret::parse(&sealed.secret).map_err(|_| "signing secret isn't one")?,
        expires_at: expires_at.map_err(|_| "expiry isn't a time")?,
    })
}

/// The check value of a store that is new.
pub(super) fn check_value(vault: &Vault) -> Result<Vec<u8>, VaultError> {
    vault.seal(CHECK.0, CHECK.1)
}

/// Whether a store's check value was sealed with this secret key.
pub(super) fn check(vault: &Vault, value: &[u8]) -> Result<(), VaultError> {
    vault.open(CHECK.0, value).map(drop)
}
