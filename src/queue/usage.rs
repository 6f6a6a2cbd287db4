//! Usage of the queue, in total and by tenant, and its limits.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::error::QueueError;
use super::{QueueConfig, TenantUsage};
use crate::common::job::{Job, Target};

/// Number and bytes of the unsettled jobs, with their limits.
#[derive(Debug)]
pub(super) struct QueueUsage {
    jobs: usize,
    bytes: usize,
    max_jobs: usize,
    max_bytes: usize,
    tenants: HashMap<Arc<str>, TenantUsage>,
}

/// Tenant and bytes of one job, or of several jobs of one tenant.
#[derive(Debug, Clone, Copy)]
pub(super) struct JobSize<'a> {
    /// Tenant whose quota the job counts towards. `None` in direct mode, where the tenant is only what the publisher
    /// says.
    pub(super) tenant: Option<&'a Arc<str>>,
    /// Bytes of the body.
    pub(super) bytes: usize,
}

impl<'a> JobSize<'a> {
    pub(super) fn of(job: &'a Job) -> Self {
        let tenant = matches!(job.target, Target::Endpoint(..)).then_some(&job.tenant);
        Self { tenant, bytes: job.body.len() }
    }
}

impl QueueUsage {
    /// Creates the usage of an empty queue with the limits of `config`.
    pub(super) fn new(config: &QueueConfig) -> Self {
        let (max_jobs, max_bytes) = (config.max_jobs, config.max_bytes);
        Self { jobs: 0, bytes: 0, max_jobs, max_bytes, tenants: HashMap::new() }
    }

    /// Checks that the limits allow so many more jobs and bytes.
    pub(super) fn check(&self, jobs: usize, bytes: usize) -> Result<(), QueueError> {
        if jobs > self.max_jobs || bytes > self.max_bytes {
            return Err(QueueError::TooLarge);
        }
        let is_full = self.jobs.saturating_add(jobs) > self.max_jobs
            || self.bytes.saturating_add(bytes) > self.max_bytes;
        if is_full { Err(QueueError::Full) } else { Ok(()) }
    }

    /// Checks that the limits allow all of `jobs`.
    pub(super) fn check_all(&self, jobs: &[Arc<Job>]) -> Result<(), QueueError> {
        let bytes = jobs.iter().fold(0_usize, |sum, job| sum.saturating_add(job.body.len()));
        self.check(jobs.len(), bytes)
    }

    /// Adds one job.
    pub(super) fn add(&mut self, size: JobSize<'_>) {
        self.add_many(size, 1);
    }

    /// Adds `jobs` jobs of one tenant. `size` has their total bytes.
    pub(super) fn add_many(&mut self, size: JobSize<'_>, jobs: usize) {
        self.jobs = self.jobs.saturating_add(jobs);
        self.bytes = self.bytes.saturating_add(size.bytes);
        if let Some(tenant) = size.tenant {
            let usage = self.tenants.entry(Arc::clone(tenant)).or_default();
            usage.jobs = usage.jobs.saturating_add(count(jobs));
            usage.bytes = usage.bytes.saturating_add(count(size.bytes));
        }
    }

    /// Removes one job.
    pub(super) fn remove(&mut self, size: JobSize<'_>) {
        self.jobs = self.jobs.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(size.bytes);
        let Some(tenant) = size.tenant else { return };
        if let Entry::Occupied(mut entry) = self.tenants.entry(Arc::clone(tenant)) {
            let usage = entry.get_mut();
            usage.jobs = usage.jobs.saturating_sub(1);
            usage.bytes = usage.bytes.saturating_sub(count(size.bytes));
            if usage.jobs == 0 {
                entry.remove();
            }
        }
    }

    /// Returns the number of unsettled jobs.
    pub(super) fn jobs(&self) -> u64 {
        count(self.jobs)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.jobs == 0
    }

    /// Returns the usage of each of `tenants`, in the same order.
    pub(super) fn by_tenant(&self, tenants: &[String]) -> Vec<TenantUsage> {
        tenants.iter().map(|tenant| self.tenants.get(&**tenant).copied().unwrap_or_default()).collect()
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
