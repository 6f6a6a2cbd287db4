//! The data dir: the folder for everything that outlives the process.
//!
//! ```text
//! lock              locked by the process that uses the folder
//! consumer-N/       the folder of one `whk consume-kafka`, with a lock of its own
//! registry.db       tenants, keys, endpoints (SQLite; registry/sqlite.rs), unless Redis or Kafka keeps them
//! queue.db          jobs, dead letters, attempts (SQLite; queue/disk), with --queue disk
//! queue.reserve     reserved space, freed when the disk is full
//! secret.key        key that encrypts the secrets of the registry, unless --secret-key-file names another
//! provider_key.txt  the provider's first API key, written at the first start; one of the servers of a shared registry has it
//! ```

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::common::crypto::api_key::{ApiKey, KeyHash};
use crate::common::crypto::vault::{Vault, VaultError, VaultKeyError};
use crate::common::secret_file::{SECRET_MODE, write_new, write_over};

/// Mode of the folder: only its owner may use it.
const DIR_MODE: u32 = 0o700;

/// Maximum number of consumers that share one data dir.
const MAX_CONSUMERS: u32 = 1_000;

/// Failure to use the data dir.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The folder or a file in it can't be created, read or written.
    #[error("{doing} {path}; pass another folder with --data-dir")]
    Io {
        /// Failed action.
        doing: &'static str,
        /// Path of the folder or file.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// Another process uses the folder.
    #[error("{0} is in use by another whk; stop it, or give this one another --data-dir")]
    InUse(PathBuf),
    /// The secret key can't be read.
    #[error("read secret key {path}; pass --secret-key-file if the key is in another file")]
    ReadKey {
        /// Path of the key.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The secret key is malformed.
    #[error("secret key {path}")]
    Key {
        /// Path of the key.
        path: PathBuf,
        /// Description of a well-formed key.
        source: VaultKeyError,
    },
    /// A new secret key couldn't be generated.
    #[error("generate a secret key")]
    MakeKey(#[from] VaultError),
}

/// A data dir, locked until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Returns the path of the provider's API key in the folder `path`.
    #[must_use]
    pub fn provider_key_in(path: &Path) -> PathBuf {
        path.join("provider_key.txt")
    }

    /// Locks the folder, and creates it if it is missing.
    ///
    /// # Errors
    /// The folder can't be created or written, or another process uses it.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let failed = |doing| move |source| DataDirError::Io { doing, path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(DIR_MODE).create(path).map_err(failed("create folder"))?;
        let mode = path.metadata().map_err(failed("read the mode of folder"))?.permissions().mode();
        if mode & 0o077 != 0 {
            tracing::warn!(folder = %path.display(), "other users can read the data dir; `chmod 700` it");
        }
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(SECRET_MODE);
        let lock = options.open(path.join("lock")).map_err(failed("write to folder"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(DataDirError::InUse(path.to_owned())),
            Err(TryLockError::Error(source)) => Err(failed("lock folder")(source)),
        }
    }

    /// Opens the first free consumer's folder in `path`: `consumer-1`, `consumer-2` and so on.
    ///
    /// Each consumer that shares `path` gets a folder of its own. A consumer that restarts takes the first folder that no
    /// running consumer uses.
    ///
    /// # Errors
    /// The folder can't be created or written, or 1,000 consumers share `path` already.
    pub fn open_for_consumer(path: &Path) -> Result<Self, DataDirError> {
        for number in 1..=MAX_CONSUMERS {
            match Self::open(&path.join(format!("consumer-{number}"))) {
                Err(DataDirError::InUse(_)) => {}
                opened => return opened,
            }
        }
        Err(DataDirError::InUse(path.to_owned()))
    }

    /// Returns the path of the secret key in the folder `path`.
    #[must_use]
    pub fn secret_key_in(path: &Path) -> PathBuf {
        path.join("secret.key")
    }

    /// Returns the path of the registry's database, and creates an empty file if it is missing.
    ///
    /// # Errors
    /// The file can't be created.
    pub fn registry(&self) -> Result<PathBuf, DataDirError> {
        self.database("registry.db")
    }

    /// Returns the path of the queue's database, and creates an empty file if it is missing.
    ///
    /// # Errors
    /// The file can't be created.
    pub fn queue(&self) -> Result<PathBuf, DataDirError> {
        self.database("queue.db")
    }

    /// Creates the file of a database that only its owner can read. SQLite gives its write-ahead log the same mode.
    fn database(&self, name: &str) -> Result<PathBuf, DataDirError> {
        let path = self.path.join(name);
        let mut options = OpenOptions::new();
        let created = options.create(true).truncate(false).write(true).mode(SECRET_MODE).open(&path);
        created.map_err(|source| DataDirError::Io { doing: "write", path: path.clone(), source })?;
        Ok(path)
    }

    /// Opens the vault whose key is in the file `named`, or in the folder if that is `None`.
    ///
    /// A missing key in the folder is generated if `may_generate` is true.
    ///
    /// # Errors
    /// The key can't be read, is malformed, or is missing.
    pub fn vault(&self, named: Option<&Path>, may_generate: bool) -> Result<Vault, DataDirError> {
        let own = Self::secret_key_in(&self.path);
        let path = named.unwrap_or(&own);
        let text = match std::fs::read_to_string(path).map(Zeroizing::new) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && named.is_none() && may_generate => {
                let key = Vault::generate_key()?;
                let write = write_new(path, SECRET_MODE, &key);
                write.map_err(|source| DataDirError::Io { doing: "write", path: path.to_owned(), source })?;
                key
            }
            read => read.map_err(|source| DataDirError::ReadKey { path: path.to_owned(), source })?,
        };
        Vault::parse(&text).map_err(|source| DataDirError::Key { path: path.to_owned(), source })
    }

    /// Opens the vault whose key is in the file `path`. The file may be in a folder that another process uses.
    ///
    /// # Errors
    /// The key can't be read or is malformed.
    pub fn vault_at(path: &Path) -> Result<Vault, DataDirError> {
        let text = std::fs::read_to_string(path).map(Zeroizing::new);
        let text = text.map_err(|source| DataDirError::ReadKey { path: path.to_owned(), source })?;
        Vault::parse(&text).map_err(|source| DataDirError::Key { path: path.to_owned(), source })
    }

    /// Returns the hash of the provider's API key in the folder. `None` if there is no such file.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn provider_key(&self) -> Result<Option<KeyHash>, DataDirError> {
        let path = Self::provider_key_in(&self.path);
        match std::fs::read_to_string(&path).map(Zeroizing::new) {
            Ok(key) => Ok(Some(KeyHash::of(key.trim()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(DataDirError::Io { doing: "read", path, source }),
        }
    }

    /// Writes the provider's API key to a file that only its owner can read. Returns the path.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn write_provider_key(&self, key: &ApiKey) -> Result<PathBuf, DataDirError> {
        let path = Self::provider_key_in(&self.path);
        let written = write_over(&path, SECRET_MODE, key.reveal());
        written.map_err(|source| DataDirError::Io { doing: "write", path: path.clone(), source })?;
        Ok(path)
    }

    /// Removes the file with the provider's API key, because that key was never registered.
    ///
    /// # Errors
    /// The file can't be removed.
    pub fn forget_provider_key(&self) -> Result<(), DataDirError> {
        let path = Self::provider_key_in(&self.path);
        std::fs::remove_file(&path).map_err(|source| DataDirError::Io { doing: "remove", path, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consumers_and_a_server_share_a_data_dir() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let server = DataDir::open(&path).unwrap();
        let first = DataDir::open_for_consumer(&path).unwrap();
        let second = DataDir::open_for_consumer(&path).unwrap();
        assert_eq!((&first.path, &second.path), (&path.join("consumer-1"), &path.join("consumer-2")));
        assert_eq!(first.path.metadata().unwrap().permissions().mode() & 0o777, DIR_MODE);
        drop(first);
        let third = DataDir::open_for_consumer(&path).unwrap();
        assert_eq!(third.path, path.join("consumer-1"), "a free folder is taken again");
        assert!(matches!(DataDir::open(&path), Err(DataDirError::InUse(_))));
        drop(server);
    }
}
