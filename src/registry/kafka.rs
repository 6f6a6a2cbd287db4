//! The registry in Kafka, shared by all servers with the same `--kafka-registry-topic`.
//!
//! ```text
//! topic    one partition, compacted: the latest record of each key stays
//! key      as in record.rs, or `meta`
//! value    JSON as in record.rs; none for a deletion. Of `meta`: {"v":1,"id":"…","check":"…"}, the format, the id of
//!          the registry, and a known text sealed with the secret key, which reveals a wrong key at once
//! header   whk-change: {"v":1,"id":"…","n":2,"of":3}: the second of the three records of that change
//! ```
//!
//! A change is one transaction. All servers write with the same `transactional.id`, and Kafka lets only the server that
//! initialized it last write: the others are fenced. A server that isn't fenced knows that no other has changed anything
//! since it took over and read the log to its end (see `shared_log.rs`). A fenced server takes over again, reads, and
//! decides again.
//!
//! Each server reads the log from start to end, and then follows it. The records of a change become visible together. A
//! damaged record is logged and skipped.

mod append;
mod follow;
mod format;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::atomic::AtomicI64;
use std::sync::{Arc, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::{Mutex, watch};
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use uuid::Uuid;

use self::append::{back_off, blocking, writing};
pub(super) use self::follow::Follower;
use self::follow::{FollowedLog, Progress, state_of};
use self::format::{META, Meta, VERSION};
use self::reader::{LoadedLog, load};
use self::writer::{WriteError, Writer};
use super::error::{OpenError, StoreError};
use super::limits::Limits;
use super::replica::{Replica, ServerId};
use super::sealed;
use crate::common::crypto::vault::Vault;
use crate::common::data_dir::DataDirError;
use crate::common::kafka::{KafkaConfig, KafkaContext};

/// Name of the backend in error messages.
const PLACE: &str = "Kafka";
/// Attempts to write a change before it is given up.
const MAX_ATTEMPTS: u32 = 40;

/// The registry in Kafka, and this server's copy of it.
pub(super) struct KafkaStore {
    log: Arc<FollowedLog>,
    /// Locked by the one change that is being made. `None` if another server may have fenced the writer.
    writer: Arc<Mutex<Option<Writer>>>,
    /// Last failure to take over, reported to other waiting changes for a moment.
    failed_takeover: std::sync::Mutex<Option<(Instant, Arc<StoreError>)>>,
    /// Offset up to which this server has read everything.
    read_up_to: AtomicI64,
}

impl KafkaStore {
    /// Opens the registry, and creates it if it doesn't exist. `vault` gets whether it may create a secret key.
    pub(super) async fn open(
        config: &KafkaConfig,
        limits: Limits,
        vault: impl FnOnce(bool) -> Result<Vault, DataDirError>,
    ) -> Result<Arc<Self>, OpenError> {
        let server = ServerId::random();
        let mut loaded = read_all(config, &server).await?;
        let is_new = loaded.meta.is_none();
        let vault = vault(is_new).map_err(|source| match is_new {
            true => OpenError::DataDir(source),
            false => OpenError::SharedKey { place: PLACE, source },
        })?;
        if is_new {
            let check = STANDARD.encode(sealed::check_value(&vault).map_err(StoreError::Seal)?);
            loaded = create(config, &server, check).await?;
        }
        let LoadedLog { reader, meta, records, at } = loaded;
        let Meta { id, check, .. } = meta.ok_or(StoreError::Contended)?;
        // Another server may have created the registry since the first look, so the key is checked in any case.
        sealed::check(&vault, &STANDARD.decode(check).unwrap_or_default())
            .map_err(|source| StoreError::WrongSharedKey { place: PLACE, source })?;
        let replica = Replica::new(server, vault, limits);
        // Unsealing the secrets of thousands of endpoints takes a while, so it runs on a blocking thread.
        let parsing = spawn_blocking(move || {
            replica.replace(state_of(records, &replica.vault, limits), at, PLACE);
            replica
        });
        let replica = parsing.await.map_err(|_| StoreError::Contended)?;
        let log = FollowedLog {
            config: config.clone(),
            id,
            replica,
            reader: RwLock::new(Arc::new(reader)),
            progress: watch::Sender::new(Progress::default()),
        };
        Ok(Arc::new(Self {
            log: Arc::new(log),
            writer: Arc::default(),
            failed_takeover: std::sync::Mutex::default(),
            read_up_to: AtomicI64::default(),
        }))
    }

    /// Starts the thread that follows the log.
    pub(super) fn follow_in_background(&self) -> Result<Follower, StoreError> {
        Follower::start(&self.log)
    }
}

async fn read_all(config: &KafkaConfig, server: &ServerId) -> Result<LoadedLog, StoreError> {
    let (config, server) = (config.clone(), server.clone());
    let loaded = blocking(move || load(&config, &server)).await?;
    if loaded.meta.is_none() && !loaded.records.is_empty() {
        let reason = "it is missing, though other records are there".into();
        return Err(StoreError::Damaged { record: META.into(), reason });
    }
    Ok(loaded)
}

/// Writes the meta record, unless another server does so first.
async fn create(config: &KafkaConfig, server: &ServerId, check: String) -> Result<LoadedLog, StoreError> {
    let meta = Meta { v: VERSION, id: Uuid::new_v4().simple().to_string(), check };
    let write = (META.to_owned(), Some(serde_json::to_string(&meta).unwrap_or_default()));
    let mut is_written = false;
    for attempt in 0..MAX_ATTEMPTS {
        if attempt > 0 {
            back_off(attempt).await;
        }
        let writer = match is_written {
            true => None,
            false => Some(Writer::take_over(config, KafkaContext::default()).await.map_err(writing)?),
        };
        let loaded = read_all(config, server).await?;
        if loaded.meta.is_some() {
            return Ok(loaded);
        }
        if let Some(writer) = writer {
            let (_, written) = writer.write(&server.mark(0), std::slice::from_ref(&write), 0).await;
            match written {
                Ok(()) => is_written = true,
                Err(WriteError::Refused(error)) => return Err(writing(error)),
                Err(_) => {}
            }
        }
    }
    Err(StoreError::Contended)
}
