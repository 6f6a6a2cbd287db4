//! Publishing: event in, who wants it, one seal a tenant, one push, ids out.
//!
//! [`Publisher::publish`] is for events that endpoints subscribe to, [`Publisher::publish_direct`] for those that
//! name their URL themselves.

mod direct;
mod fan_out;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use governor::clock::Clock as _;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::{Semaphore, SemaphorePermit};
use utoipa::ToSchema;

use crate::common::clock::Clock;
use crate::common::crypto::envelope::{KeyReuse, SealError, Sealer};
use crate::common::crypto::keys::{KeyError, PublicKey};
use crate::common::crypto::legacy::{self, LegacyError};
use crate::common::event_type::EventType;
use crate::common::id::{EndpointId, EventId, MessageId, TenantId};
use crate::common::job::{ContentType, Message, TraceContext};
use crate::common::metrics::Metrics;
use crate::deliver::egress::{EgressGuard, Refusal};
use crate::queue::{Queue, QueueError};
use crate::registry::{Principal, Recipient, Registry, RegistryError};
pub use direct::{DIRECT_TENANT, DIRECT_TYPE, DirectEvent};

/// An event for those who subscribe to it.
pub struct Event<'a> {
    /// What it is subscribed to by.
    pub kind: EventType,
    /// What is delivered, byte for byte.
    pub payload: &'a RawValue,
    /// The trace it belongs to.
    pub trace: TraceContext,
    /// What its ids are made from, where the publisher may repeat it.
    pub repeat: Option<RepeatKey>,
}

/// Who is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Every tenant.
    Everyone,
    /// One tenant.
    Tenant(TenantId),
    /// One endpoint, whatever it subscribes to: to try it out.
    Endpoint(TenantId, EndpointId),
}

impl Audience {
    fn tenant(self) -> Option<TenantId> {
        match self {
            Self::Everyone => None,
            Self::Tenant(id) | Self::Endpoint(id, _) => Some(id),
        }
    }
}

/// By what a repeated publish is known: the same key of the same publisher gives the same ids.
#[derive(Debug, Clone)]
pub struct RepeatKey {
    scope: String,
    key: Vec<u8>,
}

impl RepeatKey {
    /// A key of that publisher's.
    #[must_use]
    pub fn new(publisher: Principal, key: Vec<u8>) -> Self {
        let scope = match publisher {
            Principal::Provider => "provider".to_owned(),
            Principal::Tenant(id) => id.to_string(),
        };
        Self { scope, key }
    }

    fn event_id(&self) -> EventId {
        EventId::derived(&[self.scope.as_bytes(), &self.key])
    }

    fn message_id(&self, endpoint: EndpointId) -> MessageId {
        MessageId::derived(&[self.scope.as_bytes(), &self.key, endpoint.to_string().as_bytes()])
    }
}

/// What a publisher is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Published {
    /// The event's id, which is also in its sealed plaintext
    #[schema(value_type = String, pattern = "^evt_[0-9a-f]{32}$")]
    pub event_id: EventId,
    /// One message an endpoint; none where nobody subscribes
    pub messages: Vec<PublishedMessage>,
    /// Who wants the event and doesn't get it
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<Refused>,
}

/// One message of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PublishedMessage {
    /// The `webhook-id` of its deliveries
    #[schema(value_type = String, pattern = "^msg_[0-9a-f]{32}$")]
    pub id: MessageId,
    /// Whose it is; absent in direct mode
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, pattern = "^ten_[0-9a-f]{32}$")]
    pub tenant: Option<TenantId>,
    /// Where it goes; absent in direct mode
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, pattern = "^ep_[0-9a-f]{32}$")]
    pub endpoint: Option<EndpointId>,
}

/// An endpoint, or a whole tenant, that an event doesn't go to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Refused {
    /// The tenant
    #[schema(value_type = String, pattern = "^ten_[0-9a-f]{32}$")]
    pub tenant: TenantId,
    /// The endpoint; absent where all of the tenant's are meant
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, pattern = "^ep_[0-9a-f]{32}$")]
    pub endpoint: Option<EndpointId>,
    /// Why
    pub reason: RefusedReason,
}

/// Why an event doesn't go there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RefusedReason {
    /// The tenant has as many jobs in the queue as it may
    QueuedJobs,
    /// The tenant has as many bytes of jobs in the queue as it may
    QueuedBytes,
    /// The endpoint's envelope, rsa-oaep, can't hold the payload
    TooLargeForEnvelope,
}

