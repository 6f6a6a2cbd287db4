//! Standard Webhooks signatures: `v1,<base64 HMAC-SHA256>` over `id.timestamp.body`, one per active secret.
//!
//! Source: the Standard Webhooks specification 1.0.0, "Verifying webhook authenticity".

use std::fmt;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use rand::TryRng as _;
use rand::rngs::{SysError, SysRng};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq as _};
use zeroize::Zeroizing;

use super::keys::{KeyError, read_key_file};

const PREFIX: &str = "whsec_";
const VERSION: &str = "v1,";

/// A signing secret: 24 to 64 random bytes, written as `whsec_<base64>`. `Debug` hides it.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

/// The text isn't a signing secret.
#[derive(Debug, thiserror::Error)]
#[error("a signing secret is `whsec_` and base64 of 24 to 64 bytes; `whk keygen --signing-secret` makes one")]
pub struct SecretError;

/// The reason why a file of signing secrets can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// The file can't be read.
    #[error(transparent)]
    Read(#[from] KeyError),
    /// A line isn't a signing secret.
    #[error("signing secret file {path}, line {line}")]
    Line {
        /// Path of the file.
        path: Box<Path>,
        /// Number of the line, counted from 1.
        line: usize,
        /// The reason.
        source: SecretError,
    },
    /// The file contains no secret.
    #[error("signing secret file {0} contains no secret; `whk keygen --signing-secret` makes one")]
    Empty(Box<Path>),
}

impl Secret {
    /// Generates a secret of 32 random bytes.
    ///
    /// # Errors
    /// The system's random generator fails.
    pub fn generate() -> Result<Self, SysError> {
        let mut bytes = Zeroizing::new(vec![0; 32]);
        SysRng.try_fill_bytes(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// Parses `whsec_<base64>`. The prefix is optional.
    ///
    /// # Errors
    /// `text` isn't base64 of 24 to 64 bytes.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let text = text.trim();
        let bytes = STANDARD.decode(text.strip_prefix(PREFIX).unwrap_or(text)).map(Zeroizing::new);
        match bytes {
            Ok(bytes) if (24..=64).contains(&bytes.len()) => Ok(Self(bytes)),
            _ => Err(SecretError),
        }
    }

    /// Reads a file with one secret per line. Blank lines and lines that start with `#` are skipped.
    ///
    /// # Errors
    /// The file can't be read, contains no secret, or has a line that isn't one.
    pub fn read_all(path: &Path) -> Result<Vec<Self>, SecretFileError> {
        let text = read_key_file(path)?;
        let lines = text.lines().enumerate();
        let secrets = lines
            .filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'))
            .map(|(index, line)| {
                let line_number = index.saturating_add(1);
                Self::parse(line).map_err(|source| SecretFileError::Line {
                    path: path.into(),
                    line: line_number,
                    source,
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        if secrets.is_empty() { Err(SecretFileError::Empty(path.into())) } else { Ok(secrets) }
    }

    /// Returns the secret as `whsec_<base64>`.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        // Capacity for the longest secret, because a growing string leaves copies in freed memory.
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len().saturating_add(88)));
        text.push_str(PREFIX);
        STANDARD.encode_string(&*self.0, &mut text);
        text
    }

    fn mac(&self, id: &str, timestamp: &str, body: &[u8]) -> Option<[u8; 32]> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).ok()?;
        mac.update(id.as_bytes());
        mac.update(b".");
        mac.update(timestamp.as_bytes());
        mac.update(b".");
        mac.update(body);
        Some(mac.finalize().into_bytes().into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Signs deliveries with every active secret.
#[derive(Debug, Clone)]
pub struct Signer(Vec<Secret>);

impl Signer {
    /// Creates a signer. Signatures are sent in the order of `secrets`.
    #[must_use]
    pub fn new(secrets: Vec<Secret>) -> Self {
        Self(secrets)
    }

    /// Returns the value of the `webhook-signature` header: one `v1,…` per secret, separated by spaces.
    #[must_use]
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        sign(&self.0, id, timestamp, body)
    }

    /// Returns the secrets.
    #[must_use]
    pub fn secrets(&self) -> &[Secret] {
        &self.0
    }
}

/// Returns the value of the `webhook-signature` header, as [`Signer::sign`] does, without a `Signer`.
#[must_use]
pub fn sign<'s>(
    secrets: impl IntoIterator<Item = &'s Secret>,
    id: &str,
    timestamp: i64,
    body: &[u8],
) -> String {
    let timestamp = timestamp.to_string();
    // A signature with its version takes 47 bytes, and most endpoints have one secret.
    let mut header = String::with_capacity(48);
    for mac in secrets.into_iter().filter_map(|secret| secret.mac(id, &timestamp, body)) {
        if !header.is_empty() {
            header.push(' ');
        }
        header.push_str(VERSION);
        STANDARD.encode_string(mac, &mut header);
    }
    header
}

/// The reason why a delivery can't be verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// A required header is missing or isn't text.
    #[error("webhook-id, webhook-timestamp and webhook-signature are needed")]
    Missing,
    /// The timestamp isn't in Unix seconds.
    #[error("webhook-timestamp isn't in Unix seconds")]
    Timestamp,
    /// The timestamp is too old or too new, because of a replay or a wrong clock.
    #[error("webhook-timestamp is too far from this machine's clock")]
    Tolerance,
    /// No signature matches any secret.
    #[error("no webhook-signature matches")]
    Mismatch,
}

