//! API keys: 256 random bits with a readable prefix. Only their SHA-256 is kept, which nothing that random needs
//! salt or stretching for.

use std::fmt;

use base64::Engine as _;
use rand::TryRng as _;
use rand::rngs::{SysError, SysRng};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::BASE64URL;

/// Characters after the prefix that are shown, so that people tell their keys apart: 24 of 256 bits.
const SHOWN: usize = 4;

/// Whom a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// The provider: publishes and manages tenants.
    Provider,
    /// One tenant: manages what is its own.
    Tenant,
}

/// Whether a text, such as a URL, holds what looks like a key.
#[must_use]
pub fn looks_like_one(text: &str) -> bool {
    [KeyKind::Provider, KeyKind::Tenant].into_iter().any(|kind| text.contains(kind.prefix()))
}

impl KeyKind {
    fn prefix(self) -> &'static str {
        match self {
            Self::Provider => "whk_provider_",
            Self::Tenant => "whk_tenant_",
        }
    }
}

/// A key as its holder has it. `Debug` hides it.
pub struct ApiKey(Zeroizing<String>);

impl ApiKey {
    /// Makes a key.
    ///
    /// # Errors
    /// The system's random generator fails.
    pub fn generate(kind: KeyKind) -> Result<Self, SysError> {
        let mut bytes = Zeroizing::new([0; 32]);
        SysRng.try_fill_bytes(bytes.as_mut_slice())?;
        let mut text = Zeroizing::new(String::with_capacity(64));
        text.push_str(kind.prefix());
        BASE64URL.encode_string(bytes.as_slice(), &mut text);
        Ok(Self(text))
    }

    /// The key's text, for its holder alone.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is kept of it.
    #[must_use]
    pub fn hash(&self) -> KeyHash {
        KeyHash::of(&self.0)
    }

    /// Its first characters, by which people tell keys apart.
    #[must_use]
    pub fn hint(&self) -> String {
        let prefix = [KeyKind::Provider, KeyKind::Tenant].map(KeyKind::prefix);
        let prefix = prefix.into_iter().find(|prefix| self.0.starts_with(prefix)).unwrap_or_default();
        self.0.chars().take(prefix.len().saturating_add(SHOWN)).chain(['…']).collect()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

/// The SHA-256 of a key. Equality takes constant time.
#[derive(Clone, Copy)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// The hash of a key as it was presented.
    #[must_use]
    pub fn of(presented: &str) -> Self {
        Self(Sha256::digest(presented.as_bytes()).into())
    }

    /// A stored hash; `None` unless it is of 32 bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// For storing.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The first 64 bits, to look hashes up by before they are compared: what its timing tells of them helps nobody
    /// to find a key of 256 bits.
    #[must_use]
    pub fn bucket(&self) -> u64 {
        self.0.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
    }
}

impl PartialEq for KeyHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for KeyHash {}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_say_whom_they_are_for_and_never_repeat() {
        let (one, other) =
            (ApiKey::generate(KeyKind::Tenant).unwrap(), ApiKey::generate(KeyKind::Tenant).unwrap());
        assert!(one.reveal().starts_with("whk_tenant_") && one.reveal().len() == "whk_tenant_".len() + 43);
        assert!(ApiKey::generate(KeyKind::Provider).unwrap().reveal().starts_with("whk_provider_"));
        assert_ne!(one.hash(), other.hash());
        assert_eq!(KeyHash::of(one.reveal()), one.hash());
        assert_eq!(KeyHash::from_bytes(one.hash().as_bytes()), Some(one.hash()));
        assert_eq!(KeyHash::from_bytes(b"short"), None);
    }

    #[test]
    fn little_of_a_key_is_shown() {
        let key = ApiKey::generate(KeyKind::Tenant).unwrap();
        assert_eq!(key.hint().chars().count(), "whk_tenant_".len() + SHOWN + 1);
        assert_eq!(format!("{key:?} {:?}", key.hash()), "ApiKey(…) KeyHash(…)");
    }
}
