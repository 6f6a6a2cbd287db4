//! The envelope: a flattened JWE (RFC 7516, section 7.2.2) of RSA-OAEP-256 and A256GCM.
//!
//! ```text
//! {"protected":"…","encrypted_key":"…","iv":"…","ciphertext":"…","tag":"…"}
//! protected = base64url({"alg":"RSA-OAEP-256","enc":"A256GCM","kid":"<thumbprint>","typ":"JOSE+JSON","cty":"json"})
//! ```
//!
//! [`Sealer`] makes them, [`Opener`] reads them. One content key seals many messages, each under its own random
//! IV, since wrapping a key with RSA costs hundreds of times what sealing a message does.

mod open;
mod seal;
#[cfg(test)]
mod tests;

pub use open::{OpenError, Opener, Sealed};
pub use seal::{KeyReuse, KeyReuseError, SealError, Sealer};

/// The key management algorithm (RFC 7518, section 4.3).
const ALG: &str = "RSA-OAEP-256";
/// The content encryption algorithm (RFC 7518, section 5.3).
const ENC: &str = "A256GCM";
/// A content key is 256 bits.
const CONTENT_KEY_BYTES: usize = 32;
/// GCM's IV is 96 bits (RFC 7518, section 5.3).
const IV_BYTES: usize = 12;
/// GCM's tag is 128 bits (RFC 7518, section 5.3).
const TAG_BYTES: usize = 16;
