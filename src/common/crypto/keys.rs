//! RSA keys: generation, parsing of every supported format, and key ids (RFC 7638 thumbprints).

mod text;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use pkcs8::{
    DecodePrivateKey as _, DecodePublicKey as _, EncodePrivateKey as _, EncodePublicKey as _, LineEnding,
};
use rsa::pkcs1::{DecodeRsaPrivateKey as _, DecodeRsaPublicKey as _};
use rsa::traits::PublicKeyParts as _;
use rsa::{PrivateKey as RsaPrivateKey, PublicKey as RsaPublicKey};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

pub(super) use self::text::read_key_file;
use self::text::{CONVERT, decrypt_error, describe_label, pem_label, pem_of, pkcs8_error, spki_error};
use super::BASE64URL;

/// Minimum size of a modulus in bits. NIST SP 800-131A disallows smaller ones since 2014.
pub const MIN_BITS: u32 = 2048;

/// The reason why a key can't be used. Each message says how to mend it; none contains key material.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file can't be read.
    #[error("read key file {path}")]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The content of a file can't be used.
    #[error("key file {path}")]
    File {
        /// Path of the file.
        path: PathBuf,
        /// The reason.
        source: Box<KeyError>,
    },
    /// The text is empty.
    #[error("is empty; `whk keygen` makes a key pair")]
    Empty,
    /// A private key was given, and a public key is needed.
    #[error(
        "holds a private key where a public key belongs; pass public_key.pem, and keep the private key with the customer"
    )]
    PrivateWherePublic,
    /// A public key was given, and a private key is needed.
    #[error("holds a public key where a private key belongs; pass private_key.pem")]
    PublicWherePrivate,
    /// The modulus is too short to be safe.
    #[error("is an RSA key of {0} bits and needs at least {MIN_BITS}; `whk keygen` makes one of 4096")]
    TooShort(u32),
    /// The private key is encrypted and no passphrase was given.
    #[error("is encrypted; pass --passphrase-file")]
    PassphraseNeeded,
    /// The passphrase is wrong, or the encrypted private key is damaged.
    #[error("can't be decrypted: wrong passphrase or damaged file")]
    WrongPassphrase,
    /// The text is another kind of PEM, JWK or file.
    #[error(
        "holds {0}; expected an RSA key as PEM (PKCS#8, SPKI or PKCS#1), base64 of PEM, or (public keys) JWK"
    )]
    Unsupported(String),
    /// The first line of a passphrase file is empty.
    #[error("holds no passphrase in its first line")]
    NoPassphrase,
    /// The text begins like a key, but the rest can't be parsed.
    #[error("is truncated or damaged")]
    Malformed,
    /// Key generation failed, for example because of the operating system's random generator.
    #[error("generate RSA key")]
    Generate(#[source] rsa::Error),
    /// A key can't be encoded as PEM.
    #[error("encode RSA key as PEM")]
    Encode,
}

impl KeyError {
    fn in_file(self, path: &Path) -> Self {
        Self::File { path: path.to_owned(), source: Box::new(self) }
    }
}

/// A public key, with its key id.
#[derive(Clone)]
pub struct PublicKey {
    rsa: RsaPublicKey,
    kid: Box<str>,
}

