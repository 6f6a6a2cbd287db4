//! Space that the database gives back: the restart of its write-ahead log, and free pages.

use std::time::Duration;

use super::Store;
use crate::queue::disk::schema::BUSY_TIMEOUT;

/// Maximum time that a restart of the log waits for readers. Commits wait with it.
const RESTART_TIMEOUT: Duration = Duration::from_millis(200);

impl Store {
    /// Copies the write-ahead log into the file and restarts it, so that the log does not grow.
    pub(in crate::queue::disk) fn restart_log(&self) -> rusqlite::Result<()> {
        // If a reader takes longer, the log is restarted later, when it has grown further.
        self.connection.busy_timeout(RESTART_TIMEOUT)?;
        let restarted = self.connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()));
        self.connection.busy_timeout(BUSY_TIMEOUT)?;
        restarted
    }

    /// Returns the number of unused pages in the file.
    pub(in crate::queue::disk) fn free_pages(&self) -> rusqlite::Result<u64> {
        self.connection.pragma_query_value(None, "freelist_count", |row| row.get(0))
    }

    /// Returns up to `pages` unused pages to the file system.
    pub(in crate::queue::disk) fn vacuum(&self, pages: u32) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
        let mut steps = statement.query([])?;
        // Each step frees one page.
        while steps.next()?.is_some() {}
        Ok(())
    }

    #[cfg(test)]
    pub(in crate::queue::disk) fn limit_pages(&self, pages: u32) {
        let limited = self.connection.pragma_update(None, "max_page_count", pages);
        assert!(limited.is_ok(), "{limited:?}");
    }
}
