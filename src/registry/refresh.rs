//! Making sure of what other servers changed: one question to the store answers however many wait for it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::store::{Store, StoreError};
use super::{Principal, Registry, RegistryError};
use crate::common::crypto::api_key::KeyHash;

/// After a failure others are told of it for so long, instead of waiting for the next one: a store that is away takes
/// seconds to find out about.
const FAILURE_HOLDS: Duration = Duration::from_millis(500);
/// Between questions about API keys that nobody knows: strangers may present as many as they like.
const STRANGERS_PAUSE: Duration = Duration::from_millis(50);

impl Registry {
    /// Makes sure that this server has seen every change that was answered before now, wherever it was made. It costs
    /// a round trip, which callers of one moment share; where no other server changes the registry, nothing.
    ///
    /// # Errors
    /// The store can't be asked.
    pub async fn refreshed(&self) -> Result<(), RegistryError> {
        match &self.0.store {
            Store::Sqlite(_) => Ok(()),
            Store::Redis(store, _) => store.refreshed().await.map_err(RegistryError::Behind),
        }
    }

    /// Who presents a key of that hash: also where another server made it a moment ago.
    ///
    /// # Errors
    /// Nobody is known by it, and the store can't be asked.
    pub async fn identify(&self, hash: &KeyHash) -> Result<Option<Principal>, RegistryError> {
        let known = self.authenticate(hash);
        if known.is_some() {
            return Ok(known);
        }
        match &self.0.store {
            Store::Sqlite(_) => Ok(None),
            Store::Redis(store, _) => {
                store.refreshed_for_strangers().await.map_err(RegistryError::Behind)?;
                Ok(self.authenticate(hash))
            }
        }
    }
}

/// What came of asking, for all who waited for it.
pub(super) type Outcome = Result<(), Arc<StoreError>>;

/// Work that serves all who asked for it before it began.
pub(super) struct Shared {
    /// One at a time; those who come meanwhile wait for the next.
    turn: Semaphore,
    latest: Mutex<Latest>,
    pause: Duration,
}

#[derive(Default)]
struct Latest {
    begun: u64,
    ended: Option<Ended>,
}

struct Ended {
    number: u64,
    at: Instant,
    outcome: Outcome,
}

impl Shared {
    /// At most one begins each `pause`.
    pub(super) fn new(pause: Duration) -> Self {
        Self { turn: Semaphore::new(1), latest: Mutex::default(), pause }
    }

    pub(super) fn for_strangers() -> Self {
        Self::new(STRANGERS_PAUSE)
    }

    /// Does `work`, unless another caller's that begins after this call does as well. Fails at once where it has just
    /// failed.
    ///
    /// Cancel-safe: whoever waits does it then.
    pub(super) async fn run(&self, work: impl Future<Output = Outcome>) -> Outcome {
        if let Some(failed) = self.just_failed() {
            return Err(failed);
        }
        self.insist(work).await
    }

    /// The same, also after a failure.
    pub(super) async fn insist(&self, work: impl Future<Output = Outcome>) -> Outcome {
        let asked = self.latest().begun;
        // It is never closed.
        let _turn = self.turn.acquire().await;
        let paused_until = match &self.latest().ended {
            Some(ended) if ended.number > asked => return ended.outcome.clone(),
            Some(ended) => ended.at.checked_add(self.pause),
            None => None,
        };
        if let Some(until) = paused_until.filter(|_| !self.pause.is_zero()) {
            tokio::time::sleep_until(until).await;
        }
        let number = {
            let mut latest = self.latest();
            latest.begun = latest.begun.saturating_add(1);
            latest.begun
        };
        let outcome = work.await;
        self.latest().ended = Some(Ended { number, at: Instant::now(), outcome: outcome.clone() });
        outcome
    }

    fn just_failed(&self) -> Option<Arc<StoreError>> {
        let latest = self.latest();
        let ended = latest.ended.as_ref().filter(|ended| ended.at.elapsed() < FAILURE_HOLDS)?;
        ended.outcome.as_ref().err().cloned()
    }

    fn latest(&self) -> std::sync::MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
