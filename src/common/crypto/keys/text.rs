//! Text of key files: finds the PEM in it, and describes files that can't be used.

use std::io;
use std::path::Path;

use zeroize::Zeroizing;

use super::KeyError;
use crate::common::crypto::decode_base64_text;

/// Maximum bytes of a key file. The PEM of an 8192-bit private key is under 7 KiB.
const MAX_KEY_FILE: u64 = 64 * 1024;

/// Reads a small secret file. Its content is wiped from memory on drop.
pub(in crate::common::crypto) fn read_key_file(path: &Path) -> Result<Zeroizing<String>, KeyError> {
    let read = || -> io::Result<Zeroizing<String>> {
        let length = std::fs::metadata(path)?.len();
        if length > MAX_KEY_FILE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "file is too large for a key"));
        }
        std::fs::read_to_string(path).map(Zeroizing::new)
    };
    read().map_err(|source| KeyError::Read { path: path.to_owned(), source })
}

/// Finds the PEM in `text`. Text before the PEM is skipped; PEM in base64, as the Deno scripts write it, is decoded.
pub(super) fn pem_of(text: &str) -> Result<Zeroizing<String>, KeyError> {
    let from_begin = |text: &str| text.find("-----BEGIN ").and_then(|at| text.get(at..)).map(str::to_owned);
    if text.is_empty() {
        return Err(KeyError::Empty);
    }
    if let Some(pem) = from_begin(text) {
        return Ok(Zeroizing::new(pem));
    }
    decode_base64_text(text)
        .and_then(|bytes| std::str::from_utf8(&bytes).ok().and_then(from_begin))
        .map(Zeroizing::new)
        .ok_or_else(|| KeyError::Unsupported("no PEM".into()))
}

pub(super) fn pem_label(pem: &str) -> Result<&str, KeyError> {
    pem.strip_prefix("-----BEGIN ")
        .and_then(|rest| rest.split_once("-----"))
        .map(|(label, _)| label)
        .ok_or(KeyError::Malformed)
}

pub(super) fn describe_label(label: &str) -> String {
    let label: String = label.chars().filter(|c| c.is_ascii_alphanumeric() || *c == ' ').take(40).collect();
    format!("PEM of type \"{label}\"")
}

pub(super) fn spki_error(error: pkcs8::spki::Error) -> KeyError {
    match error {
        pkcs8::spki::Error::OidUnknown { .. } => KeyError::Unsupported("a public key that isn't RSA".into()),
        _ => KeyError::Malformed,
    }
}

pub(super) fn pkcs8_error(error: pkcs8::Error) -> KeyError {
    match error {
        pkcs8::Error::PublicKey(pkcs8::spki::Error::OidUnknown { .. }) => {
            KeyError::Unsupported("a private key that isn't RSA".into())
        }
        _ => KeyError::Malformed,
    }
}

/// Advice for private keys in formats that can't be read. [`KeyError::Unsupported`] continues the sentence.
pub(super) const CONVERT: &str = "convert it with `openssl pkcs8 -topk8 -v2 aes-256-cbc`; as it is it";

pub(super) fn decrypt_error(error: pkcs8::Error) -> KeyError {
    use pkcs8::pkcs5::Error::{AlgorithmParametersInvalid, NoPbes1CryptSupport, UnsupportedAlgorithm};
    match error {
        pkcs8::Error::EncryptedPrivateKey(
            AlgorithmParametersInvalid { .. } | NoPbes1CryptSupport | UnsupportedAlgorithm { .. },
        ) => KeyError::Unsupported(format!("a key encrypted with an old algorithm; {CONVERT}")),
        _ => KeyError::WrongPassphrase,
    }
}