/// Verifies deliveries against every active secret.
#[derive(Debug, Clone)]
pub struct Verifier {
    secrets: Vec<Secret>,
    tolerance: Duration,
}

impl Verifier {
    /// Maximum difference between timestamp and clock in Standard Webhooks: 5 minutes, both ways.
    pub const TOLERANCE: Duration = Duration::from_secs(300);

    /// Creates a verifier that accepts a signature by any of `secrets`.
    #[must_use]
    pub fn new(secrets: Vec<Secret>, tolerance: Duration) -> Self {
        Self { secrets, tolerance }
    }

    /// Checks the values of the three headers against `body`. `now` is in Unix seconds. Signatures are compared in
    /// constant time.
    ///
    /// # Errors
    /// The timestamp is malformed or out of tolerance, or no signature matches.
    pub fn verify(
        &self,
        id: &str,
        timestamp: &str,
        signatures: &str,
        body: &[u8],
        now: i64,
    ) -> Result<(), SignatureError> {
        let sent: i64 = timestamp.parse().map_err(|_| SignatureError::Timestamp)?;
        if sent.abs_diff(now) > self.tolerance.as_secs() {
            return Err(SignatureError::Tolerance);
        }
        let given =
            signatures.split(' ').filter_map(|part| STANDARD.decode(part.strip_prefix(VERSION)?).ok());
        let given: Vec<Vec<u8>> = given.take(MAX_SIGNATURES).collect();
        let mut matched = Choice::from(0);
        for mac in self.secrets.iter().filter_map(|secret| secret.mac(id, timestamp, body)) {
            for signature in &given {
                matched |= mac.as_slice().ct_eq(signature);
            }
        }
        if bool::from(matched) { Ok(()) } else { Err(SignatureError::Mismatch) }
    }
}

