//! The database file of the queue, `queue.db` in the data dir.
//!
//! ```text
//! user_version  number of MIGRATIONS applied
//! lane          one row per lane that has had jobs: its name (the endpoint's id, or the URL in direct mode), its tenant,
//!               and whether it is ordered. Rows without jobs or dead letters are deleted at the next start
//! content       what a job is: its record (queue/record.rs), its body, and the CRC-32 of both. Written by push; deleted
//!               when the job is delivered or dropped, or its dead letter is purged
//! job           the state of an unsettled job: when it is due and the results of its attempts. Leases are not written, so
//!               a job that was leased when the process ended is due again. `held_until` is the time of the retry in an
//!               ordered lane, where the job keeps its place; `retried` is 1 after the first retry
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

/// Migrations from each schema version to the next. A released migration never changes.
const MIGRATIONS: [&str; 1] = [include_str!("v1.sql")];

/// SQLite application id of whk's queue: "whkq".
const APPLICATION_ID: i64 = 0x7768_6b71;

/// How long a connection waits for the other connections of this process.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The queue on disk could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The file can't be opened, read or migrated.
    #[error("open queue {path}")]
    Open {
        /// Path of the file.
        path: PathBuf,
        /// Error of SQLite.
        source: rusqlite::Error,
    },
    /// A newer whk wrote the file.
    #[error(
        "queue {path} was written by a newer whk (schema {found}, this one knows up to {known}); upgrade, or use another --data-dir"
    )]
    Newer {
        /// Path of the file.
        path: PathBuf,
        /// Schema version of the file.
        found: usize,
        /// Newest schema version that this whk knows.
        known: usize,
    },
    /// The file is a database of another program.
    #[error("{0} is a database of another program; use another --data-dir")]
    NotOurs(PathBuf),
    /// A thread can't be started, or the reserve file can't be written.
    #[error("prepare queue {path}")]
    Io {
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
}

/// Opens the database for writing: creates or migrates it, and cleans up after the last process.
pub(super) fn open(path: &Path, now: Timestamp) -> Result<Connection, DiskError> {
    let failed = |source| DiskError::Open { path: path.to_owned(), source };
    let mut connection = connect(path)?;
    let version = version_of(&connection, path)?;
    if version == 0 {
        // Set before the first table exists, so that space can be given back once a backlog has drained.
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL").map_err(failed)?;
    }
    connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    // A thread of its own runs the checkpoints, so that no commit waits for one.
    connection.pragma_update(None, "wal_autocheckpoint", 0).map_err(failed)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    migrate(&mut connection, version).map_err(failed)?;
    match tidy(&connection, now) {
        // Delivering the queued jobs makes room.
        Err(error) if is_full(&error) => tracing::warn!(%error, "clean up the queue"),
        tidied => tidied.map_err(failed)?,
    }
    Ok(connection)
}

/// Opens another connection to the database.
pub(super) fn connect(path: &Path) -> Result<Connection, DiskError> {
    let connect = || -> rusqlite::Result<Connection> {
        let connection = Connection::open(path)?;
        connection.set_prepared_statement_cache_capacity(64);
        // The connections of this process block each other for moments, such as while the log restarts.
        connection.busy_timeout(BUSY_TIMEOUT)?;
        Ok(connection)
    };
    connect().map_err(|source| DiskError::Open { path: path.to_owned(), source })
}

/// Returns the schema version without changing the file, because it may be another program's database.
fn version_of(connection: &Connection, path: &Path) -> Result<usize, DiskError> {
    let failed = |source| DiskError::Open { path: path.to_owned(), source };
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(failed);
    let (version, application) = (pragma("user_version")?, pragma("application_id")?);
    let is_empty = connection
        .query_row("SELECT count(*) = 0 FROM sqlite_schema", [], |row| row.get::<_, bool>(0))
        .map_err(failed)?;
    if application != APPLICATION_ID && !is_empty {
        return Err(DiskError::NotOurs(path.to_owned()));
    }
    let found = usize::try_from(version).unwrap_or(usize::MAX);
    if found > MIGRATIONS.len() {
        return Err(DiskError::Newer { path: path.to_owned(), found, known: MIGRATIONS.len() });
    }
    Ok(found)
}

fn migrate(connection: &mut Connection, version: usize) -> rusqlite::Result<()> {
    if version == MIGRATIONS.len() {
        return Ok(());
    }
    let transaction = connection.transaction()?;
    for migration in MIGRATIONS.iter().skip(version) {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", MIGRATIONS.len())?;
    transaction.commit()
}

/// Deletes the lanes that have no jobs. Makes jobs due now whose due time lies in the future only because the clock was set
/// back.
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
