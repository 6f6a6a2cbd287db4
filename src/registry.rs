//! The registry: tenants, their API keys, public keys and endpoints. [`open`] is the only place that picks a backend.
//!
//! Look-ups are answered from memory (`state`); a change is written down first (`sqlite`; or `redis` or `kafka`,
//! which several servers share) and then followed in memory, before it is answered, so a publish that comes after it sees it.

mod changes;
pub mod endpoint;
pub mod headers;
mod kafka;
mod lookups;
pub mod name;
mod record;
mod redis;
mod refresh;
mod sealed;
mod sqlite;
mod state;
mod store;
mod subscriptions;
pub mod tenant;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{Arc, Mutex, RwLock};

use tokio::sync::Semaphore;

use self::kafka::{Follower as LogFollower, KafkaStore};
#[cfg(test)]
pub(crate) use self::redis::tests as two_servers;
use self::redis::{Follower, RedisStore};
use self::sqlite::SqliteStore;
pub use self::state::Recipient;
use self::state::State;
use self::store::Store;
pub use self::store::StoreError;
use self::tenant::LimitOverrides;
use crate::common::crypto::keys::KeyError;
use crate::common::crypto::vault::Vault;
use crate::common::data_dir::{DataDir, DataDirError};
use crate::common::id::TenantId;
use crate::common::kafka::KafkaConfig;
use crate::common::redis::RedisConfig;

/// What each tenant may use, unless it has limits of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Jobs in the queue at once.
    pub queued_jobs: u32,
    /// Events published to it by name, or by itself, a second.
    pub publishes_per_second: u32,
    /// Endpoints.
    pub endpoints: u32,
}

impl Limits {
    fn with(self, overrides: LimitOverrides) -> Self {
        let or = |own: Option<std::num::NonZeroU32>, default| own.map_or(default, std::num::NonZeroU32::get);
        Self {
            queued_jobs: or(overrides.queued_jobs, self.queued_jobs),
            publishes_per_second: or(overrides.publishes_per_second, self.publishes_per_second),
            endpoints: or(overrides.endpoints, self.endpoints),
        }
    }
}

/// How a tenant is named by those who ask for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TenantRef {
    /// By its id.
    Id(TenantId),
    /// By its name.
    Name(String),
}

impl TenantRef {
    /// Reads an id, or else takes the text for a name.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Name(text.to_owned()), Self::Id)
    }
}

impl From<TenantId> for TenantRef {
    fn from(id: TenantId) -> Self {
        Self::Id(id)
    }
}

/// Who makes a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Principal {
    /// The provider.
    Provider,
    /// One tenant.
    Tenant(TenantId),
}

/// Why the registry can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder or the secret key.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The database, Redis or Kafka.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no secret key here, and the registry was made with one.
    #[error(
        "the registry in {place} is there already, and its servers share one secret key: copy secret.key from the data dir of one of them, or name it with --secret-key-file"
    )]
    SharedKey {
        /// Where the registry is.
        place: &'static str,
        /// Why there is no key here.
        source: DataDirError,
    },
    /// It is one server's own.
    #[error("a registry that several processes share is needed: in Kafka or in Redis")]
    NotShared,
}

/// Where a registry is.
#[derive(Debug, Clone)]
pub enum RegistryPlace {
    /// In the data dir, for this server alone.
    DataDir,
    /// In Redis, for all servers that share it.
    Redis(RedisConfig),
    /// In Kafka, for all servers that share it.
    Kafka(KafkaConfig),
}

