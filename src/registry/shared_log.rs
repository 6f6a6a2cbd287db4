//! A registry that several servers share as a log of changes, over any transport.
//!
//! Concurrency is optimistic. A change is decided from this server's copy of the registry, and the transport appends it
//! only if no other server appended one since. Otherwise the server catches up with the log and decides again. So names
//! stay unique and limits hold, however many servers change at once.

use std::sync::Arc;

use super::error::{RegistryError, StoreError};
use super::record::Write;
use super::replica::{Decision, Replica};
use super::single_flight::Outcome;
use super::state::{Change, Position, State};

/// Outcome of an attempt to append a change.
pub(super) enum Append {
    /// The change is in the log and in this server's copy.
    Done,
    /// Another server was first. Nothing was written.
    Lost,
    /// The store refused the change. Nothing was written.
    Refused(StoreError),
    /// The change may be in the log or not.
    Unknown(StoreError),
    /// The changes of other servers couldn't be read. Nothing was written.
    Behind(Arc<StoreError>),
}

/// A transport of the log, with the copy of the registry that it keeps up to date.
pub(super) trait SharedLog: Send + Sync {
    /// Maximum number of attempts to append a change.
    const MAX_ATTEMPTS: u32;

    /// Right to append, for transports that need one.
    type Lease: Send;

    fn replica(&self) -> &Replica;

    /// Applies all changes that were appended before this call.
    async fn follow(&self) -> Outcome;

    /// Waits until this is the only change that this server makes.
    async fn lease(&self) -> Self::Lease;

    /// Makes sure that this server may append, and knows the log as far as it is written now. `attempt` counts from 0.
    async fn renew(&self, lease: &mut Self::Lease, attempt: u32) -> Outcome;

    /// Appends a change as this server's number `own`, if no other was appended since `at`.
    async fn append(
        &self,
        lease: &mut Self::Lease,
        at: &Position,
        own: u64,
        changes: Vec<Change>,
        writes: &[Write],
    ) -> Append;

    /// Makes sure that this server knows every change that was appended before now. Returns a recent failure at once.
    async fn refreshed(&self) -> Outcome {
        self.replica().refresh.run(self.follow()).await
    }

    /// Does the same for clients without a known API key, at a bounded rate.
    async fn refreshed_for_unauthenticated(&self) -> Outcome {
        self.replica().unauthenticated_refresh.run(self.refreshed()).await
    }

    /// Makes sure that this server knows every change that was appended before now, also right after a failure.
    async fn catch_up(&self) -> Outcome {
        self.replica().refresh.run_after_failure(self.follow()).await
    }

    /// Decides on a change from the latest state and appends it. Decides again if another server was first.
    async fn change<T: Send>(
        &self,
        decide: impl FnOnce(&State) -> Result<(Vec<Change>, T), RegistryError> + Clone + Send,
    ) -> Result<T, RegistryError> {
        let replica = self.replica();
        let mut lease = self.lease().await;
        for attempt in 0..Self::MAX_ATTEMPTS {
            let (at, decision) = replica.decide(decide.clone());
            let mut decision = match decision {
                Ok(decision) if !decision.writes.is_empty() => decision,
                // A change of another server that isn't known here yet may allow it, or give it something to do.
                nothing_to_write => {
                    self.catch_up().await.map_err(RegistryError::Behind)?;
                    if replica.position() == at {
                        return nothing_to_write.map(|decision| decision.result);
                    }
                    continue;
                }
            };
            self.renew(&mut lease, attempt).await.map_err(RegistryError::Behind)?;
            if replica.position() != at {
                match replica.decide(decide.clone()).1 {
                    Ok(again) if !again.writes.is_empty() => decision = again,
                    _ => continue,
                }
            }
            let Decision { at, changes, writes, result } = decision;
            match self.append(&mut lease, &at, replica.next_own(), changes, &writes).await {
                Append::Done => return Ok(result),
                Append::Lost => {}
                Append::Refused(error) => return Err(error.into()),
                Append::Unknown(error) => return Err(RegistryError::Unsure(error)),
                Append::Behind(error) => return Err(RegistryError::Behind(error)),
            }
        }
        Err(StoreError::Contended.into())
    }
}
