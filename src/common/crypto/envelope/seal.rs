//! Seals messages into envelopes.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aes_gcm::aead::{AeadInOut as _, KeyInit as _};
use aes_gcm::{Aes256Gcm, Key, Nonce};
use base64::Engine as _;
use bytes::Bytes;
use rand::TryRng as _;
use rand::rngs::SysRng;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{ALG, CONTENT_KEY_BYTES, ENC, IV_BYTES};
use crate::common::crypto::BASE64URL;
use crate::common::crypto::keys::PublicKey;

/// The reason why a message can't be sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The operating system's random generator failed.
    #[error("read the system's random generator")]
    Random(#[source] rand::rngs::SysError),
    /// RSA refused to wrap the content key.
    #[error("wrap the content key")]
    Wrap(#[source] rsa::Error),
    /// AES-GCM refused the message because it is larger than 64 GiB.
    #[error("encrypt the message")]
    Encrypt,
}

/// A bound of [`KeyReuse`] is out of range.
#[derive(Debug, thiserror::Error)]
#[error(
    "a content key must seal at least 1 and at most {} messages, and at least 1 byte",
    KeyReuse::MAX_MESSAGES
)]
pub struct KeyReuseError;

/// Limits on the reuse of a content key. A new one is made when the first of them is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyReuse {
    messages: u32,
    bytes: u64,
    age: Duration,
}

impl KeyReuse {
    /// Maximum number of messages per content key.
    ///
    /// The probability that two of a million random 96-bit IVs are equal is 2^-57. NIST SP 800-38D allows 2^32 messages,
    /// at 2^-32.
    pub const MAX_MESSAGES: u32 = 1_000_000;

    /// Creates limits in messages, bytes of plaintext, and age. A limit of one message disables reuse.
    ///
    /// # Errors
    /// `messages` or `bytes` is zero, or `messages` is over [`KeyReuse::MAX_MESSAGES`].
    pub fn try_new(messages: u32, bytes: u64, age: Duration) -> Result<Self, KeyReuseError> {
        if messages == 0 || messages > Self::MAX_MESSAGES || bytes == 0 {
            return Err(KeyReuseError);
        }
        Ok(Self { messages, bytes, age })
    }
}

impl Default for KeyReuse {
    /// Returns the default limits: 1,000 messages, 64 MiB, 5 minutes.
    fn default() -> Self {
        Self { messages: 1_000, bytes: 64 << 20, age: Duration::from_secs(300) }
    }
}

/// Seals messages for one public key.
pub struct Sealer {
    key: PublicKey,
    /// Protected header in base64url. It is also the additional authenticated data.
    protected: Box<str>,
    reuse: KeyReuse,
    current: Mutex<Option<ContentKey>>,
}

/// A content key and its use so far.
struct ContentKey {
    cipher: Arc<Aes256Gcm>,
    /// Text of the envelope up to the IV, the same for all messages with this key.
    head: Arc<str>,
    messages: u32,
    bytes: u64,
    created_at: Instant,
}

impl ContentKey {
    fn is_spent(&self, reuse: &KeyReuse) -> bool {
        self.messages >= reuse.messages || self.bytes >= reuse.bytes || self.created_at.elapsed() >= reuse.age
    }
}

impl Sealer {
    /// Creates a sealer for `key`.
    #[must_use]
    pub fn new(key: PublicKey, reuse: KeyReuse) -> Self {
        let kid = key.kid();
        let header =
            format!(r#"{{"alg":"{ALG}","enc":"{ENC}","kid":"{kid}","typ":"JOSE+JSON","cty":"json"}}"#);
        let protected = BASE64URL.encode(header).into_boxed_str();
        Self { key, protected, reuse, current: Mutex::new(None) }
    }

    /// Returns the public key that messages are sealed for.
    #[must_use]
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// Seals one message. The plaintext is encrypted in place, so there is no second copy of it.
    ///
    /// Most calls take microseconds. A call that reaches a limit of [`KeyReuse`] also wraps a new content key with RSA,
    /// which takes a quarter of a millisecond at 4096 bits.
    ///
    /// # Errors
    /// The system's random generator fails, RSA fails, or the message is over 64 GiB.
    pub fn seal(&self, mut message: Vec<u8>) -> Result<Bytes, SealError> {
        let (cipher, head) = self.content_key(message.len())?;
        let mut iv = [0; IV_BYTES];
        SysRng.try_fill_bytes(&mut iv).map_err(SealError::Random)?;
        let tag = cipher
            .encrypt_inout_detached(
                &Nonce::from(iv),
                self.protected.as_bytes(),
                message.as_mut_slice().into(),
            )
            .map_err(|_| SealError::Encrypt)?;

        let ciphertext_length = base64::encoded_len(message.len(), false).unwrap_or(message.len());
        let mut envelope =
            String::with_capacity(head.len().saturating_add(ciphertext_length).saturating_add(96));
        envelope.push_str(&head);
        BASE64URL.encode_string(iv, &mut envelope);
        envelope.push_str(r#"","ciphertext":""#);
        BASE64URL.encode_string(&message, &mut envelope);
        envelope.push_str(r#"","tag":""#);
        BASE64URL.encode_string(tag, &mut envelope);
        envelope.push_str(r#""}"#);
        Ok(envelope.into())
    }

    /// Returns the cipher and envelope head to use for a message of `bytes`, and counts that message. Makes a new
    /// content key if the current one has reached a limit.
    fn content_key(&self, bytes: usize) -> Result<(Arc<Aes256Gcm>, Arc<str>), SealError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = match current.take() {
            Some(key) if !key.is_spent(&self.reuse) => key,
            _ => self.new_content_key()?,
        };
        key.messages = key.messages.saturating_add(1);
        key.bytes = key.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        let usable = (Arc::clone(&key.cipher), Arc::clone(&key.head));
        *current = Some(key);
        Ok(usable)
    }

    fn new_content_key(&self) -> Result<ContentKey, SealError> {
        let mut secret = Zeroizing::new([0; CONTENT_KEY_BYTES]);
        SysRng.try_fill_bytes(secret.as_mut_slice()).map_err(SealError::Random)?;
        let wrapped = self.key.rsa().oaep_encrypt::<Sha256>(secret.as_slice()).map_err(SealError::Wrap)?;
        let (protected, wrapped) = (&self.protected, BASE64URL.encode(wrapped));
        Ok(ContentKey {
            cipher: Arc::new(Aes256Gcm::new(<&Key<Aes256Gcm>>::from(&*secret))),
            head: format!(r#"{{"protected":"{protected}","encrypted_key":"{wrapped}","iv":""#).into(),
            messages: 0,
            bytes: 0,
            created_at: Instant::now(),
        })
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer")
            .field("kid", &self.key.kid())
            .field("reuse", &self.reuse)
            .finish_non_exhaustive()
    }
}
