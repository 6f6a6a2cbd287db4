//! Leases on their way to the caller of a claim.

use std::sync::Arc;

use super::sharded::ShardedQueue;
use crate::queue::Lease;

/// Leases that are returned to Redis on drop, unless the caller takes them.
pub(super) struct ClaimedLeases {
    pub(super) leases: Vec<Lease>,
    sharded: Arc<ShardedQueue>,
}

impl ClaimedLeases {
    pub(super) fn new(sharded: Arc<ShardedQueue>) -> Self {
        Self { leases: Vec::new(), sharded }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    pub(super) fn into_leases(mut self) -> Vec<Lease> {
        std::mem::take(&mut self.leases)
    }
}

impl Drop for ClaimedLeases {
    fn drop(&mut self) {
        let (leases, sharded) = (std::mem::take(&mut self.leases), Arc::clone(&self.sharded));
        // Without a runtime there is no connection either. The leases expire then.
        if let Ok(runtime) = tokio::runtime::Handle::try_current()
            && !leases.is_empty()
        {
            runtime.spawn(async move { sharded.return_leases(&leases).await });
        }
    }
}
