//! Direct mode: events that name their own URL, as the Deno scripts publish them.

use jiff::Timestamp;
use serde_json::value::RawValue;

use super::seal::PlainEvent;
use super::{DirectSealer, PublishError, PublishOutcome, Publisher, QueuedMessage};
use crate::common::endpoint_url::EndpointUrl;
use crate::common::id::{EventId, MessageId};
use crate::common::job::{Job, Target, TraceContext};

/// Event type of a direct-mode event without a `type`.
pub const DIRECT_TYPE: &str = "webhook";

/// Tenant of a direct-mode event without a `target`. The Deno scripts have the same default.
pub const DIRECT_TENANT: &str = "customer-1";

/// An event that names its own URL.
pub struct DirectEvent<'a> {
    /// URL that the event is delivered to.
    pub url: EndpointUrl,
    /// Payload as JSON, delivered byte for byte.
    pub payload: &'a RawValue,
    /// Event type.
    pub kind: &'a str,
    /// Name of the tenant.
    pub target: &'a str,
    /// Trace context of the publish request.
    pub trace: TraceContext,
}

impl Publisher {
    /// Seals a direct-mode event with `sealer` and queues it. When this returns `Ok`, the queue's durability promise
    /// holds for the message.
    ///
    /// # Errors
    /// The egress guard refuses the URL, the payload is too large for the rsa-oaep envelope, or the queue is full,
    /// closed or unreachable.
    pub async fn publish_direct(
        &self,
        event: DirectEvent<'_>,
        sealer: &DirectSealer,
    ) -> Result<PublishOutcome, PublishError> {
        self.guard.check_url(&event.url)?;
        let (id, event_id) = (MessageId::new(), EventId::new());
        // Customers compare this timestamp with their own clocks, so it is wall-clock time. `self.clock`, used below,
        // only has to be consistent within the queue.
        let timestamp = Timestamp::now();
        let plain = PlainEvent { id: event_id, kind: event.kind, payload: event.payload, timestamp };
        let (content_type, body) = match sealer {
            DirectSealer::Jwe(sealer) => plain.seal_as_jwe(sealer)?,
            DirectSealer::RsaOaep(key) => plain.seal_as_rsa_oaep(key)?,
        };
        let target = Target::Url(event.url);
        let job = Job {
            id,
            tenant: event.target.into(),
            lane: target.lane(),
            ordered: false,
            target,
            content_type,
            body,
            published_at: self.clock.now(),
            trace: event.trace,
        };
        let messages = vec![QueuedMessage::of(&job)];
        self.queue.push(vec![job]).await?;
        self.metrics.published.inc();
        Ok(PublishOutcome { event_id, messages, refusals: Vec::new() })
    }
}
