//! Limits that hold before an event is sealed: the tenants' publish rates and queue shares, and the memory for sealing.

use governor::clock::Clock as _;
use tokio::sync::SemaphorePermit;

use super::{PublishError, PublishRefusal, Publisher, RefusalReason};
use crate::common::id::TenantId;
use crate::queue::QueueError;
use crate::registry::Recipient;

/// Returns roughly how many bytes a payload takes once it is sealed. Base64 turns three bytes into four, and the other
/// parts of the envelope take about 1 KiB with a 4096-bit key.
pub(super) fn sealed_size(payload: usize) -> usize {
    payload.saturating_mul(4).div_ceil(3).saturating_add(1_024)
}

impl Publisher {
    /// Takes one event from the tenant's publish rate.
    pub(super) fn check_publish_rate(&self, tenant: TenantId) -> Result<(), PublishError> {
        let Some(rate) = self.registry.publish_rate(tenant) else { return Ok(()) };
        rate.check().map_err(|not_until| PublishError::TooFast {
            per_second: not_until.quota().burst_size().get(),
            retry_after: not_until.wait_time_from(governor::clock::DefaultClock::default().now()),
        })
    }

    /// Splits `recipients` into those whose queue limits leave room for the event, and refusals of the others.
    pub(super) async fn within_queue_limits(
        &self,
        recipients: Vec<Recipient>,
        sealed_size: usize,
    ) -> Result<(Vec<Recipient>, Vec<PublishRefusal>), PublishError> {
        let tenants: Vec<String> =
            recipients.iter().map(|recipient| recipient.tenant.id.to_string()).collect();
        let queued = self.queue.tenant_usage(&tenants).await?;
        let max_bytes = u64::try_from(self.tenant_queued_bytes).unwrap_or(u64::MAX);
        let sealed_size = u64::try_from(sealed_size).unwrap_or(u64::MAX);
        let (mut accepted, mut refusals) = (Vec::with_capacity(recipients.len()), Vec::new());
        for (recipient, queued) in recipients.into_iter().zip(queued) {
            let jobs = u64::try_from(recipient.endpoints.len()).unwrap_or(u64::MAX);
            let bytes = sealed_size.saturating_mul(jobs);
            let max_jobs = self.registry.limits(&recipient.tenant).queued_jobs;
            let reason = if queued.jobs.saturating_add(jobs) > u64::from(max_jobs) {
                RefusalReason::QueuedJobs { max: max_jobs }
            } else if queued.bytes.saturating_add(bytes) > max_bytes {
                RefusalReason::QueuedBytes { max: max_bytes }
            } else {
                accepted.push(recipient);
                continue;
            };
            refusals.push(PublishRefusal { tenant: recipient.tenant.id, endpoint: None, reason });
        }
        Ok((accepted, refusals))
    }

    /// Reserves memory for the sealed event, as many bytes as the queue will count. The permit holds it until the
    /// queue has the jobs.
    pub(super) fn reserve_memory(
        &self,
        recipients: &[Recipient],
        sealed_size: usize,
    ) -> Result<SemaphorePermit<'_>, PublishError> {
        let jobs = recipients.iter().fold(0, |sum: usize, to| sum.saturating_add(to.endpoints.len()));
        let bytes = sealed_size.saturating_mul(jobs);
        if bytes > self.max_event_bytes {
            return Err(PublishError::Queue(QueueError::TooLarge));
        }
        let kib = u32::try_from(bytes.div_ceil(1_024)).unwrap_or(u32::MAX);
        let permit = self.sealing_budget.try_acquire_many(kib);
        permit.map_err(|_| PublishError::Queue(QueueError::Full))
    }
}
