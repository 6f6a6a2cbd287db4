//! Files that hold keys and secrets: written whole, and readable by their owner alone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Readable by their owner alone.
pub const SECRET_MODE: u32 = 0o600;

/// Writes a file that mustn't exist yet.
///
/// # Errors
/// It exists, or can't be written.
pub fn write_new(path: &Path, mode: u32, text: &str) -> io::Result<()> {
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Writes a file, replacing an old one in one step.
///
/// # Errors
/// It can't be written.
pub fn write_over(path: &Path, mode: u32, text: &str) -> io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    let partial = PathBuf::from(partial);
    write_new(&partial, mode, text)
        .and_then(|()| fs::rename(&partial, path))
        .inspect_err(|_| drop(fs::remove_file(&partial)))
}