impl PublicKey {
    /// Reads a key file in any format that [`PublicKey::parse`] accepts.
    ///
    /// # Errors
    /// The file can't be read, or isn't a public RSA key of at least [`MIN_BITS`].
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        Self::parse(&read_key_file(path)?).map_err(|e| e.in_file(path))
    }

    /// Parses PEM (SPKI or PKCS#1), base64 of such PEM as the Deno scripts write it, or a JWK (RFC 7517).
    ///
    /// # Errors
    /// `text` isn't a public RSA key of at least [`MIN_BITS`].
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        if text.starts_with('{') {
            return Self::from_jwk(text);
        }
        let pem = pem_of(text)?;
        let rsa = match pem_label(&pem)? {
            "PUBLIC KEY" => RsaPublicKey::from_public_key_pem(&pem).map_err(spki_error)?,
            "RSA PUBLIC KEY" => RsaPublicKey::from_pkcs1_pem(&pem).map_err(|_| KeyError::Malformed)?,
            "PRIVATE KEY" | "RSA PRIVATE KEY" | "ENCRYPTED PRIVATE KEY" => {
                return Err(KeyError::PrivateWherePublic);
            }
            other => return Err(KeyError::Unsupported(describe_label(other))),
        };
        Self::new(rsa)
    }

    fn from_jwk(text: &str) -> Result<Self, KeyError> {
        #[derive(Deserialize)]
        struct Jwk {
            kty: Option<String>,
            keys: Option<serde::de::IgnoredAny>,
            n: Option<String>,
            e: Option<String>,
            d: Option<serde::de::IgnoredAny>,
        }
        let jwk: Jwk = serde_json::from_str(text).map_err(|_| KeyError::Malformed)?;
        if jwk.keys.is_some() {
            return Err(KeyError::Unsupported("a JWK set; pass one of its keys".into()));
        }
        if jwk.kty.as_deref() != Some("RSA") {
            return Err(KeyError::Unsupported("a JWK of another key type".into()));
        }
        if jwk.d.is_some() {
            return Err(KeyError::PrivateWherePublic);
        }
        let number = |member: Option<String>| {
            let bytes = member.and_then(|m| BASE64URL.decode(m).ok()).ok_or(KeyError::Malformed)?;
            Ok::<_, KeyError>(rsa::BoxedUint::from_be_slice_vartime(&bytes))
        };
        let (n, e) = (number(jwk.n)?, number(jwk.e)?);
        let bits = n.bit_width_vartime();
        if bits < MIN_BITS {
            return Err(KeyError::TooShort(bits));
        }
        Self::new(RsaPublicKey::new(n, e).map_err(|_| KeyError::Malformed)?)
    }

    fn new(rsa: RsaPublicKey) -> Result<Self, KeyError> {
        let bits = rsa.n().bit_width_vartime();
        if bits < MIN_BITS {
            return Err(KeyError::TooShort(bits));
        }
        let kid = thumbprint(&rsa).into_boxed_str();
        Ok(Self { rsa, kid })
    }

    /// Returns the key id: the RFC 7638 thumbprint with SHA-256 in base64url, 43 characters.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Returns the size of the modulus in bits.
    #[must_use]
    pub fn bits(&self) -> u32 {
        self.rsa.n().bit_width_vartime()
    }

    /// Encodes the key as SPKI in PEM.
    ///
    /// # Errors
    /// The key can't be encoded.
    pub fn to_pem(&self) -> Result<String, KeyError> {
        self.rsa.to_public_key_pem(LineEnding::LF).map_err(|_| KeyError::Encode)
    }

    /// Encodes the key as a JWK (RFC 7517) with `kid`, `use` and `alg`.
    #[must_use]
    pub fn to_jwk(&self) -> serde_json::Value {
        let (n, e) = jwk_numbers(&self.rsa);
        serde_json::json!({"kty": "RSA", "use": "enc", "alg": "RSA-OAEP-256", "kid": self.kid(), "n": n, "e": e})
    }

    pub(super) fn rsa(&self) -> &RsaPublicKey {
        &self.rsa
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublicKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// A private key with its public key. `Debug` shows only the key id.
#[derive(Clone)]
pub struct PrivateKey {
    rsa: RsaPrivateKey,
    public: PublicKey,
}

impl PrivateKey {
    /// Generates a key pair. It takes seconds at 4096 bits, so call it from `spawn_blocking`.
    ///
    /// # Errors
    /// `bits` is under [`MIN_BITS`], or the system's random generator fails.
    pub fn generate(bits: u32) -> Result<Self, KeyError> {
        if bits < MIN_BITS {
            return Err(KeyError::TooShort(bits));
        }
        let size = usize::try_from(bits).map_err(|_| KeyError::Malformed)?;
        Self::new(RsaPrivateKey::new(&mut rand::rngs::SysRng, size).map_err(KeyError::Generate)?)
    }

    /// Reads a key file in any format that [`PrivateKey::parse`] accepts.
    ///
    /// # Errors
    /// The file can't be read, isn't a private RSA key of at least [`MIN_BITS`], or can't be decrypted with `passphrase`.
    pub fn read(path: &Path, passphrase: Option<&Passphrase>) -> Result<Self, KeyError> {
        Self::parse(&read_key_file(path)?, passphrase).map_err(|e| e.in_file(path))
    }

    /// Parses PEM (PKCS#8, plain or encrypted, or PKCS#1), or base64 of such PEM as the Deno scripts write it.
    ///
    /// # Errors
    /// `text` isn't a private RSA key of at least [`MIN_BITS`], or can't be decrypted with `passphrase`.
    pub fn parse(text: &str, passphrase: Option<&Passphrase>) -> Result<Self, KeyError> {
        let pem = pem_of(text.trim())?;
        let rsa = match pem_label(&pem)? {
            "PRIVATE KEY" => RsaPrivateKey::from_pkcs8_pem(&pem).map_err(pkcs8_error)?,
            "RSA PRIVATE KEY" if pem.contains("Proc-Type:") => {
                return Err(KeyError::Unsupported(format!("a traditional encrypted key; {CONVERT}")));
            }
            "RSA PRIVATE KEY" => RsaPrivateKey::from_pkcs1_pem(&pem).map_err(|_| KeyError::Malformed)?,
            "ENCRYPTED PRIVATE KEY" => {
                let passphrase = passphrase.ok_or(KeyError::PassphraseNeeded)?;
                RsaPrivateKey::from_pkcs8_encrypted_pem(&pem, passphrase.as_bytes()).map_err(decrypt_error)?
            }
            "PUBLIC KEY" | "RSA PUBLIC KEY" => return Err(KeyError::PublicWherePrivate),
            other => return Err(KeyError::Unsupported(describe_label(other))),
        };
        Self::new(rsa)
    }

    fn new(rsa: RsaPrivateKey) -> Result<Self, KeyError> {
        let public = PublicKey::new(rsa.to_public_key())?;
        Ok(Self { rsa, public })
    }

    /// Returns the public key.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Returns the key id of the public key.
    #[must_use]
    pub fn kid(&self) -> &str {
        self.public.kid()
    }

    /// Encodes the key as PKCS#8 in PEM. With a passphrase the key is encrypted (PBES2 with scrypt and AES-256-CBC).
    ///
    /// # Errors
    /// The key can't be encoded.
    pub fn to_pem(&self, passphrase: Option<&Passphrase>) -> Result<Zeroizing<String>, KeyError> {
        match passphrase {
            None => self.rsa.to_pkcs8_pem(LineEnding::LF),
            Some(passphrase) => self.rsa.to_pkcs8_encrypted_pem(passphrase.as_bytes(), LineEnding::LF),
        }
        .map_err(|_| KeyError::Encode)
    }

    pub(super) fn rsa(&self) -> &RsaPrivateKey {
        &self.rsa
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateKey").field("kid", &self.kid()).finish_non_exhaustive()
    }
}

/// Passphrase of an encrypted private key. `Debug` hides it.
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// Reads the first line of a file.
    ///
    /// # Errors
    /// The file can't be read, or its first line is empty.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let text = read_key_file(path)?;
        match text.lines().next() {
            None | Some("") => Err(KeyError::NoPassphrase.in_file(path)),
            Some(line) => Ok(Self(Zeroizing::new(line.to_owned()))),
        }
    }

    fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl From<&str> for Passphrase {
    fn from(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

/// Returns modulus and exponent in base64url without leading zero bytes.
fn jwk_numbers(key: &RsaPublicKey) -> (String, String) {
    let encode = |number: Box<[u8]>| {
        let significant = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
        BASE64URL.encode(number.get(significant..).unwrap_or_default())
    };
    (encode(key.n().to_be_bytes()), encode(key.e().to_be_bytes()))
}

/// Returns the thumbprint of a key: SHA-256 of the required JWK members in lexicographic order, without white space
/// (RFC 7638, section 3).
fn thumbprint(key: &RsaPublicKey) -> String {
    let (n, e) = jwk_numbers(key);
    BASE64URL.encode(Sha256::digest(format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#)))
}

#[cfg(test)]
mod tests;
