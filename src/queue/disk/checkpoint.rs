//! Checkpoints: a thread of its own copies the write-ahead log into the database file, so that no commit waits for it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use rusqlite::Connection;

use super::schema::{self, DiskError};

/// A log of more pages than this (32 MiB) is restarted as soon as all but the last [`REMAINING_PAGES`] are copied.
const LONG_LOG_PAGES: i64 = 8_192;

/// Pages (2 MiB) that may be left to copy when the log is restarted. The writer waits for them.
const REMAINING_PAGES: i64 = 512;

/// Handle of the checkpoint thread, which ends when the handle is dropped.
pub(super) struct CheckpointThread {
    wake: SyncSender<()>,
    is_log_long: Arc<AtomicBool>,
}

impl CheckpointThread {
    /// Starts the thread for the database at `path`.
    ///
    /// # Errors
    /// The database can't be opened, or the thread can't be started.
    pub(super) fn start(path: &Path) -> Result<Self, DiskError> {
        let connection = schema::connect(path)?;
        // One notification may wait, which covers all that was written before the checkpoint begins.
        let (wake, woken) = sync_channel(1);
        let is_log_long = Arc::new(AtomicBool::new(false));
        let found_long = Arc::clone(&is_log_long);
        let run = move || {
            while woken.recv().is_ok() {
                match checkpoint(&connection) {
                    Ok((pages, copied)) => {
                        let is_almost_copied = pages.saturating_sub(copied) <= REMAINING_PAGES;
                        found_long.store(pages > LONG_LOG_PAGES && is_almost_copied, Ordering::Relaxed);
                    }
                    Err(error) => tracing::warn!(%error, "checkpoint the queue's database"),
                }
            }
        };
        let started = std::thread::Builder::new().name("queue-checkpoint".to_owned()).spawn(run);
        started.map_err(|source| DiskError::Io { path: path.to_owned(), source })?;
        Ok(Self { wake, is_log_long })
    }

    /// Asks the thread to run a checkpoint soon.
    pub(super) fn notify(&self) {
        match self.wake.try_send(()) {
            Ok(()) | Err(TrySendError::Full(())) => {}
            Err(TrySendError::Disconnected(())) => {
                tracing::warn!("the checkpoint thread of the queue has ended");
            }
        }
    }

    /// Returns whether the log has become so long that it should be restarted, and resets that.
    pub(super) fn take_is_log_long(&self) -> bool {
        self.is_log_long.swap(false, Ordering::Relaxed)
    }
}

/// Copies the part of the log into the file that needs no connection to wait. Returns the number of pages in the log,
/// and how many of them are copied.
fn checkpoint(connection: &Connection) -> rusqlite::Result<(i64, i64)> {
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok((row.get(1)?, row.get(2)?)))
}
