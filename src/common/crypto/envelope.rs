//! The envelope: a flattened JWE (RFC 7516, section 7.2.2) with RSA-OAEP-256 and A256GCM.
//!
//! ```text
//! {"protected":"…","encrypted_key":"…","iv":"…","ciphertext":"…","tag":"…"}
//! protected = base64url({"alg":"RSA-OAEP-256","enc":"A256GCM","kid":"<thumbprint>","typ":"JOSE+JSON","cty":"json"})
//! ```
//!
//! [`Sealer`] makes envelopes and [`Opener`] opens them. One content key seals many messages, each with its own random
//! IV, because wrapping a content key with RSA costs hundreds of times as much as sealing a message.

mod open;
mod seal;
#[cfg(test)]
mod tests;

pub use open::{Envelope, OpenError, Opener};
pub use seal::{KeyReuse, KeyReuseError, SealError, Sealer};

/// Key management algorithm (RFC 7518, section 4.3).
const ALG: &str = "RSA-OAEP-256";
/// Content encryption algorithm (RFC 7518, section 5.3).
const ENC: &str = "A256GCM";
/// Bytes of a content key.
const CONTENT_KEY_BYTES: usize = 32;
/// Bytes of an IV: 96 bits (RFC 7518, section 5.3).
const IV_BYTES: usize = 12;
/// Bytes of an authentication tag: 128 bits (RFC 7518, section 5.3).
const TAG_BYTES: usize = 16;
