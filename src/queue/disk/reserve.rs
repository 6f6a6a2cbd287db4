//! The reserve: a file that is emptied when the disk is full, so that settlements can still be written.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::common::secret_file::SECRET_MODE;

/// Size of the reserve (8 MiB).
const RESERVE_BYTES: u64 = 8 << 20;

/// Pause between two attempts to fill the reserve again.
const RESERVE_PAUSE: Duration = Duration::from_secs(1);

/// The reserve file. New jobs are written only while it is filled.
pub(super) struct Reserve {
    path: PathBuf,
    is_filled: bool,
    tried_at: Instant,
}

impl Reserve {
    /// Writes the reserve file. If the disk has no room for it, the reserve starts empty and no jobs are taken until
    /// there is room.
    pub(super) fn take(path: &Path) -> io::Result<Self> {
        let mut reserve = Self { path: path.to_owned(), is_filled: true, tried_at: Instant::now() };
        match write_reserve(path) {
            Err(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
                reserve.give_up();
            }
            taken => taken?,
        }
        Ok(reserve)
    }

    /// Returns whether the reserve is filled. An empty reserve is filled again, at most once per [`RESERVE_PAUSE`],
    /// when the disk has room.
    pub(super) fn is_filled(&mut self) -> bool {
        if !self.is_filled && self.tried_at.elapsed() >= RESERVE_PAUSE {
            self.tried_at = Instant::now();
            match write_reserve(&self.path) {
                Ok(()) => {
                    tracing::info!("the disk has room again; events are accepted");
                    self.is_filled = true;
                }
                Err(error) => {
                    tracing::debug!(%error, "the disk is still full");
                    self.empty();
                }
            }
        }
        self.is_filled
    }

    /// Frees the reserve's space.
    pub(super) fn give_up(&mut self) {
        if std::mem::replace(&mut self.is_filled, false) {
            tracing::error!(
                path = %self.path.display(),
                "the disk is full: events are refused until there is room"
            );
            self.tried_at = Instant::now();
            self.empty();
        }
    }

    fn empty(&self) {
        if let Err(error) = File::create(&self.path) {
            tracing::warn!(%error, "empty the reserve");
        }
    }
}

/// Fills the file with zeros. They are written out because a hole would occupy no space.
fn write_reserve(path: &Path) -> io::Result<()> {
    if path.metadata().is_ok_and(|found| found.len() == RESERVE_BYTES) {
        return Ok(());
    }
    let mut options = File::options();
    let mut file = options.create(true).truncate(true).write(true).mode(SECRET_MODE).open(path)?;
    io::copy(&mut io::repeat(0).take(RESERVE_BYTES), &mut file)?;
    file.sync_all()
}
