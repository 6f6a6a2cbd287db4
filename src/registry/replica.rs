//! The in-memory copy of a registry that several servers share, and its position in the log of changes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use uuid::Uuid;

use super::error::{RegistryError, StoreError};
use super::limits::Limits;
use super::record::{self, Write};
use super::single_flight::SingleFlight;
use super::state::{Change, Position, State};
use crate::common::crypto::vault::Vault;

/// Minimum time between two reads of the store that are caused by unknown API keys. A client without a valid key can
/// present any number of them.
const UNAUTHENTICATED_PAUSE: Duration = Duration::from_millis(50);

/// This server's copy of the registry.
pub(super) struct Replica {
    state: Arc<RwLock<State>>,
    pub(super) vault: Arc<Vault>,
    pub(super) limits: Limits,
    pub(super) server: ServerId,
    /// Number of changes that this server has tried to write.
    attempted: AtomicU64,
    pub(super) refresh: SingleFlight,
    pub(super) unauthenticated_refresh: SingleFlight,
}

/// A random id of this process. The marks of its changes begin with it.
#[derive(Debug, Clone)]
pub(super) struct ServerId(String);

/// A change that was decided on and not written yet.
pub(super) struct Decision<T> {
    /// Position of the state that the change was decided from.
    pub(super) at: Position,
    /// The changes, for the memory.
    pub(super) changes: Vec<Change>,
    /// The same changes, for the store. Empty if there is nothing to do.
    pub(super) writes: Vec<Write>,
    /// Value for the caller once the change is written.
    pub(super) result: T,
}

impl ServerId {
    pub(super) fn random() -> Self {
        Self(Uuid::new_v4().simple().to_string())
    }

    /// Returns the mark of this server's change of that number. No other change has it.
    pub(super) fn mark(&self, own: u64) -> String {
        format!("{}.{own}", self.0)
    }

    /// Returns the number of the change with that mark, if it is this server's own.
    pub(super) fn own_of(&self, mark: &str) -> Option<u64> {
        mark.strip_prefix(&self.0)?.strip_prefix('.')?.parse().ok()
    }
}

impl Replica {
    /// Returns an empty copy, to be filled with [`Self::replace`].
    pub(super) fn new(server: ServerId, vault: Vault, limits: Limits) -> Self {
        Self {
            state: Arc::new(RwLock::new(State::new(limits))),
            vault: Arc::new(vault),
            limits,
            server,
            attempted: AtomicU64::new(0),
            refresh: SingleFlight::new(Duration::ZERO),
            unauthenticated_refresh: SingleFlight::new(UNAUTHENTICATED_PAUSE),
        }
    }

    /// Returns the state for look-ups.
    pub(super) fn state(&self) -> Arc<RwLock<State>> {
        Arc::clone(&self.state)
    }

    pub(super) fn position(&self) -> Position {
        self.read().at.clone()
    }

    pub(super) fn version(&self) -> u64 {
        self.read().at.version
    }

    /// Whether this server's change of that number, or a later one of its own, is in the state.
    pub(super) fn has_own(&self, own: u64) -> bool {
        self.read().at.own >= own
    }

    /// Returns the number for this server's next change.
    pub(super) fn next_own(&self) -> u64 {
        self.attempted.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    /// Decides on a change from the current state, and seals its secrets.
    pub(super) fn decide<T>(
        &self,
        decide: impl FnOnce(&State) -> Result<(Vec<Change>, T), RegistryError>,
    ) -> (Position, Result<Decision<T>, RegistryError>) {
        let state = self.read();
        let at = state.at.clone();
        let decision = decide(&state).and_then(|(changes, result)| {
            let writes = record::writes(&changes, &state, &self.vault).map_err(StoreError::Seal)?;
            Ok(Decision { at: at.clone(), changes, writes, result })
        });
        (at, decision)
    }

    /// Applies the change of that version and mark, unless the state has it already.
    pub(super) fn apply(&self, version: u64, mark: String, changes: Vec<Change>) {
        let mut state = self.write();
        if state.at.version < version {
            changes.into_iter().for_each(|change| state.apply(change));
            let own = self.server.own_of(&mark).unwrap_or(state.at.own);
            state.at = Position { version, mark, own };
        }
    }

    /// Applies a change that this server wrote after `from`, unless the state has moved since.
    pub(super) fn apply_own(&self, from: &Position, changes: Vec<Change>, to: Position) {
        let mut state = self.write();
        if state.at == *from {
            changes.into_iter().for_each(|change| state.apply(change));
            state.at = to;
        }
    }

    /// Replaces the whole state with one that was read at `at`.
    ///
    /// If the store has lost changes that this server had seen, that is logged. `place` names the backend in the log.
    pub(super) fn replace(&self, mut state: State, at: Position, place: &str) {
        let mut current = self.write();
        let (was, is) = (current.at.version, at.version);
        state.at = Position { own: at.own.max(current.at.own), ..at };
        state.inherit_rates(&current);
        let old = std::mem::replace(&mut *current, state);
        drop(current);
        // Dropping a large state takes a while, so look-ups don't wait for it.
        drop(old);
        if is < was {
            tracing::error!(
                was,
                is,
                "{place} has lost changes of the registry; this server continues with what is left"
            );
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}
