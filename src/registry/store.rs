//! Where the registry is written down: a database of this server's own, or Redis or Kafka, which several servers share.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rdkafka::error::KafkaError;

use super::kafka::{Follower as LogFollower, KafkaStore};
use super::redis::{Follower, RedisStore};
use super::sqlite::SqliteStore;
use super::state::{Change, State};
use super::{Registry, RegistryError};
use crate::common::crypto::vault::VaultError;
use crate::common::redis::RedisFailure;
use crate::common::sqlite::SqliteError;

/// Why what the registry is written down in can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database can't be opened.
    #[error(transparent)]
    Sqlite(#[from] SqliteError),
    /// The secret key doesn't fit.
    #[error("the secret key isn't the one that registry {path} was written with; see --secret-key-file")]
    WrongKey {
        /// The file.
        path: PathBuf,
        /// What the vault said.
        source: VaultError,
    },
    /// A row or a record can't be understood.
    #[error("registry: {record} is damaged: {reason}")]
    Damaged {
        /// Which.
        record: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A change can't be written; nothing has changed.
    #[error("write registry")]
    Write(#[source] rusqlite::Error),
    /// A secret can't be sealed.
    #[error("seal a secret")]
    Seal(#[from] VaultError),
    /// Redis can't be reached, or refuses.
    #[error("{doing} in Redis; see --redis-url")]
    Redis {
        /// What was being done.
        doing: &'static str,
        /// What Redis said.
        source: RedisFailure,
    },
    /// A newer whk wrote what is in Redis.
    #[error(
        "the registry in Redis was written by a newer whk (format {found}, this one knows up to {known}); upgrade, or use another --redis-prefix"
    )]
    NewerInRedis {
        /// Its format.
        found: u64,
        /// The newest that is known here.
        known: u64,
    },
    /// The secret key isn't the one that all servers share.
    #[error(
        "the secret key isn't the one that the registry in {place} was written with: copy secret.key from the data dir of a server that uses it, or name it with --secret-key-file"
    )]
    WrongSharedKey {
        /// Where the registry is.
        place: &'static str,
        /// What the vault said.
        source: VaultError,
    },
    /// Kafka can't be reached, or refuses.
    #[error("{doing} in Kafka; see --kafka-brokers")]
    Kafka {
        /// What was being done.
        doing: &'static str,
        /// What librdkafka said.
        source: KafkaError,
    },
    /// Nobody has made the topic.
    #[error("topic {0} isn't in Kafka: whk kafka-setup makes it; see --kafka-registry-topic")]
    NoTopic(String),
    /// The topic was made for something else.
    #[error(
        "topic {topic} has {found} partitions, and the registry needs one with one: see whk kafka-setup and --kafka-registry-topic"
    )]
    Partitions {
        /// Its name.
        topic: String,
        /// How many it has.
        found: usize,
    },
    /// A newer whk wrote what is in Kafka.
    #[error(
        "the registry in Kafka was written by a newer whk (format {found}, this one knows up to {known}); upgrade, or use another --kafka-registry-topic"
    )]
    NewerInKafka {
        /// Its format.
        found: u64,
        /// The newest that is known here.
        known: u64,
    },
    /// The system gives no thread to follow others with.
    #[error("start a thread that follows the registry")]
    Thread(#[source] std::io::Error),
    /// Another registry, or none, is where this one was.
    #[error(
        "the registry that this server opened isn't where it was any more: bring it back, or restart the server to go on with what is there"
    )]
    Gone,
    /// Others changed it again and again meanwhile.
    #[error("other servers change the registry all the time; try again")]
    Contended,
}

/// One of the three.
pub(super) enum Store {
    /// Held by the one change that is being made, also while it is followed in memory.
    Sqlite(Box<Mutex<SqliteStore>>),
    /// With what follows the changes of others, for as long as the registry is used.
    Redis(Arc<RedisStore>, #[expect(dead_code, reason = "it follows until it is dropped")] Follower),
    /// The same.
    Kafka(
        Arc<KafkaStore>,
        #[cfg_attr(not(test), expect(dead_code, reason = "it follows until it is dropped"))] LogFollower,
    ),
}

impl Registry {
    /// Decides on changes by what there is, writes them down and follows them in memory, one caller at a time. Where
    /// another server's change came in between, it is decided again.
    pub(super) async fn change<T: Send + 'static>(
        &self,
        decide: impl FnOnce(&State) -> Result<(Vec<Change>, T), RegistryError> + Clone + Send + 'static,
    ) -> Result<T, RegistryError> {
        let shared = Arc::clone(&self.0);
        let turn = Arc::clone(&shared.turn).acquire_owned().await.map_err(|_| RegistryError::Stopped)?;
        let changed = match &shared.store {
            Store::Sqlite(_) => tokio::task::spawn_blocking(move || {
                let _turn = turn;
                match &shared.store {
                    Store::Sqlite(store) => change_alone(store, &shared.state, decide),
                    Store::Redis(..) | Store::Kafka(..) => Err(RegistryError::Stopped),
                }
            }),
            Store::Redis(store, _) => {
                let store = Arc::clone(store);
                tokio::spawn(async move {
                    let _turn = turn;
                    store.change(decide).await
                })
            }
            Store::Kafka(store, _) => {
                let store = Arc::clone(store);
                tokio::spawn(async move {
                    let _turn = turn;
                    store.change(decide).await
                })
            }
        };
        changed.await.unwrap_or(Err(RegistryError::Stopped))
    }
}

fn change_alone<T>(
    store: &Mutex<SqliteStore>,
    state: &RwLock<State>,
    decide: impl FnOnce(&State) -> Result<(Vec<Change>, T), RegistryError>,
) -> Result<T, RegistryError> {
    let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
    let (changes, result) = decide(&state.read().unwrap_or_else(PoisonError::into_inner))?;
    store.apply(&changes)?;
    let mut state = state.write().unwrap_or_else(PoisonError::into_inner);
    changes.into_iter().for_each(|change| state.apply(change));
    Ok(result)
}
