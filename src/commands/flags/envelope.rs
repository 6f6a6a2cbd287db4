//! The `--envelope` flag.

use clap::ValueEnum;

use crate::registry::endpoint::EnvelopeKind;

/// The value of `--envelope`.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(crate) enum EnvelopeFlag {
    /// Flattened JWE, for payloads of any size
    #[default]
    Jwe,
    /// The Deno scripts' format: plain RSA-OAEP, at most 470 bytes with a key of 4096 bits
    RsaOaep,
}

impl From<EnvelopeFlag> for EnvelopeKind {
    fn from(flag: EnvelopeFlag) -> Self {
        match flag {
            EnvelopeFlag::Jwe => Self::Jwe,
            EnvelopeFlag::RsaOaep => Self::RsaOaep,
        }
    }
}
