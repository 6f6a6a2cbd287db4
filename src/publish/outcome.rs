//! The result of publishing one event: the messages that were queued and the recipients that were refused.

use super::PublishError;
use crate::common::id::{EndpointId, EventId, MessageId, TenantId};
use crate::common::job::{Job, Target};

/// Result of publishing one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishOutcome {
    /// Id of the event. The sealed plaintext holds it as well.
    pub event_id: EventId,
    /// Queued messages, one per endpoint.
    pub messages: Vec<QueuedMessage>,
    /// Subscribed recipients that don't get the event.
    pub refusals: Vec<PublishRefusal>,
}

impl PublishOutcome {
    /// Returns the outcome of an event that made no jobs: success if no endpoint subscribes, otherwise the first refusal
    /// as an error.
    pub(super) fn without_messages(
        event_id: EventId,
        refusals: Vec<PublishRefusal>,
    ) -> Result<Self, PublishError> {
        match refusals.first() {
            Some(refusal) => Err(refusal.reason.into()),
            None => Ok(Self { event_id, messages: Vec::new(), refusals }),
        }
    }
}

/// A message that was queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueuedMessage {
    /// Id of the message: the `webhook-id` of its deliveries.
    pub id: MessageId,
    /// Tenant and endpoint that the message is for. `None` in direct mode.
    pub recipient: Option<(TenantId, EndpointId)>,
}

impl QueuedMessage {
    /// Returns the message that `job` delivers.
    pub(super) fn of(job: &Job) -> Self {
        let recipient = match job.target {
            Target::Endpoint(tenant, endpoint) => Some((tenant, endpoint)),
            Target::Url(_) => None,
        };
        Self { id: job.id, recipient }
    }
}

/// An endpoint, or a whole tenant, that subscribes to an event and doesn't get it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishRefusal {
    /// Tenant.
    pub tenant: TenantId,
    /// Endpoint. `None` stands for all endpoints of the tenant.
    pub endpoint: Option<EndpointId>,
    /// Reason for the refusal.
    pub reason: RefusalReason,
}

/// Reason why a recipient doesn't get an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalReason {
    /// The tenant's limit of queued jobs would be exceeded.
    QueuedJobs {
        /// The tenant's limit.
        max: u32,
    },
    /// The tenant's limit of queued bytes would be exceeded.
    QueuedBytes {
        /// The tenant's limit.
        max: u64,
    },
    /// The endpoint uses the rsa-oaep envelope, and the payload is too large for it.
    TooLargeForEnvelope,
}
