//! API keys: 256 random bits with a readable prefix.
//!
//! Only the SHA-256 of a key is stored. A random 256-bit key can't be guessed, so its hash needs neither salt nor
//! stretching.

use std::fmt;

use base64::Engine as _;
use rand::TryRng as _;
use rand::rngs::{SysError, SysRng};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::BASE64URL;

/// Number of characters shown after the prefix, so that people can tell keys apart. They reveal 24 of 256 bits.
const HINT_CHARS: usize = 4;

/// Kind of holder that a key is issued to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// The provider, who publishes events and manages tenants.
    Provider,
    /// A tenant, who manages its own keys and endpoints.
    Tenant,
}

/// Returns whether a text, such as a URL, contains the prefix of an API key.
#[must_use]
pub fn contains_key(text: &str) -> bool {
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

/// An API key in plain text. `Debug` hides it.
pub struct ApiKey(Zeroizing<String>);

impl ApiKey {
    /// Generates a key.
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

    /// Returns the key in plain text. Only its holder may see it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Returns the hash that is stored instead of the key.
    #[must_use]
    pub fn hash(&self) -> KeyHash {
        KeyHash::of(&self.0)
    }

    /// Returns the first characters, by which people tell keys apart.
    #[must_use]
    pub fn hint(&self) -> String {
        let prefix = [KeyKind::Provider, KeyKind::Tenant].map(KeyKind::prefix);
        let prefix = prefix.into_iter().find(|prefix| self.0.starts_with(prefix)).unwrap_or_default();
        self.0.chars().take(prefix.len().saturating_add(HINT_CHARS)).chain(['…']).collect()
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
    /// Hashes a key that a client presented.
    #[must_use]
    pub fn of(presented: &str) -> Self {
        Self(Sha256::digest(presented.as_bytes()).into())
    }

    /// Restores a stored hash. Returns `None` unless `bytes` has 32 bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Returns the bytes to store.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the first 64 bits, used to look a hash up before the comparison in constant time.
    ///
    /// The timing of that lookup may reveal these bits. They don't help an attacker to find a 256-bit key.
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
    fn keys_name_their_kind_and_are_unique() {
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
    fn hints_show_four_characters_and_debug_shows_none() {
        let key = ApiKey::generate(KeyKind::Tenant).unwrap();
        assert_eq!(key.hint().chars().count(), "whk_tenant_".len() + HINT_CHARS + 1);
        assert_eq!(format!("{key:?} {:?}", key.hash()), "ApiKey(…) KeyHash(…)");
    }
}
