//! The store of the registry: a database of this server's own, or Redis or Kafka, which several servers share.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::error::RegistryError;
use super::kafka::{Follower as KafkaFollower, KafkaStore};
use super::redis::{Follower as RedisFollower, RedisStore};
use super::shared_log::SharedLog as _;
use super::single_flight::Outcome;
use super::sqlite::SqliteStore;
use super::state::{Change, State};
use crate::common::task;

/// The backend in use. A shared one comes with the follower of other servers' changes, which runs as long as the
/// registry is used.
pub(super) enum Store {
    /// Locked by the one change that is being made, until it is in memory as well.
    Sqlite(Box<Mutex<SqliteStore>>),
    Redis(Arc<RedisStore>, #[expect(dead_code, reason = "it follows until it is dropped")] RedisFollower),
    Kafka(
        Arc<KafkaStore>,
        #[cfg_attr(
            all(feature = "kafka", not(test)),
            expect(dead_code, reason = "it follows until it is dropped")
        )]
        KafkaFollower,
    ),
}

impl Store {
    /// Makes sure that this server has every change that was made before now, at any server.
    pub(super) async fn refreshed(&self) -> Outcome {
        match self {
            Self::Sqlite(_) => Ok(()),
            Self::Redis(store, _) => store.refreshed().await,
            Self::Kafka(store, _) => store.refreshed().await,
        }
    }

    /// Does the same for clients without a known API key, at a bounded rate.
    pub(super) async fn refreshed_for_unauthenticated(&self) -> Outcome {
        match self {
            Self::Sqlite(_) => Ok(()),
            Self::Redis(store, _) => store.refreshed_for_unauthenticated().await,
            Self::Kafka(store, _) => store.refreshed_for_unauthenticated().await,
        }
    }

    /// Decides on changes from the current state, writes them, and applies them in memory.
    ///
    /// The change runs as a task of its own, so dropping this future doesn't undo it. `turn` is held until it is done.
    pub(super) async fn change<T: Send + 'static>(
        self: Arc<Self>,
        state: Arc<RwLock<State>>,
        turn: impl Send + 'static,
        decide: impl FnOnce(&State) -> Result<(Vec<Change>, T), RegistryError> + Clone + Send + 'static,
    ) -> Result<T, RegistryError> {
        let changing = match &*self {
            Self::Sqlite(_) => {
                let store = Arc::clone(&self);
                tokio::task::spawn_blocking(move || {
                    let _turn = turn;
                    match &*store {
                        Self::Sqlite(store) => change_database(store, &state, decide),
                        Self::Redis(..) | Self::Kafka(..) => Err(RegistryError::Stopped),
                    }
                })
            }
            Self::Redis(store, _) => {
                let store = Arc::clone(store);
                task::spawn("registry_change", async move {
                    let _turn = turn;
                    store.change(decide).await
                })
            }
            Self::Kafka(store, _) => {
                let store = Arc::clone(store);
                task::spawn("registry_change", async move {
                    let _turn = turn;
                    store.change(decide).await
                })
            }
        };
        changing.await.unwrap_or(Err(RegistryError::Stopped))
    }
}

fn change_database<T>(
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
