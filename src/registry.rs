//! The registry: tenants with their API keys, public keys and endpoints.
//!
//! Look-ups are answered from memory (`state.rs`). A change is written to the store first, and applied in memory before it
//! is answered, so a publish that follows it sees it. The store is a database in the data dir (`sqlite.rs`), or Redis or
//! Kafka, which several servers share (`shared_log.rs`). [`open`] picks it.

mod changes;
pub mod endpoint;
mod error;
pub mod headers;
#[cfg_attr(not(feature = "kafka"), path = "registry/without_kafka.rs")]
mod kafka;
pub mod limits;
mod lookups;
pub mod name;
mod open;
mod record;
mod redis;
mod refresh;
mod replica;
mod sealed;
mod shared_log;
mod single_flight;
mod sqlite;
mod state;
mod store;
mod subscriptions;
pub mod tenant;
#[cfg(test)]
mod tests;

use std::sync::{Arc, RwLock};

use tokio::sync::Semaphore;

pub use self::error::{OpenError, RegistryError, StoreError};
pub use self::limits::Limits;
pub use self::open::{RegistryPlace, open, open_shared};
#[cfg(test)]
pub(crate) use self::redis::tests as two_servers;
pub use self::state::Recipient;
use self::state::{Change, State};
use self::store::Store;
pub use self::tenant::TenantRef;
use crate::common::id::TenantId;

/// Owner of an API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Principal {
    /// The provider.
    Provider,
    /// The tenant with that id.
    Tenant(TenantId),
}

/// Handle to the registry. Clones share the same registry.
#[derive(Clone)]
pub struct Registry(Arc<RegistryInner>);

struct RegistryInner {
    /// Permit to make a change. Other changes wait for it without a blocking thread, because deliveries need these
    /// threads to resolve host names.
    turn: Arc<Semaphore>,
    store: Arc<Store>,
    state: Arc<RwLock<State>>,
}

impl Registry {
    fn new(store: Store, state: Arc<RwLock<State>>) -> Self {
        Self(Arc::new(RegistryInner { turn: Arc::new(Semaphore::new(1)), store: Arc::new(store), state }))
    }

    /// Decides on changes from the current state, writes them, and applies them in memory, one caller at a time.
    ///
    /// `decide` runs again if another server's change came in between.
    async fn change<T: Send + 'static>(
        &self,
        decide: impl FnOnce(&State) -> Result<(Vec<Change>, T), RegistryError> + Clone + Send + 'static,
    ) -> Result<T, RegistryError> {
        let turn = Arc::clone(&self.0.turn).acquire_owned().await.map_err(|_| RegistryError::Stopped)?;
        Arc::clone(&self.0.store).change(Arc::clone(&self.0.state), turn, decide).await
    }
}

/// Page of a list.
pub struct Page<T> {
    /// Items in the order of their creation.
    pub items: Vec<T>,
    /// Whether more items follow.
    pub more: bool,
}
