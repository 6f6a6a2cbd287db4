//! Exit codes, and the table that maps errors to them. The numbers follow BSD's `sysexits.h`.

#[cfg(feature = "kafka")]
mod kafka;

use std::io::ErrorKind;

use crate::client::ClientError;
use crate::common::crypto::keys::KeyError;
use crate::common::crypto::signature::SecretFileError;
use crate::common::data_dir::DataDirError;
use crate::common::kafka::NotBuiltIn;
use crate::common::shutdown::Interrupted;
use crate::common::sqlite::SqliteError;
use crate::common::telemetry::LogFilterError;
use crate::queue::disk::DiskError;
use crate::queue::open::OpenQueueError;
use crate::queue::redis::OpenRedisError;
use crate::registry::{OpenError, StoreError};

/// The command succeeded.
pub const DONE: u8 = 0;
/// The command failed, and no other code fits.
pub const FAILED: u8 = 1;
/// A flag, an environment variable or a key file can't be used.
pub const USAGE: u8 = 64;
/// A file named on the command line doesn't exist.
pub const MISSING_INPUT: u8 = 66;
/// A server can't be reached, a port isn't free, or a data dir is in use.
pub const UNAVAILABLE: u8 = 69;
/// The operating system, the server or Kafka denied permission.
pub const NOT_PERMITTED: u8 = 77;
/// A signal ended the command before it was done.
pub const INTERRUPTED: u8 = 130;

/// A flag can't be used as it was given. The text names the flag.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// Returns the exit code of an error: that of the first error in its chain of sources that the table knows.
#[must_use]
pub fn code_of(error: &anyhow::Error) -> u8 {
    error.chain().find_map(known).unwrap_or(FAILED)
}

/// Returns an error and its sources as one line. A source is left out if the text before it says the same already.
#[must_use]
pub fn describe(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        match (text.is_empty(), text.contains(&cause)) {
            (true, _) => text = cause,
            (false, true) => {}
            (false, false) => text += &format!(": {cause}"),
        }
    }
    text
}

fn known(cause: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if let Some(error) = cause.downcast_ref::<std::io::Error>() {
        return of_io(error.kind());
    }
    #[cfg(feature = "kafka")]
    if let Some(code) = kafka::code_of(cause) {
        return Some(code);
    }
    // `downcast_ref` finds a boxed source only as its box.
    if let Some(error) =
        cause.downcast_ref::<KeyError>().or(cause.downcast_ref::<Box<KeyError>>().map(Box::as_ref))
    {
        return of_key(error);
    }
    if let Some(error) = cause.downcast_ref::<OpenError>() {
        return match error {
            OpenError::DataDir(error) | OpenError::SharedKey { source: error, .. } => of_data_dir(error),
            OpenError::Store(error) => of_store(error),
            OpenError::NotShared => Some(USAGE),
        };
    }
    if let Some(error) = cause.downcast_ref::<DataDirError>() {
        return of_data_dir(error);
    }
    if let Some(OpenQueueError::Disk(error)) = cause.downcast_ref::<OpenQueueError>() {
        return of_disk(error);
    }
    if let Some(error) = cause.downcast_ref::<ClientError>() {
        return of_client(error);
    }
    if let Some(error) = cause.downcast_ref::<OpenRedisError>() {
        return Some(match error {
            OpenRedisError::Unusable { .. } | OpenRedisError::Queue(_) => UNAVAILABLE,
            _ => USAGE,
        });
    }
    let bad_secret = cause
        .downcast_ref::<SecretFileError>()
        .is_some_and(|error| !matches!(error, SecretFileError::Read(_)));
    if bad_secret || cause.is::<UsageError>() || cause.is::<LogFilterError>() || cause.is::<NotBuiltIn>() {
        return Some(USAGE);
    }
    cause.is::<Interrupted>().then_some(INTERRUPTED)
}

fn of_key(error: &KeyError) -> Option<u8> {
    match error {
        // The file isn't text, is too large for a key, or is a folder.
        KeyError::Read { source, .. }
            if matches!(source.kind(), ErrorKind::InvalidData | ErrorKind::IsADirectory) =>
        {
            Some(USAGE)
        }
        // The wrapped error comes next in the chain.
        KeyError::Read { .. } | KeyError::File { .. } => None,
        KeyError::Generate(_) | KeyError::Encode => Some(FAILED),
        _ => Some(USAGE),
    }
}

