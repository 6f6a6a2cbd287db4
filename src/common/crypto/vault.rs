//! Encryption at rest: signing secrets, URLs and headers in a database, encrypted with a key that is stored elsewhere.
//!
//! A record is `iv || ciphertext || tag` of AES-256-GCM with a random 96-bit IV. The name of the record is the additional
//! authenticated data, so a record can't replace another one.

use std::fmt;

use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
use aes_gcm::{Aes256Gcm, Key, Nonce};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::TryRng as _;
use rand::rngs::{SysError, SysRng};
use zeroize::Zeroizing;

/// Bytes of the key.
const KEY_BYTES: usize = 32;
/// Bytes of an IV.
const IV_BYTES: usize = 12;

/// The reason why a secret can't be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The operating system's random generator failed.
    #[error("read the system's random generator")]
    Random(#[source] SysError),
    /// The secret was sealed with another key or for another record, or is damaged.
    #[error("a stored secret can't be opened: the secret key is another one, or the record is damaged")]
    Open,
    /// AES-GCM refused the secret because it is too large.
    #[error("a secret can't be sealed")]
    Seal,
}

/// The text isn't the key of a vault.
#[derive(Debug, thiserror::Error)]
#[error("a secret key is base64 of {KEY_BYTES} random bytes; `openssl rand -base64 {KEY_BYTES}` makes one")]
pub struct VaultKeyError;

/// Seals and opens stored secrets. `Debug` hides the key.
pub struct Vault(Aes256Gcm);

impl Vault {
    /// Creates a vault with the key in `text`, which is in base64.
    ///
    /// # Errors
    /// `text` isn't base64 of 32 bytes.
    pub fn parse(text: &str) -> Result<Self, VaultKeyError> {
        let bytes = STANDARD.decode(text.trim()).map(Zeroizing::new).map_err(|_| VaultKeyError)?;
        let key = <&Key<Aes256Gcm>>::try_from(bytes.as_slice()).map_err(|_| VaultKeyError)?;
        Ok(Self(Aes256Gcm::new(key)))
    }

    /// Generates a key and returns it in base64.
    ///
    /// # Errors
    /// The system's random generator fails.
    pub fn generate_key() -> Result<Zeroizing<String>, VaultError> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        SysRng.try_fill_bytes(bytes.as_mut_slice()).map_err(VaultError::Random)?;
        Ok(Zeroizing::new(STANDARD.encode(bytes.as_slice())))
    }

    /// Seals a secret for the record `name`.
    ///
    /// # Errors
    /// The system's random generator fails, or the secret is too large.
    pub fn seal(&self, name: &str, secret: &[u8]) -> Result<Vec<u8>, VaultError> {
        let mut iv = [0; IV_BYTES];
        SysRng.try_fill_bytes(&mut iv).map_err(VaultError::Random)?;
        let payload = Payload { msg: secret, aad: name.as_bytes() };
        let sealed = self.0.encrypt(&Nonce::from(iv), payload).map_err(|_| VaultError::Seal)?;
        Ok([iv.as_slice(), &sealed].concat())
    }

    /// Opens a secret that was sealed for the record `name`.
    ///
    /// # Errors
    /// The secret was sealed with another key or for another record, or is damaged.
    pub fn open(&self, name: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let (iv, msg) = sealed.split_first_chunk::<IV_BYTES>().ok_or(VaultError::Open)?;
        let payload = Payload { msg, aad: name.as_bytes() };
        self.0.decrypt(&Nonce::from(*iv), payload).map(Zeroizing::new).map_err(|_| VaultError::Open)
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vault() -> Vault {
        Vault::parse(&Vault::generate_key().unwrap()).unwrap()
    }

    #[test]
    fn a_secret_opens_only_with_its_key_and_record_and_undamaged() {
        let vault = vault();
        let sealed = vault.seal("ep_1", b"secret").unwrap();
        assert_eq!(vault.open("ep_1", &sealed).unwrap().as_slice(), b"secret");
        assert!(vault.open("ep_2", &sealed).is_err());
        assert!(self::vault().open("ep_1", &sealed).is_err());
        for length in 0..sealed.len() {
            assert!(vault.open("ep_1", &sealed[..length]).is_err());
        }
        let mut changed = sealed.clone();
        changed[IV_BYTES] ^= 1;
        assert!(vault.open("ep_1", &changed).is_err());
        assert_ne!(vault.seal("ep_1", b"secret").unwrap(), sealed);
    }

    #[test]
    fn keys_have_32_bytes_and_debug_hides_them() {
        for text in ["", "?", "c2hvcnQ=", &STANDARD.encode([0; 31]), &STANDARD.encode([0; 33])] {
            assert!(Vault::parse(text).is_err(), "{text}");
        }
        assert_eq!(format!("{:?}", vault()), "Vault(…)");
    }
}
