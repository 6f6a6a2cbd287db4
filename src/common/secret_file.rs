//! Files for keys and secrets. They are written whole, and only their owner can read them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// File mode of secrets: readable and writable by the owner only.
pub const SECRET_MODE: u32 = 0o600;

/// Writes `text` to a new file, and syncs it to the disk.
///
/// # Errors
/// The file exists already, or can't be written.
pub fn write_new(path: &Path, mode: u32, text: &str) -> io::Result<()> {
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Writes `text` to a file. An existing file is replaced in one step, by a rename.
///
/// # Errors
/// The file can't be written.
pub fn write_over(path: &Path, mode: u32, text: &str) -> io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    let partial = PathBuf::from(partial);
    write_new(&partial, mode, text)
        .and_then(|()| fs::rename(&partial, path))
        .inspect_err(|_| drop(fs::remove_file(&partial)))
}