/// Why the registry didn't do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It isn't there, or isn't the asker's.
    #[error("no such {0}")]
    NoSuch(&'static str),
    /// Another change came first.
    #[error("it was changed since it was read: read it again, and change that")]
    Changed,
    /// It can't be done in the state that things are in.
    #[error("{0}")]
    Conflict(&'static str),
    /// A limit is reached.
    #[error("the limit is reached: {most} {what}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How many.
        most: u64,
    },
    /// It couldn't be written down; nothing has changed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It was being written down when the connection broke, and whether it was can't be found out now.
    #[error("it isn't known whether the change was made")]
    Unsure(#[source] StoreError),
    /// What other servers changed can't be found out now.
    #[error("what other servers changed isn't known")]
    Behind(#[source] Arc<StoreError>),
    /// The system's random generator failed.
    #[error("read the system's random generator")]
    Random(#[from] rand::rngs::SysError),
    /// A public key can't be written as PEM.
    #[error("public key")]
    Key(#[from] KeyError),
    /// The process is ending.
    #[error("the registry has stopped")]
    Stopped,
}

/// See the module's page. Cloning it shares it.
#[derive(Clone)]
pub struct Registry(Arc<Shared>);

struct Shared {
    /// One change at a time, the others waiting here: each would otherwise hold one of the threads that name look-ups
    /// of deliveries need as well.
    turn: Arc<Semaphore>,
    store: Store,
    state: Arc<RwLock<State>>,
}

/// Opens the registry in `place`, and makes it where there is none. Secrets are sealed with the key in
/// `secret_key_file`, or one in `dir`.
///
/// # Errors
/// The database, Redis, Kafka or the key can't be read, don't belong together, or are of a newer version.
pub async fn open(
    place: &RegistryPlace,
    dir: &DataDir,
    secret_key_file: Option<&Path>,
    limits: Limits,
) -> Result<Registry, OpenError> {
    let vault = |may_make| dir.vault(secret_key_file, may_make);
    match open_elsewhere(place, limits, vault).await? {
        Some(registry) => Ok(registry),
        None => open_in(dir, secret_key_file, limits),
    }
}

/// Opens a registry that servers share, without a data dir: for those who only deliver. Secrets are sealed with the key in
/// `secret_key_file`.
///
/// # Errors
/// The store or the key can't be read, don't belong together, or are of a newer version.
pub async fn open_shared(place: &RegistryPlace, secret_key_file: &Path) -> Result<Registry, OpenError> {
    // Those who publish keep to them.
    let limits = Limits { queued_jobs: u32::MAX, publishes_per_second: u32::MAX, endpoints: u32::MAX };
    let registry = open_elsewhere(place, limits, |_| DataDir::vault_at(secret_key_file)).await?;
    registry.ok_or(OpenError::NotShared)
}

/// Opens the registry unless it is in the data dir.
async fn open_elsewhere(
    place: &RegistryPlace,
    limits: Limits,
    vault: impl FnOnce(bool) -> Result<Vault, DataDirError>,
) -> Result<Option<Registry>, OpenError> {
    Ok(match place {
        RegistryPlace::DataDir => None,
        RegistryPlace::Redis(config) => {
            let store = RedisStore::open(config, limits, vault).await?;
            let (state, follower) = (store.state(), Follower::start(&store, config));
            Some(Registry::new(Store::Redis(store, follower), state))
        }
        RegistryPlace::Kafka(config) => {
            let store = KafkaStore::open(config, limits, vault).await?;
            let (state, follower) = (store.state(), LogFollower::start(store.core())?);
            Some(Registry::new(Store::Kafka(store, follower), state))
        }
    })
}

fn open_in(dir: &DataDir, secret_key_file: Option<&Path>, limits: Limits) -> Result<Registry, OpenError> {
    let store = SqliteStore::open(&dir.registry()?, |may_make| {
        dir.vault(secret_key_file, may_make).map_err(OpenError::DataDir)
    })?;
    let mut state = State::new(limits);
    store.load()?.into_iter().for_each(|change| state.apply(change));
    Ok(Registry::new(Store::Sqlite(Box::new(Mutex::new(store))), Arc::new(RwLock::new(state))))
}

impl Registry {
    fn new(store: Store, state: Arc<RwLock<State>>) -> Self {
        Self(Arc::new(Shared { turn: Arc::new(Semaphore::new(1)), store, state }))
    }
}

/// A page of a list.
pub struct Page<T> {
    /// In the order in which they were made.
    pub items: Vec<T>,
    /// Whether there are more after them.
    pub more: bool,
}
