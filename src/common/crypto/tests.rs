//! What the tests of this module share.

use std::path::{Path, PathBuf};

use super::keys::{PrivateKey, PublicKey};

/// A file under fixtures/.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// The text of a file under fixtures/.
pub(crate) fn fixture_text(name: &str) -> String {
    std::fs::read_to_string(fixture(name)).unwrap()
}

/// The tenant's private key of 2048 bits.
pub(crate) fn private_key() -> PrivateKey {
    PrivateKey::read(&fixture("keys/private_key.pem"), None).unwrap()
}

/// Its public half.
pub(crate) fn public_key() -> PublicKey {
    PublicKey::read(&fixture("keys/public_key.pem")).unwrap()
}
