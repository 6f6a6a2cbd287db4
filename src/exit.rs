//! The exit codes and the one table that maps errors to them (after BSD's `sysexits.h`).

use std::io::ErrorKind;

use crate::common::crypto::keys::KeyError;
use crate::common::crypto::signature::SecretFileError;
use crate::common::shutdown::Interrupted;
use crate::common::telemetry::LogFilterError;

/// The command did what it was asked.
pub const DONE: u8 = 0;
/// It failed in a way that none of the others tells.
pub const FAILED: u8 = 1;
/// The command line, an environment variable or a key file can't be used.
pub const USAGE: u8 = 64;
/// A file that was named isn't there.
pub const MISSING_INPUT: u8 = 66;
/// A server isn't reachable, or a port isn't free.
pub const UNAVAILABLE: u8 = 69;
/// The operating system doesn't permit it.
pub const NOT_PERMITTED: u8 = 77;
/// A signal ended it before it was done.
pub const INTERRUPTED: u8 = 130;

/// A flag that can't be used as it was given; names the flag.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// The exit code of an error: the first of its causes that the table knows.
#[must_use]
pub fn code_of(error: &anyhow::Error) -> u8 {
    error.chain().find_map(known).unwrap_or(FAILED)
}

fn known(cause: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if let Some(error) = cause.downcast_ref::<std::io::Error>() {
        return of_io(error.kind());
    }
    // A source that is boxed is found as its box.
    if let Some(error) =
        cause.downcast_ref::<KeyError>().or(cause.downcast_ref::<Box<KeyError>>().map(Box::as_ref))
    {
        return of_key(error);
    }
    let bad_secret = cause
        .downcast_ref::<SecretFileError>()
        .is_some_and(|error| !matches!(error, SecretFileError::Read(_)));
    if bad_secret || cause.is::<UsageError>() || cause.is::<LogFilterError>() {
        return Some(USAGE);
    }
    cause.is::<Interrupted>().then_some(INTERRUPTED)
}

fn of_key(error: &KeyError) -> Option<u8> {
    match error {
        // Text was expected, and of a key's size.
        KeyError::Read { source, .. }
            if matches!(source.kind(), ErrorKind::InvalidData | ErrorKind::IsADirectory) =>
        {
            Some(USAGE)
        }
        // What it wraps comes next in the chain.
        KeyError::Read { .. } | KeyError::File { .. } => None,
        KeyError::Generate(_) | KeyError::Encode => Some(FAILED),
        _ => Some(USAGE),
    }
}

fn of_io(kind: ErrorKind) -> Option<u8> {
    match kind {
        ErrorKind::NotFound => Some(MISSING_INPUT),
        ErrorKind::PermissionDenied => Some(NOT_PERMITTED),
        ErrorKind::AddrInUse
        | ErrorKind::AddrNotAvailable
        | ErrorKind::ConnectionRefused
        | ErrorKind::ConnectionReset
        | ErrorKind::TimedOut => Some(UNAVAILABLE),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn errors_have_their_documented_codes() {
        let io = |kind: ErrorKind| anyhow::Error::from(std::io::Error::from(kind)).context("doing something");
        assert_eq!(code_of(&io(ErrorKind::NotFound)), MISSING_INPUT);
        assert_eq!(code_of(&io(ErrorKind::PermissionDenied)), NOT_PERMITTED);
        assert_eq!(code_of(&io(ErrorKind::AddrInUse)), UNAVAILABLE);
        assert_eq!(code_of(&io(ErrorKind::Other)), FAILED);
        assert_eq!(code_of(&anyhow::anyhow!("anything")), FAILED);
        let interrupted = Err::<(), _>(Interrupted).context("drain").unwrap_err();
        assert_eq!(code_of(&interrupted), INTERRUPTED);
        let missing = KeyError::Read { path: "key.pem".into(), source: ErrorKind::NotFound.into() };
        assert_eq!(code_of(&missing.into()), MISSING_INPUT);
        let binary = KeyError::Read { path: "key.der".into(), source: ErrorKind::InvalidData.into() };
        assert_eq!(code_of(&binary.into()), USAGE);
        let damaged = KeyError::File { path: "key.pem".into(), source: KeyError::Malformed.into() };
        assert_eq!(code_of(&damaged.into()), USAGE);
    }
}
