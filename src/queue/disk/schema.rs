//! The database file of the queue, `queue.db` in the data dir.
//!
//! ```text
//! user_version  number of migrations applied
//! lane          one row per lane that has had jobs: its name (the endpoint's id, or the URL in direct mode), its
//!               tenant, and whether it is ordered. Rows without jobs or dead letters are deleted at the next start
//! content       the content of a job: its record (queue/record.rs), its body, and the CRC-32 of both. Written by push;
//!               deleted when the job is delivered or dropped, or its dead letter is purged
//! job           the state of an unsettled job: when it is due and the results of its attempts. Leases are not written,
//!               so a job that was leased when the process ended is due again. `held_until` is the time of the retry in
//!               an ordered lane, where the job keeps its place; `retried` is 1 after the first retry
//! dead          a dead letter: the time and cause of death. It has the same `seq` as its content
//! delivered     the latest delivered messages with their attempts. The oldest are deleted first
//! ```
//!
//! Times are microseconds since 1970; `died_at` is in milliseconds. `attempts` is a JSON array.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::Connection;

use super::rows::micros;
use crate::common::sqlite::{Schema, SqliteError};

/// Schema of the database. Its application id is "whkq".
const SCHEMA: Schema =
    Schema { name: "queue", application_id: 0x7768_6b71, migrations: &[include_str!("v1.sql")] };

/// Maximum time that a connection waits for the other connections of this process.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The queue on disk could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The file can't be opened, read or migrated, or was not written by this or an older whk.
    #[error(transparent)]
    Sqlite(#[from] SqliteError),
    /// A thread can't be started, or the reserve file can't be written.
    #[error("prepare queue {path}")]
    Io {
        /// Path of the database.
        path: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
}

/// Opens the database for writing: creates or migrates it, and cleans up after the last process.
pub(super) fn open(path: &Path, now: Timestamp) -> Result<Connection, DiskError> {
    let prepare = |connection: &Connection, is_new| {
        configure(connection)?;
        if is_new {
            // Set before the first table exists, so that space can be given back once a backlog has drained.
            connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        }
        // A thread of its own runs the checkpoints, so that no commit waits for one.
        connection.pragma_update(None, "wal_autocheckpoint", 0)
    };
    let connection = SCHEMA.open(path, prepare)?;
    match tidy(&connection, now) {
        // Delivering the queued jobs makes room.
        Err(error) if is_full(&error) => tracing::warn!(%error, "clean up the queue"),
        tidied => tidied.map_err(|source| open_error(path, source))?,
    }
    Ok(connection)
}

/// Opens another connection to the database.
pub(super) fn connect(path: &Path) -> Result<Connection, DiskError> {
    let connection = Connection::open(path).and_then(|connection| {
        configure(&connection)?;
        Ok(connection)
    });
    connection.map_err(|source| open_error(path, source))
}

/// Returns the error of a database that SQLite can't open or read.
pub(super) fn open_error(path: &Path, source: rusqlite::Error) -> DiskError {
    DiskError::Sqlite(SCHEMA.open_error(path, source))
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(64);
    // The connections of this process block each other for moments, such as while the log restarts.
    connection.busy_timeout(BUSY_TIMEOUT)
}

/// Deletes the lanes that have no jobs. Makes jobs due now whose due time lies in the future only because the clock
/// was set back.
fn tidy(connection: &Connection, now: Timestamp) -> rusqlite::Result<()> {
    let unused = "DELETE FROM lane WHERE id NOT IN (SELECT lane FROM job UNION SELECT lane FROM dead)";
    connection.execute(unused, [])?;
    let ahead = "UPDATE job SET due_at = ?1 WHERE lane IN (SELECT id FROM lane) AND due_at > ?1
                 AND (retried = 0 OR held_until IS NOT NULL)";
    connection.execute(ahead, [micros(now)]).map(drop)
}

/// Returns whether a write failed for lack of space. SQLite reports an exhausted quota as a failed write.
pub(super) fn is_full(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error().map(|error| error.extended_code);
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
        || code == Some(rusqlite::ffi::SQLITE_IOERR_WRITE)
}

/// Returns whether a page or value of the database is damaged.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error};
    matches!(
        error,
        FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..) | Utf8Error(..)
    ) || error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseCorrupt)
}
