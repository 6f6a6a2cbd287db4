//! Parses and opens envelopes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Condvar, Mutex, PoisonError};

use aes_gcm::aead::{AeadInOut as _, KeyInit as _};
use aes_gcm::{Aes256Gcm, Key, Nonce, Tag};
use base64::Engine as _;
use lru::LruCache;
use rand::TryRng as _;
use rand::rngs::SysRng;
use serde::Deserialize;
use serde::de::{self, MapAccess, Visitor};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{ALG, CONTENT_KEY_BYTES, ENC, IV_BYTES, TAG_BYTES};
use crate::common::crypto::BASE64URL;
use crate::common::crypto::keys::PrivateKey;

/// Number of unwrapped content keys that are cached. A provider uses a new one every 1,000 messages or 5 minutes.
const CACHED_KEYS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(255);

/// The reason why an envelope can't be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The text isn't a flattened JWE in canonical form.
    #[error("not a flattened JWE: {0}")]
    Malformed(&'static str),
    /// A parameter of the envelope isn't accepted.
    #[error("unsupported JWE: {0}")]
    Unsupported(&'static str),
    /// No private key has the envelope's key id.
    #[error("no private key with this envelope's kid; pass the retired key with another --private-key")]
    UnknownKey,
    /// A cryptographic step failed. The error deliberately doesn't say which one (RFC 7516, section 11.5).
    #[error("can't be decrypted")]
    Decrypt,
}

/// A parsed envelope that hasn't been decrypted yet.
pub struct Envelope {
    protected: Box<str>,
    kid: String,
    encrypted_key: Vec<u8>,
    iv: [u8; IV_BYTES],
    message: Vec<u8>,
    tag: [u8; TAG_BYTES],
}

/// The JSON members of a flattened JWE. Members with other names are ignored (RFC 7516, section 7.2.1).
#[derive(Deserialize)]
struct Flattened<'a> {
    protected: &'a str,
    encrypted_key: &'a str,
    iv: &'a str,
    ciphertext: &'a str,
    tag: &'a str,
    #[serde(default)]
    header: Members,
    unprotected: Option<de::IgnoredAny>,
    aad: Option<de::IgnoredAny>,
    recipients: Option<de::IgnoredAny>,
}

impl Envelope {
    /// Parses a flattened JWE and checks everything that needs no key.
    ///
    /// # Errors
    /// - One of the five members is missing, isn't canonical base64url or has the wrong length.
    /// - A member occurs twice.
    /// - There is an `unprotected`, `aad` or `recipients` member, or a `header` that isn't empty.
    /// - The protected header has another `alg` or `enc`, has `crit` or `zip`, or lacks `kid`.
    pub fn parse(text: &[u8]) -> Result<Self, OpenError> {
        let jwe: Flattened<'_> = serde_json::from_slice(text).map_err(|_| {
            OpenError::Malformed(
                "the members must be protected, encrypted_key, iv, ciphertext and tag, each once",
            )
        })?;
        if !jwe.header.0.is_empty()
            || jwe.unprotected.is_some()
            || jwe.aad.is_some()
            || jwe.recipients.is_some()
        {
            return Err(OpenError::Unsupported("header, unprotected, aad and recipients aren't accepted"));
        }
        let header: Members = serde_json::from_slice(&decode(jwe.protected, "protected isn't base64url")?)
            .map_err(|_| OpenError::Malformed("protected must be a JSON object, each member once"))?;
        if header.text("alg") != Some(ALG) {
            return Err(OpenError::Unsupported("alg must be RSA-OAEP-256"));
        }
        if header.text("enc") != Some(ENC) {
            return Err(OpenError::Unsupported("enc must be A256GCM"));
        }
        if header.0.contains_key("crit") || header.0.contains_key("zip") {
            return Err(OpenError::Unsupported("crit and zip aren't accepted"));
        }
        let kid = header.text("kid").ok_or(OpenError::Malformed("protected must hold kid"))?;
        let fixed = "iv must be 12 bytes, tag 16, in base64url";
        Ok(Self {
            protected: jwe.protected.into(),
            kid: kid.to_owned(),
            encrypted_key: decode(jwe.encrypted_key, "encrypted_key isn't base64url")?,
            iv: decode(jwe.iv, fixed)?.try_into().map_err(|_| OpenError::Malformed(fixed))?,
            message: decode(jwe.ciphertext, "ciphertext isn't base64url")?,
            tag: decode(jwe.tag, fixed)?.try_into().map_err(|_| OpenError::Malformed(fixed))?,
        })
    }

    /// Returns the cache key of the content key: the SHA-256 of the key id and the wrapped content key.
    fn content_key_id(&self) -> ContentKeyId {
        let mut hash = Sha256::new();
        hash.update(self.kid.as_bytes());
        hash.update([0]);
        hash.update(&self.encrypted_key);
        hash.finalize().into()
    }

    fn decrypt(mut self, cipher: &Aes256Gcm) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let mut message = Zeroizing::new(std::mem::take(&mut self.message));
        cipher
            .decrypt_inout_detached(
                &Nonce::from(self.iv),
                self.protected.as_bytes(),
                message.as_mut_slice().into(),
                &Tag::from(self.tag),
            )
            .map_err(|_| OpenError::Decrypt)?;
        Ok(message)
    }
}

