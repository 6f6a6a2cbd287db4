//! What the queue holds, in all and for each tenant, and what it may hold.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::{QueueConfig, QueueError, TenantUsage};
use crate::common::job::{Job, Target};

/// Unsettled jobs and bytes of their bodies.
#[derive(Debug)]
pub(super) struct Usage {
    jobs: usize,
    bytes: usize,
    max_jobs: usize,
    max_bytes: usize,
    tenants: HashMap<Arc<str>, TenantUsage>,
}

/// Whose a job is, and how large.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share<'a> {
    /// The tenant. In direct mode it is what a stranger says, and no tenant's quota is charged for it.
    pub(super) tenant: Option<&'a Arc<str>>,
    pub(super) bytes: usize,
}

impl<'a> Share<'a> {
    pub(super) fn of(job: &'a Job) -> Self {
        let tenant = matches!(job.target, Target::Endpoint(..)).then_some(&job.tenant);
        Self { tenant, bytes: job.body.len() }
    }
}

impl Usage {
    /// Nothing, of what `config` allows.
    pub(super) fn new(config: &QueueConfig) -> Self {
        let (max_jobs, max_bytes) = (config.max_jobs, config.max_bytes);
        Self { jobs: 0, bytes: 0, max_jobs, max_bytes, tenants: HashMap::new() }
    }

    /// Whether so much more may be held.
    pub(super) fn check(&self, jobs: usize, bytes: usize) -> Result<(), QueueError> {
        if jobs > self.max_jobs || bytes > self.max_bytes {
            return Err(QueueError::TooLarge);
        }
        let is_full = self.jobs.saturating_add(jobs) > self.max_jobs
            || self.bytes.saturating_add(bytes) > self.max_bytes;
        if is_full { Err(QueueError::Full) } else { Ok(()) }
    }

    /// Whether all of `jobs` may be held as well.
    pub(super) fn check_all(&self, jobs: &[Arc<Job>]) -> Result<(), QueueError> {
        let bytes = jobs.iter().fold(0_usize, |sum, job| sum.saturating_add(job.body.len()));
        self.check(jobs.len(), bytes)
    }

    pub(super) fn add(&mut self, share: Share<'_>) {
        self.add_many(share, 1);
    }

    /// Adds `jobs` of one tenant that have as many bytes together.
    pub(super) fn add_many(&mut self, share: Share<'_>, jobs: usize) {
        self.jobs = self.jobs.saturating_add(jobs);
        self.bytes = self.bytes.saturating_add(share.bytes);
        if let Some(tenant) = share.tenant {
            let queued = self.tenants.entry(Arc::clone(tenant)).or_default();
            queued.jobs = queued.jobs.saturating_add(count(jobs));
            queued.bytes = queued.bytes.saturating_add(count(share.bytes));
        }
    }

    pub(super) fn remove(&mut self, share: Share<'_>) {
        self.jobs = self.jobs.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(share.bytes);
        let Some(tenant) = share.tenant else { return };
        if let Entry::Occupied(mut entry) = self.tenants.entry(Arc::clone(tenant)) {
            let queued = entry.get_mut();
            queued.jobs = queued.jobs.saturating_sub(1);
            queued.bytes = queued.bytes.saturating_sub(count(share.bytes));
            if queued.jobs == 0 {
                entry.remove();
            }
        }
    }

    pub(super) fn jobs(&self) -> u64 {
        count(self.jobs)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.jobs == 0
    }

    /// What each of `tenants` has.
    pub(super) fn by_tenant(&self, tenants: &[String]) -> Vec<TenantUsage> {
        tenants.iter().map(|tenant| self.tenants.get(&**tenant).copied().unwrap_or_default()).collect()
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
