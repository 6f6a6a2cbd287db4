//! Cryptography: keys, envelopes, signatures and stored secrets. No other module handles secret material.

pub mod api_key;
pub mod envelope;
pub mod keys;
pub mod legacy;
pub mod signature;
#[cfg(test)]
pub(crate) mod tests;
pub mod vault;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

/// Base64url without padding (RFC 7515, section 2). Decoding refuses padding and non-canonical last symbols.
pub(crate) const BASE64URL: base64::engine::GeneralPurpose = URL_SAFE_NO_PAD;

/// Decodes standard base64. White space is skipped, because PEM tools and shells wrap lines.
pub(crate) fn decode_base64_text(text: &str) -> Option<zeroize::Zeroizing<Vec<u8>>> {
    let mut compact = zeroize::Zeroizing::new(String::with_capacity(text.len()));
    compact.extend(text.chars().filter(|c| !c.is_ascii_whitespace()));
    STANDARD.decode(compact.as_bytes()).ok().map(zeroize::Zeroizing::new)
}
