//! The leases of this process, counted by the health of their lanes.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::queue::LeaseId;
use crate::queue::throttle::EndpointHealth;

/// The leases of this process that are neither settled nor expired. `claim.lua` needs their number to share the slots.
pub(super) struct ProcessLeases {
    /// Duration of a lease.
    length: Duration,
    table: Mutex<LeaseTable>,
}

#[derive(Default)]
struct LeaseTable {
    /// Health of the lane when the lease was made, and the expiry of the lease.
    by_id: HashMap<(usize, u64), (EndpointHealth, Instant)>,
    counts: LeaseCounts,
    /// Earliest expiry at the last sweep.
    next_sweep: Option<Instant>,
}

/// Numbers of leases.
#[derive(Clone, Copy, Default)]
pub(super) struct LeaseCounts {
    pub(super) all: usize,
    /// Leases of lanes with new endpoints.
    pub(super) new: usize,
    /// Leases of lanes with failing endpoints.
    pub(super) failing: usize,
}

impl LeaseCounts {
    fn of_health(&mut self, health: EndpointHealth) -> Option<&mut usize> {
        match health {
            EndpointHealth::Healthy => None,
            EndpointHealth::New => Some(&mut self.new),
            EndpointHealth::Failing => Some(&mut self.failing),
        }
    }

    fn add(&mut self, health: EndpointHealth) {
        self.all = self.all.saturating_add(1);
        if let Some(count) = self.of_health(health) {
            *count = count.saturating_add(1);
        }
    }

    fn subtract(&mut self, health: EndpointHealth) {
        self.all = self.all.saturating_sub(1);
        if let Some(count) = self.of_health(health) {
            *count = count.saturating_sub(1);
        }
    }
}

impl ProcessLeases {
    /// Creates an empty table for leases of duration `length`.
    pub(super) fn new(length: Duration) -> Self {
        Self { length, table: Mutex::default() }
    }

    fn table(&self) -> MutexGuard<'_, LeaseTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, id: LeaseId, health: EndpointHealth) {
        let expiry = Instant::now().checked_add(self.length).unwrap_or_else(Instant::now);
        let mut table = self.table();
        table.by_id.insert((id.slot, id.serial), (health, expiry));
        table.next_sweep.get_or_insert(expiry);
        table.counts.add(health);
    }

    pub(super) fn remove(&self, id: LeaseId) {
        let mut table = self.table();
        if let Some((health, _)) = table.by_id.remove(&(id.slot, id.serial)) {
            table.counts.subtract(health);
        }
    }

    /// Drops expired leases and counts the others.
    pub(super) fn counts(&self) -> LeaseCounts {
        let now = Instant::now();
        let mut table = self.table();
        if table.next_sweep.is_some_and(|at| at <= now) {
            let expired: Vec<_> = table
                .by_id
                .extract_if(|_, (_, expiry)| *expiry <= now)
                .map(|(_, (health, _))| health)
                .collect();
            expired.into_iter().for_each(|health| table.counts.subtract(health));
            table.next_sweep = table.by_id.values().map(|(_, expiry)| *expiry).min();
        }
        table.counts
    }
}
