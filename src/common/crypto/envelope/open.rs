//! Opening: an envelope from outside in, plaintext out, or one of few errors.

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

/// Unwrapped content keys that are kept: a provider changes keys every 1,000 messages or 5 minutes.
const CACHED_KEYS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(255);

/// Why an envelope isn't opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The text isn't a flattened JWE in canonical form.
    #[error("not a flattened JWE: {0}")]
    Malformed(&'static str),
    /// A parameter that isn't accepted.
    #[error("unsupported JWE: {0}")]
    Unsupported(&'static str),
    /// No private key with this envelope's key id.
    #[error("no private key with this envelope's kid; pass the retired key with another --private-key")]
    UnknownKey,
    /// Every cryptographic failure, on purpose without saying which (RFC 7516, section 11.5).
    #[error("can't be decrypted")]
    Decrypt,
}

/// An envelope that was parsed and checked, its secrets still closed.
pub struct Sealed {
    protected: Box<str>,
    kid: String,
    encrypted_key: Vec<u8>,
    iv: [u8; IV_BYTES],
    message: Vec<u8>,
    tag: [u8; TAG_BYTES],
}

/// Members of other names are passed over (RFC 7516, section 7.2.1).
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

impl Sealed {
    /// Parses a flattened JWE and checks everything that needs no key.
    ///
    /// # Errors
    /// One of the five members is missing, not in canonical base64url or of the wrong length; a member is named
    /// twice; there is a `header` (unless empty), `unprotected`, `aad` or `recipients`; any other `alg` or
    /// `enc`; `crit`, `zip`, no `kid`.
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

    /// The name of its content key: SHA-256 of the key id and the wrapped key.
    fn content_key_name(&self) -> ContentKeyName {
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

type ContentKeyName = [u8; 32];

/// Opens envelopes with any of several private keys.
pub struct Opener {
    keys: HashMap<Box<str>, PrivateKey>,
    unwrapped: Mutex<LruCache<ContentKeyName, Aes256Gcm>>,
    /// The content keys that are being unwrapped just now: who needs the same one waits for it.
    unwrapping: Mutex<HashSet<ContentKeyName>>,
    unwrapped_one: Condvar,
}

/// The right to unwrap one content key, until it is dropped.
struct Turn<'o> {
    opener: &'o Opener,
    name: ContentKeyName,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.opener.unwrapping.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
        self.opener.unwrapped_one.notify_all();
    }
}

impl Opener {
    /// An opener that holds `keys`, the current and the retired ones.
    #[must_use]
    pub fn new(keys: impl IntoIterator<Item = PrivateKey>) -> Self {
        let keys = keys.into_iter().map(|key| (key.kid().into(), key)).collect();
        Self {
            keys,
            unwrapped: Mutex::new(LruCache::new(CACHED_KEYS)),
            unwrapping: Mutex::default(),
            unwrapped_one: Condvar::new(),
        }
    }

    /// Opens an envelope whose content key was unwrapped before: microseconds. Gives it back otherwise.
    ///
    /// # Errors
    /// [`OpenError::UnknownKey`] or [`OpenError::Decrypt`].
    pub fn open_cached(&self, sealed: Sealed) -> Result<Result<Zeroizing<Vec<u8>>, Sealed>, OpenError> {
        if !self.keys.contains_key(sealed.kid.as_str()) {
            return Err(OpenError::UnknownKey);
        }
        let cipher = self.lock().get(&sealed.content_key_name()).cloned();
        match cipher {
            Some(cipher) => sealed.decrypt(&cipher).map(Ok),
            None => Ok(Err(sealed)),
        }
    }

    /// Opens an envelope, unwrapping its content key where it must: 12 ms at 4096 bits, so call it from
    /// `spawn_blocking`. The content key is kept once it has opened a message; of several threads that need
    /// the same one, one unwraps it.
    ///
    /// # Errors
    /// [`OpenError::UnknownKey`] or [`OpenError::Decrypt`].
    pub fn open(&self, sealed: Sealed) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let name = sealed.content_key_name();
        let _turn = self.wait_for_turn(name);
        let sealed = match self.open_cached(sealed)? {
            Ok(message) => return Ok(message),
            Err(sealed) => sealed,
        };
        let key = self.keys.get(sealed.kid.as_str()).ok_or(OpenError::UnknownKey)?;
        let cipher = unwrap_content_key(key, &sealed.encrypted_key)?;
        let message = sealed.decrypt(&cipher)?;
        self.lock().put(name, cipher);
        Ok(message)
    }

    /// The private keys it holds.
    pub fn keys(&self) -> impl Iterator<Item = &PrivateKey> {
        self.keys.values()
    }

    fn wait_for_turn(&self, name: ContentKeyName) -> Turn<'_> {
        let mut unwrapping = self.unwrapping.lock().unwrap_or_else(PoisonError::into_inner);
        while !unwrapping.insert(name) {
            unwrapping = self.unwrapped_one.wait(unwrapping).unwrap_or_else(PoisonError::into_inner);
        }
        Turn { opener: self, name }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LruCache<ContentKeyName, Aes256Gcm>> {
        self.unwrapped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Unwraps a content key. A wrapped key that doesn't open gives a random one, so that the tag check fails
/// later, as it does for a damaged message: who sends garbage learns nothing (RFC 7516, section 11.5).
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

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealed").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// A JSON object that refuses a member named twice, where `serde_json::Map` would keep the last.
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