/// Why an event wasn't published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The URL may not be called.
    #[error("url refused")]
    Refused(#[from] Refusal),
    /// The tenant publishes faster than it may.
    #[error("more than {per_second} events a second are published to this tenant")]
    TooFast {
        /// What it may.
        per_second: u32,
        /// When to try again.
        retry_after: Duration,
    },
    /// The tenant has as many jobs in the queue as it may.
    #[error("the tenant has as many jobs in the queue as it may, {most}")]
    TooManyQueued {
        /// What it may.
        most: u32,
    },
    /// The tenant has as many bytes of jobs in the queue as it may.
    #[error("the tenant has as many bytes of jobs in the queue as it may")]
    TooManyBytesQueued,
    /// No endpoint that wants it can hold it.
    #[error("the payload is too large for the rsa-oaep envelope of every endpoint that wants it")]
    TooLargeForEnvelope,
    /// The legacy envelope can't hold it.
    #[error("legacy envelope")]
    Legacy(#[from] LegacyError),
    /// This machine can't seal.
    #[error("seal the payload")]
    Seal(#[from] SealError),
    /// A stored public key is damaged.
    #[error("read a stored public key")]
    Key(#[from] KeyError),
    /// The payload isn't JSON that can be written again, which its parser rules out.
    #[error("write the message")]
    Write(#[from] serde_json::Error),
    /// The queue refused it.
    #[error("queue the event")]
    Queue(#[from] QueueError),
    /// Nobody is known who wants it, and what other servers know can't be asked.
    #[error("look up who wants the event")]
    Registry(#[from] RegistryError),
}

/// How payloads are sealed.
#[derive(Debug)]
pub enum Envelope {
    /// Flattened JWE.
    Jwe(Sealer),
    /// The Deno scripts' format.
    RsaOaep(PublicKey),
}

/// Publishes events.
pub struct Publisher {
    /// What direct events are sealed with; without it there are none.
    pub direct: Option<Envelope>,
    /// Who wants which events.
    pub registry: Registry,
    /// How long the content keys of tenants are used.
    pub key_reuse: KeyReuse,
    /// Which addresses may be called.
    pub guard: EgressGuard,
    /// Where jobs go.
    pub queue: Arc<dyn Queue>,
    /// Bytes of jobs that one event may make.
    pub max_event_bytes: usize,
    /// Bytes of jobs in the queue that one tenant may have.
    pub tenant_queued_bytes: usize,
    /// KiB of sealed events that may be on their way into the queue at once.
    pub sealing_budget: Semaphore,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Times events.
    pub clock: Clock,
}

impl Publisher {
    /// Seals an event once for each tenant that wants it, and queues a job for each endpoint, all in one step. When
    /// it returns, the queue's promise holds for every message that it names.
    ///
    /// # Errors
    /// The one tenant that is meant is over a limit, the payload fits nobody's envelope, or the queue is full or
    /// closed. Then nothing was queued.
    pub async fn publish(&self, event: Event<'_>, to: Audience) -> Result<Published, PublishError> {
        if let Some(tenant) = to.tenant() {
            self.charge(tenant)?;
        }
        let look_up = || self.recipients(&event.kind, to);
        let recipients = self.registry.look_up_or_refresh(look_up, |found| !found.is_empty()).await?;
        let event_id = event.repeat.as_ref().map_or_else(EventId::new, RepeatKey::event_id);
        let mut published = Published { event_id, messages: Vec::new(), refused: Vec::new() };
        let sealed_size = sealed_size(event.payload.get().len());
        let (recipients, over_limit) = self.within_limits(recipients, sealed_size).await?;
        published.refused = over_limit;
        if recipients.is_empty() {
            return refusal_of(&self.registry, published);
        }
        let _room = self.room_for(&recipients, sealed_size)?;
        let jobs = fan_out::seal(self, &recipients, &event, event_id, &mut published)?;
        if jobs.is_empty() {
            return refusal_of(&self.registry, published);
        }
        let count = u64::try_from(jobs.len()).unwrap_or(u64::MAX);
        self.queue.push(jobs).await?;
        self.metrics.published.inc_by(count);
        Ok(published)
    }

    fn recipients(&self, kind: &EventType, to: Audience) -> Vec<Recipient> {
        match to {
            Audience::Everyone => self.registry.recipients(kind, None),
            Audience::Tenant(id) => self.registry.recipients(kind, Some(id)),
            Audience::Endpoint(tenant, id) => self.registry.recipient(tenant, id).into_iter().collect(),
        }
    }

    /// Takes one publish from what a tenant may make this second.
    fn charge(&self, tenant: TenantId) -> Result<(), PublishError> {
        let Some(rate) = self.registry.publish_rate(tenant) else { return Ok(()) };
        rate.check().map_err(|not_until| PublishError::TooFast {
            per_second: not_until.quota().burst_size().get(),
            retry_after: not_until.wait_time_from(governor::clock::DefaultClock::default().now()),
        })
    }

    /// Leaves out the tenants that have as many jobs in the queue as they may.
    async fn within_limits(
        &self,
        recipients: Vec<Recipient>,
        sealed_size: usize,
    ) -> Result<(Vec<Recipient>, Vec<Refused>), PublishError> {
        let names: Vec<String> = recipients.iter().map(|recipient| recipient.tenant.id.to_string()).collect();
        let queued = self.queue.tenant_usage(&names).await?;
        let (mut within, mut refused) = (Vec::with_capacity(recipients.len()), Vec::new());
        for (recipient, queued) in recipients.into_iter().zip(queued) {
            let more = u64::try_from(recipient.endpoints.len()).unwrap_or(u64::MAX);
            let more_bytes = u64::try_from(sealed_size).unwrap_or(u64::MAX).saturating_mul(more);
            let most_jobs = self.registry.limits(&recipient.tenant).queued_jobs;
            let most_bytes = u64::try_from(self.tenant_queued_bytes).unwrap_or(u64::MAX);
            let reason = if queued.jobs.saturating_add(more) > u64::from(most_jobs) {
                RefusedReason::QueuedJobs
            } else if queued.bytes.saturating_add(more_bytes) > most_bytes {
                RefusedReason::QueuedBytes
            } else {
                within.push(recipient);
                continue;
            };
            refused.push(Refused { tenant: recipient.tenant.id, endpoint: None, reason });
        }
        Ok((within, refused))
    }

    /// A share of the memory for what is sealed and not queued yet: by the bytes that the queue will count.
    fn room_for(
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
        let room = self.sealing_budget.try_acquire_many(kib);
        room.map_err(|_| PublishError::Queue(QueueError::Full))
    }
}

/// About how many bytes a payload makes once it is sealed: base64 makes four bytes of three, and the envelope's other
/// parts are about 1 KiB at 4096 bits.
fn sealed_size(payload: usize) -> usize {
    payload.saturating_mul(4).div_ceil(3).saturating_add(1_024)
}

/// The error where everybody who wants an event is refused; nobody at all is none.
fn refusal_of(registry: &Registry, published: Published) -> Result<Published, PublishError> {
    let Some(refused) = published.refused.first() else { return Ok(published) };
    match refused.reason {
        RefusedReason::QueuedJobs => {
            let tenant = registry.tenant(&refused.tenant.into());
            let most = tenant.map_or(0, |tenant| registry.limits(&tenant).queued_jobs);
            Err(PublishError::TooManyQueued { most })
        }
        RefusedReason::QueuedBytes => Err(PublishError::TooManyBytesQueued),
        RefusedReason::TooLargeForEnvelope => Err(PublishError::TooLargeForEnvelope),
    }
}

/// What is sealed, whoever it is for.
#[derive(Clone, Copy)]
struct Plain<'a> {
    id: EventId,
    kind: &'a str,
    payload: &'a RawValue,
    timestamp: Timestamp,
}

impl Plain<'_> {
    fn seal_as_jwe(&self, sealer: &Sealer) -> Result<(ContentType, Bytes), PublishError> {
        let message = Message { id: self.id, kind: self.kind, timestamp: self.timestamp, data: self.payload };
        // The frame around the payload takes about 120 bytes: room for it saves growing.
        let mut plaintext = Vec::with_capacity(self.payload.get().len().saturating_add(192));
        serde_json::to_writer(&mut plaintext, &message)?;
        Ok((ContentType::Jose, sealer.seal(plaintext)?))
    }

    fn seal_as_the_scripts(&self, key: &PublicKey) -> Result<(ContentType, Bytes), LegacyError> {
        let body = legacy::seal(key, self.payload, self.timestamp.as_millisecond())?;
        Ok((ContentType::Json, body))
    }
}
