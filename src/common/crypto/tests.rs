//! Fixtures for the tests of cryptography.

use std::path::{Path, PathBuf};

use super::keys::{PrivateKey, PublicKey};

/// Returns the path of a file in `fixtures/`.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// Reads a text file in `fixtures/`.
pub(crate) fn fixture_text(name: &str) -> String {
    std::fs::read_to_string(fixture(name)).unwrap()
}

/// Reads the tenant's private key (2048 bits).
pub(crate) fn private_key() -> PrivateKey {
    PrivateKey::read(&fixture("keys/private_key.pem"), None).unwrap()
}

/// Reads the tenant's public key, which belongs to [`private_key`].
pub(crate) fn public_key() -> PublicKey {
    PublicKey::read(&fixture("keys/public_key.pem")).unwrap()
}
