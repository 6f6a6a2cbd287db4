//! Publishing: finds an event's recipients, seals its payload for each of them, and queues the jobs in one call.
//!
//! The path of one event, file by file:
//!
//! 1. `event`: the event, its audience, and the idempotency key that its ids are derived from.
//! 2. [`Publisher::publish`], in this file, looks up the recipients.
//! 3. `limits` checks the tenants' limits and reserves memory for the sealed event.
//! 4. `fan_out` makes one job per endpoint. `seal` encrypts the payload once per tenant and envelope.
//! 5. [`Publisher::publish`] pushes the jobs onto the queue, and `outcome` names the queued messages and the refusals.
//!
//! [`Publisher::publish_direct`], in `direct`, is the short path of direct mode, where an event names its own URL.

mod direct;
mod error;
mod event;
mod fan_out;
mod limits;
mod outcome;
mod seal;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::common::clock::Clock;
use crate::common::crypto::envelope::KeyReuse;
use crate::common::event_type::EventType;
use crate::common::id::EventId;
use crate::common::metrics::Metrics;
use crate::deliver::egress::EgressGuard;
use crate::queue::Queue;
use crate::registry::{Recipient, Registry};
pub use direct::{DIRECT_TENANT, DIRECT_TYPE, DirectEvent};
pub use error::PublishError;
pub use event::{Audience, Event, IdempotencyKey};
pub use outcome::{PublishOutcome, PublishRefusal, QueuedMessage, RefusalReason};
pub use seal::DirectSealer;

/// Seals events and queues them.
pub struct Publisher {
    /// Sealer of direct-mode events. `None` disables direct mode.
    pub direct: Option<DirectSealer>,
    /// Tenants, their keys and their endpoints.
    pub registry: Registry,
    /// Bounds on the reuse of one content key.
    pub key_reuse: KeyReuse,
    /// Addresses that deliveries may connect to.
    pub guard: EgressGuard,
    /// Queue that receives the jobs.
    pub queue: Arc<dyn Queue>,
    /// Maximum size of all jobs of one event, in bytes.
    pub max_event_bytes: usize,
    /// Maximum size of one tenant's queued jobs, in bytes.
    pub tenant_queued_bytes: usize,
    /// Memory for events that are sealed and not queued yet. One permit stands for one KiB.
    pub sealing_budget: Semaphore,
    /// Counters of published jobs.
    pub metrics: Arc<Metrics>,
    /// Clock that sets the publication time of each job.
    pub clock: Clock,
}

impl Publisher {
    /// Publishes `event` to every endpoint of `audience` that subscribes to its type.
    ///
    /// Seals the payload once per tenant and envelope, and pushes one job per endpoint to the queue, all in one call.
    /// When this returns `Ok`, the queue's durability promise holds for every message in the outcome. An event without
    /// a subscriber has an outcome without messages.
    ///
    /// # Errors
    /// The named tenant exceeds a limit, every recipient is refused, or the payload can't be sealed. The queue is full,
    /// closed or unreachable. No recipient is known, and the registry can't be read again.
    ///
    /// Nothing is queued, unless [`Queue::push`] has failed. It may then have queued some of the jobs.
    pub async fn publish(
        &self,
        event: Event<'_>,
        audience: Audience,
    ) -> Result<PublishOutcome, PublishError> {
        if let Some(tenant) = audience.tenant() {
            self.check_publish_rate(tenant)?;
        }
        // Another server may have added the subscription a moment ago.
        let look_up = || self.recipients(&event.kind, audience);
        let recipients = self.registry.look_up_or_refresh(look_up, |found| !found.is_empty()).await?;
        let event_id = event.idempotency_key.as_ref().map_or_else(EventId::new, IdempotencyKey::event_id);
        let sealed_size = limits::sealed_size(event.payload.get().len());
        let (recipients, mut refusals) = self.within_queue_limits(recipients, sealed_size).await?;
        if recipients.is_empty() {
            return PublishOutcome::without_messages(event_id, refusals);
        }
        // The permit holds the memory until the queue has the jobs.
        let _memory = self.reserve_memory(&recipients, sealed_size)?;
        let fan_out = fan_out::seal(self, &recipients, &event, event_id)?;
        refusals.extend(fan_out.refusals);
        if fan_out.jobs.is_empty() {
            return PublishOutcome::without_messages(event_id, refusals);
        }
        let messages: Vec<QueuedMessage> = fan_out.jobs.iter().map(QueuedMessage::of).collect();
        self.queue.push(fan_out.jobs).await?;
        self.metrics.published.inc_by(u64::try_from(messages.len()).unwrap_or(u64::MAX));
        Ok(PublishOutcome { event_id, messages, refusals })
    }

    fn recipients(&self, kind: &EventType, audience: Audience) -> Vec<Recipient> {
        match audience {
            Audience::Everyone => self.registry.recipients(kind, None),
            Audience::Tenant(id) => self.registry.recipients(kind, Some(id)),
            Audience::Endpoint(tenant, id) => self.registry.recipient(tenant, id).into_iter().collect(),
        }
    }
}