fn of_data_dir(error: &DataDirError) -> Option<u8> {
    match error {
        DataDirError::InUse(_) => Some(UNAVAILABLE),
        DataDirError::Key { .. } => Some(USAGE),
        DataDirError::Io { source, .. } | DataDirError::ReadKey { source, .. } => of_io(source.kind()),
        DataDirError::MakeKey(_) => Some(FAILED),
    }
}

fn of_client(error: &ClientError) -> Option<u8> {
    match error {
        ClientError::Unreachable { .. } | ClientError::TimedOut { .. } => Some(UNAVAILABLE),
        ClientError::Refused { status, .. } => Some(match status.as_u16() {
            401 | 403 => NOT_PERMITTED,
            503 => UNAVAILABLE,
            _ => FAILED,
        }),
        ClientError::Key => Some(USAGE),
        ClientError::Broken(_) | ClientError::UnexpectedResponse { .. } => Some(FAILED),
    }
}

fn of_disk(error: &DiskError) -> Option<u8> {
    match error {
        DiskError::Sqlite(error) => of_sqlite_open(error),
        DiskError::Io { source, .. } => of_io(source.kind()).or(Some(FAILED)),
    }
}

fn of_sqlite_open(error: &SqliteError) -> Option<u8> {
    match error {
        SqliteError::Newer { .. } | SqliteError::NotOurs(_) => Some(USAGE),
        SqliteError::Open { source, .. } => of_sqlite(source),
    }
}

fn of_sqlite(error: &rusqlite::Error) -> Option<u8> {
    use rusqlite::ErrorCode::{CannotOpen, PermissionDenied, ReadOnly};
    let code = error.sqlite_error_code();
    matches!(code, Some(CannotOpen | PermissionDenied | ReadOnly)).then_some(NOT_PERMITTED)
}

fn of_store(error: &StoreError) -> Option<u8> {
    match error {
        StoreError::WrongKey { .. }
        | StoreError::NewerInRedis { .. }
        | StoreError::NewerInKafka { .. }
        | StoreError::Partitions { .. }
        | StoreError::WrongSharedKey { .. } => Some(USAGE),
        // The source comes next in the chain.
        StoreError::Kafka { .. } => None,
        StoreError::Redis { .. } | StoreError::NoTopic(_) => Some(UNAVAILABLE),
        StoreError::Sqlite(error) => of_sqlite_open(error),
        _ => Some(FAILED),
    }
}

fn of_io(kind: ErrorKind) -> Option<u8> {
    match kind {
        ErrorKind::NotFound => Some(MISSING_INPUT),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Some(NOT_PERMITTED),
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
    fn a_source_that_repeats_its_error_is_left_out() {
        let refused = anyhow::anyhow!("connection refused");
        let repeated = refused.context("call 127.0.0.1: connection refused").context("open the queue");
        assert_eq!(describe(&repeated), "open the queue: call 127.0.0.1: connection refused");
        assert_eq!(describe(&anyhow::anyhow!("b").context("a")), "a: b");
    }

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
        let refused = |status| ClientError::Refused { status, detail: "no".into() };
        assert_eq!(code_of(&refused(http::StatusCode::FORBIDDEN).into()), NOT_PERMITTED);
        assert_eq!(code_of(&refused(http::StatusCode::NOT_FOUND).into()), FAILED);
        assert_eq!(code_of(&refused(http::StatusCode::SERVICE_UNAVAILABLE).into()), UNAVAILABLE);
        assert_eq!(code_of(&DataDirError::InUse("data".into()).into()), UNAVAILABLE);
        let denied =
            |kind: ErrorKind| DataDirError::Io { doing: "write", path: "data".into(), source: kind.into() };
        assert_eq!(code_of(&denied(ErrorKind::ReadOnlyFilesystem).into()), NOT_PERMITTED);
        assert_eq!(code_of(&OpenError::DataDir(denied(ErrorKind::PermissionDenied)).into()), NOT_PERMITTED);
        assert_eq!(code_of(&OpenError::Store(SqliteError::NotOurs("db".into()).into()).into()), USAGE);
        let damaged = KeyError::File { path: "key.pem".into(), source: KeyError::Malformed.into() };
        assert_eq!(code_of(&damaged.into()), USAGE);
        assert_eq!(code_of(&NotBuiltIn.into()), USAGE);
        let not_built_in = StoreError::Kafka { doing: "open the registry", source: NotBuiltIn.into() };
        assert_eq!(code_of(&OpenError::Store(not_built_in).into()), USAGE);
    }
}
