//! Errors of the registry: opening it, changing it, and reaching what it is stored in.

use std::path::PathBuf;
use std::sync::Arc;

use crate::common::crypto::keys::KeyError;
use crate::common::crypto::vault::VaultError;
use crate::common::data_dir::DataDirError;
use crate::common::redis::RedisFailure;
use crate::common::sqlite::SqliteError;

/// The registry can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data dir or the secret key can't be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The database, Redis or Kafka can't be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The registry exists, and this server has no secret key to open it with.
    #[error(
        "the registry in {place} exists already, and its servers share one secret key: copy secret.key from the data dir of one of them, or name it with --secret-key-file"
    )]
    SharedKey {
        /// Name of the backend.
        place: &'static str,
        /// The error from looking for the key.
        source: DataDirError,
    },
    /// The registry is in the data dir of one server, and several processes need it.
    #[error("several processes need this registry: keep it in Kafka or in Redis")]
    NotShared,
}

/// The registry refused a change, or couldn't make it.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The object doesn't exist, or isn't the caller's.
    #[error("no such {0}")]
    NoSuch(&'static str),
    /// The object isn't of the version that the caller expected.
    #[error("it was changed since it was read: read it again, and repeat the change on the new version")]
    Changed,
    /// The change isn't possible in the current state.
    #[error("{0}")]
    Conflict(&'static str),
    /// A limit is reached.
    #[error("the limit is reached: {max} {what}")]
    Limit {
        /// Name of the limited items.
        what: &'static str,
        /// The limit.
        max: u64,
    },
    /// The change couldn't be written. Nothing has changed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The connection broke while the change was being written, and the server can't find out whether it was written.
    #[error("it isn't known whether the change was made")]
    Unsure(#[source] StoreError),
    /// The changes of other servers can't be read from the store.
    #[error("the changes of other servers can't be read")]
    Behind(#[source] Arc<StoreError>),
    /// The system's random generator failed.
    #[error("read the system's random generator")]
    Random(#[from] rand::rngs::SysError),
    /// A public key can't be written as PEM.
    #[error("public key")]
    Key(#[from] KeyError),
    /// The process is shutting down.
    #[error("the registry has stopped")]
    Stopped,
}

/// The store of the registry can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database can't be opened.
    #[error(transparent)]
    Sqlite(#[from] SqliteError),
    /// The secret key isn't the one that the database was written with.
    #[error("the secret key isn't the one that registry {path} was written with; see --secret-key-file")]
    WrongKey {
        /// Path of the database.
        path: PathBuf,
        /// The error from opening the check value.
        source: VaultError,
    },
    /// A row or a record can't be parsed.
    #[error("registry: {record} is damaged: {reason}")]
    Damaged {
        /// Name of the row or key of the record.
        record: String,
        /// The reason, without any of the content.
        reason: String,
    },
    /// A change can't be written to the database. Nothing has changed.
    #[error("write registry")]
    Write(#[source] rusqlite::Error),
    /// A secret can't be sealed.
    #[error("seal a secret")]
    Seal(#[from] VaultError),
    /// Redis can't be reached, or refused the command.
    #[error("{doing} in Redis; see --redis-url")]
    Redis {
        /// The step that failed.
        doing: &'static str,
        /// The error that the client reported.
        source: RedisFailure,
    },
    /// The registry in Redis was written by a newer whk.
    #[error(
        "the registry in Redis was written by a newer whk (format {found}, this one knows up to {known}); upgrade, or use another --redis-prefix"
    )]
    NewerInRedis {
        /// Format of the registry.
        found: u64,
        /// Newest format that this build reads.
        known: u64,
    },
    /// The secret key isn't the one that all servers share.
    #[error(
        "the secret key isn't the one that the registry in {place} was written with: copy secret.key from the data dir of a server that uses it, or name it with --secret-key-file"
    )]
    WrongSharedKey {
        /// Name of the backend.
        place: &'static str,
        /// The error from opening the check value.
        source: VaultError,
    },
    /// Kafka can't be reached, or refused the request.
    #[error("{doing} in Kafka; see --kafka-brokers")]
    Kafka {
        /// The step that failed.
        doing: &'static str,
        /// The error that the client reported.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The topic of the registry doesn't exist.
    #[error("topic {0} isn't in Kafka: whk kafka-setup creates it; see --kafka-registry-topic")]
    NoTopic(String),
    /// The topic has more than one partition, so it was created for something else.
    #[error(
        "topic {topic} has {found} partitions, and the registry needs exactly one: see whk kafka-setup and --kafka-registry-topic"
    )]
    Partitions {
        /// Name of the topic.
        topic: String,
        /// Number of its partitions.
        found: usize,
    },
    /// The registry in Kafka was written by a newer whk.
    #[error(
        "the registry in Kafka was written by a newer whk (format {found}, this one knows up to {known}); upgrade, or use another --kafka-registry-topic"
    )]
    NewerInKafka {
        /// Format of the registry.
        found: u64,
        /// Newest format that this build reads.
        known: u64,
    },
    /// The operating system can't start the thread that follows the log.
    #[error("start a thread that follows the registry")]
    Thread(#[source] std::io::Error),
    /// The registry was deleted or replaced by another one.
    #[error(
        "the registry that this server opened was deleted or replaced: restore it, or restart the server to use the one that is there now"
    )]
    Gone,
    /// Other servers made changes faster than this one could follow.
    #[error("other servers change the registry too fast to follow; try again")]
    Contended,
}
