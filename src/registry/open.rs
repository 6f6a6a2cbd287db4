//! Opening the registry. This is the only place that picks a backend.

use std::path::Path;
use std::sync::{Arc, Mutex, RwLock};

use super::Registry;
use super::error::OpenError;
use super::kafka::KafkaStore;
use super::limits::Limits;
use super::redis::{Follower, RedisStore};
use super::shared_log::SharedLog as _;
use super::sqlite::SqliteStore;
use super::state::State;
use super::store::Store;
use crate::common::crypto::vault::Vault;
use crate::common::data_dir::{DataDir, DataDirError};
use crate::common::kafka::KafkaConfig;
use crate::common::redis::RedisConfig;

/// Backend and address of a registry.
#[derive(Debug, Clone)]
pub enum RegistryPlace {
    /// A database in the data dir, for this server alone.
    DataDir,
    /// Redis, for all servers with the same prefix.
    Redis(RedisConfig),
    /// Kafka, for all servers and consumers with the same registry topic.
    Kafka(KafkaConfig),
}

/// Opens the registry in `place`, and creates it if it doesn't exist. Secrets are sealed with the key in
/// `secret_key_file`, or with the one in `dir`.
///
/// # Errors
/// The store or the key can't be read, they don't belong together, or a newer whk wrote them.
pub async fn open(
    place: &RegistryPlace,
    dir: &DataDir,
    secret_key_file: Option<&Path>,
    limits: Limits,
) -> Result<Registry, OpenError> {
    let vault = |may_create| dir.vault(secret_key_file, may_create);
    match open_elsewhere(place, limits, vault).await? {
        Some(registry) => Ok(registry),
        None => open_in(dir, secret_key_file, limits),
    }
}

/// Opens a registry that servers share, without a data dir, for a process that only delivers. Secrets are sealed with the
/// key in `secret_key_file`.
///
/// # Errors
/// The registry is in a data dir, the store or the key can't be read, they don't belong together, or a newer whk wrote
/// them.
pub async fn open_shared(place: &RegistryPlace, secret_key_file: &Path) -> Result<Registry, OpenError> {
    // Limits hold at the servers that publish.
    let limits = Limits { queued_jobs: u32::MAX, publishes_per_second: u32::MAX, endpoints: u32::MAX };
    let registry = open_elsewhere(place, limits, |_| DataDir::vault_at(secret_key_file)).await?;
    registry.ok_or(OpenError::NotShared)
}

/// Opens a registry that servers share. Returns `None` if it is in the data dir.
async fn open_elsewhere(
    place: &RegistryPlace,
    limits: Limits,
    vault: impl FnOnce(bool) -> Result<Vault, DataDirError>,
) -> Result<Option<Registry>, OpenError> {
    Ok(match place {
        RegistryPlace::DataDir => None,
        RegistryPlace::Redis(config) => {
            let store = RedisStore::open(config, limits, vault).await?;
            let (state, follower) = (store.replica().state(), Follower::start(&store, config));
            Some(Registry::new(Store::Redis(store, follower), state))
        }
        RegistryPlace::Kafka(config) => {
            let store = KafkaStore::open(config, limits, vault).await?;
            let (state, follower) = (store.replica().state(), store.follow_in_background()?);
            Some(Registry::new(Store::Kafka(store, follower), state))
        }
    })
}

/// Opens the registry in the data dir.
pub(super) fn open_in(
    dir: &DataDir,
    secret_key_file: Option<&Path>,
    limits: Limits,
) -> Result<Registry, OpenError> {
    let store = SqliteStore::open(&dir.registry()?, |may_create| {
        dir.vault(secret_key_file, may_create).map_err(OpenError::DataDir)
    })?;
    let mut state = State::new(limits);
    store.load()?.into_iter().for_each(|change| state.apply(change));
    Ok(Registry::new(Store::Sqlite(Box::new(Mutex::new(store))), Arc::new(RwLock::new(state))))
}
