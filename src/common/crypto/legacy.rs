//! The legacy format of the Deno scripts, kept so that receivers written for the scripts continue to work.
//!
//! A message is a JSON string. It contains, in base64, `{"payload":…,"timestamp":<ms>}` encrypted with RSA-OAEP and SHA-1.
//! A 4096-bit key holds at most 470 bytes, and each message costs an RSA operation.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha1::Sha1;
use zeroize::Zeroizing;

use super::keys::{PrivateKey, PublicKey};

/// Bytes of OAEP's overhead with SHA-1: two hashes and two bytes (RFC 8017, section 7.1.1).
const OAEP_SHA1_OVERHEAD: u32 = 2 * 20 + 2;

/// The reason why a payload can't be sealed or opened in the legacy format.
#[derive(Debug, thiserror::Error)]
pub enum LegacyError {
    /// The payload doesn't fit into one RSA block.
    #[error(
        "the rsa-oaep envelope holds {max} bytes with this key and the payload needs {needed}; use --envelope jwe"
    )]
    TooLarge {
        /// Bytes of the payload with its frame.
        needed: usize,
        /// Maximum bytes with this key.
        max: u32,
    },
    /// The text isn't a JSON string of base64.
    #[error("not a JSON string of base64")]
    Malformed,
    /// No private key decrypts the text.
    #[error("can't be decrypted")]
    Decrypt,
    /// RSA refused to encrypt.
    #[error("encrypt the payload")]
    Encrypt(#[source] rsa::Error),
}

/// The plaintext of a legacy message.
#[derive(Serialize, Deserialize)]
pub struct LegacyMessage<'a> {
    /// Published payload.
    #[serde(borrow)]
    pub payload: &'a RawValue,
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
}

/// Returns the maximum bytes of `{"payload":…,"timestamp":<ms>}` with `key`.
#[must_use]
pub fn capacity(key: &PublicKey) -> u32 {
    key.bits().div_ceil(8).saturating_sub(OAEP_SHA1_OVERHEAD)
}

/// Encrypts one payload.
///
/// # Errors
/// The payload doesn't fit, or RSA fails.
pub fn seal(key: &PublicKey, payload: &RawValue, timestamp_ms: i64) -> Result<Bytes, LegacyError> {
    let message = serde_json::to_vec(&LegacyMessage { payload, timestamp: timestamp_ms });
    let message = Zeroizing::new(message.map_err(|_| LegacyError::Malformed)?);
    let max = capacity(key);
    if u32::try_from(message.len()).map_or(true, |length| length > max) {
        return Err(LegacyError::TooLarge { needed: message.len(), max });
    }
    let encrypted = key.rsa().oaep_encrypt::<Sha1>(&message).map_err(LegacyError::Encrypt)?;
    Ok(format!("\"{}\"", STANDARD.encode(encrypted)).into())
}

/// Decrypts a body with the first of `keys` that fits.
///
/// Each key takes 12 ms at 4096 bits, so call this from `spawn_blocking`.
///
/// # Errors
/// The body isn't in the legacy format, or no key decrypts it.
pub fn open<'k>(
    keys: impl IntoIterator<Item = &'k PrivateKey>,
    body: &[u8],
) -> Result<Zeroizing<Vec<u8>>, LegacyError> {
    let text: String = serde_json::from_slice(body).map_err(|_| LegacyError::Malformed)?;
    let encrypted = STANDARD.decode(text).map_err(|_| LegacyError::Malformed)?;
    keys.into_iter()
        .find_map(|key| key.rsa().oaep_decrypt::<Sha1>(&encrypted).ok())
        .map(Zeroizing::new)
        .ok_or(LegacyError::Decrypt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::crypto::tests::{fixture_text, private_key, public_key};

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    #[test]
    fn a_message_of_the_scripts_opens() {
        let opened = open([&private_key()], fixture_text("envelopes/scripts.json").as_bytes()).unwrap();
        assert_eq!(opened.as_slice(), fixture_text("envelopes/scripts.plain.json").as_bytes());
    }

    #[test]
    fn a_sealed_message_opens_with_any_of_several_keys() {
        let other = PrivateKey::parse(&fixture_text("keys/other_private_key.pem"), None).unwrap();
        let body = seal(&public_key(), &raw(r#"{"a":1}"#), 1_700_000_000_000).unwrap();
        let opened = open([&other, &private_key()], &body).unwrap();
        assert_eq!(opened.as_slice(), br#"{"payload":{"a":1},"timestamp":1700000000000}"#);
        assert!(matches!(open([&other], &body), Err(LegacyError::Decrypt)));
    }

    #[test]
    fn the_capacity_is_exact() {
        let key = public_key();
        assert_eq!(capacity(&key), 214);
        let frame = r#"{"payload":"","timestamp":1700000000000}"#.len();
        let payload = |bytes: usize| raw(&format!("\"{}\"", "x".repeat(bytes)));
        assert!(seal(&key, &payload(214 - frame), 1_700_000_000_000).is_ok());
        let over = seal(&key, &payload(215 - frame), 1_700_000_000_000);
        assert!(matches!(over, Err(LegacyError::TooLarge { needed: 215, max: 214 })));
    }

    #[test]
    fn malformed_bodies_are_refused() {
        for body in ["", "\"", "\"?\"", "{}", "null", "\"aGVsbG8=\""] {
            assert!(open([&private_key()], body.as_bytes()).is_err(), "{body}");
        }
    }
}