fn decode(text: &str, problem: &'static str) -> Result<Vec<u8>, OpenError> {
    BASE64URL.decode(text).map_err(|_| OpenError::Malformed(problem))
}

type ContentKeyId = [u8; 32];

/// Opens envelopes with any of several private keys.
pub struct Opener {
    keys: HashMap<Box<str>, PrivateKey>,
    /// Cache of unwrapped content keys.
    unwrapped: Mutex<LruCache<ContentKeyId, Aes256Gcm>>,
    /// Content keys that a thread is unwrapping now. Other threads that need the same key wait.
    unwrapping: Mutex<HashSet<ContentKeyId>>,
    /// Notified when a thread leaves `unwrapping`.
    unwrapping_ended: Condvar,
}

/// Exclusive permit to unwrap one content key. Dropping it lets the next thread continue.
struct UnwrapPermit<'o> {
    opener: &'o Opener,
    id: ContentKeyId,
}

impl Drop for UnwrapPermit<'_> {
    fn drop(&mut self) {
        self.opener.unwrapping.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        self.opener.unwrapping_ended.notify_all();
    }
}

impl Opener {
    /// Creates an opener with the current and the retired private keys.
    #[must_use]
    pub fn new(keys: impl IntoIterator<Item = PrivateKey>) -> Self {
        let keys = keys.into_iter().map(|key| (key.kid().into(), key)).collect();
        Self {
            keys,
            unwrapped: Mutex::new(LruCache::new(CACHED_KEYS)),
            unwrapping: Mutex::default(),
            unwrapping_ended: Condvar::new(),
        }
    }

    /// Opens an envelope whose content key is cached, which takes microseconds. Returns the envelope as the inner `Err`
    /// if the content key isn't cached.
    ///
    /// # Errors
    /// [`OpenError::UnknownKey`] or [`OpenError::Decrypt`].
    pub fn open_cached(&self, envelope: Envelope) -> Result<Result<Zeroizing<Vec<u8>>, Envelope>, OpenError> {
        if !self.keys.contains_key(envelope.kid.as_str()) {
            return Err(OpenError::UnknownKey);
        }
        let cipher = self.cache().get(&envelope.content_key_id()).cloned();
        match cipher {
            Some(cipher) => envelope.decrypt(&cipher).map(Ok),
            None => Ok(Err(envelope)),
        }
    }

    /// Opens an envelope and unwraps its content key if it isn't cached.
    ///
    /// Unwrapping takes 12 ms with a 4096-bit key, so call this from `spawn_blocking`. If several threads need the same
    /// content key, one of them unwraps it and the others wait. A content key is cached only after it has decrypted a
    /// message.
    ///
    /// # Errors
    /// [`OpenError::UnknownKey`] or [`OpenError::Decrypt`].
    pub fn open(&self, envelope: Envelope) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let id = envelope.content_key_id();
        let _permit = self.wait_for_permit(id);
        let envelope = match self.open_cached(envelope)? {
            Ok(message) => return Ok(message),
            Err(envelope) => envelope,
        };
        let key = self.keys.get(envelope.kid.as_str()).ok_or(OpenError::UnknownKey)?;
        let cipher = unwrap_content_key(key, &envelope.encrypted_key)?;
        let message = envelope.decrypt(&cipher)?;
        self.cache().put(id, cipher);
        Ok(message)
    }

    /// Returns the private keys, in no particular order.
    pub fn keys(&self) -> impl Iterator<Item = &PrivateKey> {
        self.keys.values()
    }

    fn wait_for_permit(&self, id: ContentKeyId) -> UnwrapPermit<'_> {
        let mut unwrapping = self.unwrapping.lock().unwrap_or_else(PoisonError::into_inner);
        while !unwrapping.insert(id) {
            unwrapping = self.unwrapping_ended.wait(unwrapping).unwrap_or_else(PoisonError::into_inner);
        }
        UnwrapPermit { opener: self, id }
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, LruCache<ContentKeyId, Aes256Gcm>> {
        self.unwrapped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Unwraps a content key.
///
/// A wrapped key that can't be decrypted yields a random content key, so the tag check fails later as it does for a
/// damaged message. An attacker therefore can't tell the two failures apart (RFC 7516, section 11.5).
fn unwrap_content_key(key: &PrivateKey, wrapped: &[u8]) -> Result<Aes256Gcm, OpenError> {
    let mut secret = Zeroizing::new([0; CONTENT_KEY_BYTES]);
    SysRng.try_fill_bytes(secret.as_mut_slice()).map_err(|_| OpenError::Decrypt)?;
    let unwrapped = Zeroizing::new(key.rsa().oaep_decrypt::<Sha256>(wrapped).unwrap_or_default());
    if unwrapped.len() == secret.len() {
        secret.copy_from_slice(&unwrapped);
    }
    Ok(Aes256Gcm::new(<&Key<Aes256Gcm>>::from(&*secret)))
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener").field("kids", &self.keys.keys()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// A JSON object in which no member occurs twice. `serde_json::Map` would silently keep the last one.
#[derive(Default)]
struct Members(BTreeMap<String, Value>);

impl Members {
    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if members.insert(name, value).is_some() {
                        return Err(de::Error::custom("a member is named twice"));
                    }
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}