/// Maximum number of signatures checked per delivery. A rotation has two active secrets, rarely more.
const MAX_SIGNATURES: usize = 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::common::crypto::tests::fixture;

    /// Test vector of the Standard Webhooks libraries.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const AT: i64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn secret() -> Secret {
        Secret::parse(SECRET).unwrap()
    }

    fn verifier(secrets: Vec<Secret>) -> Verifier {
        Verifier::new(secrets, Verifier::TOLERANCE)
    }

    fn verify(signatures: &str, now: i64) -> Result<(), SignatureError> {
        verifier(vec![secret()]).verify(ID, &AT.to_string(), signatures, BODY, now)
    }

    #[test]
    fn the_published_test_vector_is_reproduced_and_verified() {
        assert_eq!(Signer::new(vec![secret()]).sign(ID, AT, BODY), SIGNATURE);
        assert_eq!(verify(SIGNATURE, AT), Ok(()));
        assert_eq!(*secret().reveal(), SECRET);
    }

    #[test]
    fn any_active_secret_matches_during_a_rotation() {
        let (old, new) = (secret(), Secret::generate().unwrap());
        let header = Signer::new(vec![new.clone(), old.clone()]).sign(ID, AT, BODY);
        assert_eq!(header.split(' ').count(), 2);
        for live in [vec![old.clone()], vec![new.clone()], vec![Secret::generate().unwrap(), new]] {
            assert_eq!(verifier(live).verify(ID, &AT.to_string(), &header, BODY, AT), Ok(()));
        }
        assert_eq!(verify(&format!("v1a,other v2,x {SIGNATURE}"), AT), Ok(()));
    }

    #[test]
    fn the_timestamp_may_differ_by_five_minutes_at_most() {
        assert_eq!(verify(SIGNATURE, AT + 300), Ok(()));
        assert_eq!(verify(SIGNATURE, AT - 300), Ok(()));
        assert_eq!(verify(SIGNATURE, AT + 301), Err(SignatureError::Tolerance));
        assert_eq!(verify(SIGNATURE, AT - 301), Err(SignatureError::Tolerance));
        for odd in ["", "x", "1.5", "99999999999999999999"] {
            let verified = verifier(vec![secret()]).verify(ID, odd, SIGNATURE, BODY, AT);
            assert_eq!(verified, Err(SignatureError::Timestamp), "{odd}");
        }
    }

    #[test]
    fn other_signatures_do_not_match() {
        let other = Signer::new(vec![Secret::generate().unwrap()]).sign(ID, AT, BODY);
        for signatures in ["", "v1,", "v1", "v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", other.as_str()]
        {
            assert_eq!(verify(signatures, AT), Err(SignatureError::Mismatch), "{signatures}");
        }
        let verified = verifier(vec![]).verify(ID, &AT.to_string(), SIGNATURE, BODY, AT);
        assert_eq!(verified, Err(SignatureError::Mismatch));
    }

    #[test]
    fn secrets_have_24_to_64_bytes_and_debug_hides_them() {
        let of = |bytes: usize| Secret::parse(&format!("whsec_{}", STANDARD.encode(vec![7; bytes])));
        assert!(of(23).is_err() && of(24).is_ok() && of(64).is_ok() && of(65).is_err());
        assert!(Secret::parse("whsec_?").is_err() && Secret::parse("").is_err());
        assert_eq!(format!("{:?}", secret()), "Secret(…)");
        assert_eq!(Secret::read_all(&fixture("keys/signing_secret.txt")).unwrap().len(), 1);
        assert!(matches!(Secret::read_all(&fixture("keys/empty.pem")), Err(SecretFileError::Empty(_))));
        let not_secrets = Secret::read_all(&fixture("keys/public_key.pem"));
        assert!(matches!(not_secrets, Err(SecretFileError::Line { line: 1, .. })));
    }

    proptest! {
        #[test]
        fn a_signed_delivery_verifies_and_a_changed_one_does_not(
            id in "[a-z0-9_]{1,40}", body: Vec<u8>, flip: prop::sample::Index, bit in 0_u8..8,
        ) {
            let header = Signer::new(vec![secret()]).sign(&id, AT, &body);
            let verify = |id: &str, body: &[u8]| verifier(vec![secret()]).verify(id, &AT.to_string(), &header, body, AT);
            prop_assert_eq!(verify(&id, &body), Ok(()));
            prop_assert!(verify(&(id.clone() + "x"), &body).is_err());
            if !body.is_empty() {
                let mut changed = body.clone();
                changed[flip.index(body.len())] ^= 1 << bit;
                prop_assert!(verify(&id, &changed).is_err());
            }
        }

        #[test]
        fn the_verifier_never_panics(timestamp in "\\PC{0,30}", signatures in "\\PC{0,200}") {
            prop_assert!(verifier(vec![secret()]).verify(ID, &timestamp, &signatures, BODY, i64::MIN).is_err());
        }
    }
}
