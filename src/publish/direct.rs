//! Direct mode: events that name their URL themselves, as the Deno scripts publish them.

use jiff::Timestamp;
use serde_json::value::RawValue;

use super::{Envelope, Plain, PublishError, Published, PublishedMessage, Publisher};
use crate::common::endpoint_url::EndpointUrl;
use crate::common::id::{EventId, MessageId};
use crate::common::job::{Job, Target, TraceContext};

/// The event type of what is published directly without one.
pub const DIRECT_TYPE: &str = "webhook";

/// The tenant of what is published directly without a `target`, as the scripts have it.
pub const DIRECT_TENANT: &str = "customer-1";

/// An event that names its URL itself.
pub struct DirectEvent<'a> {
    /// Where it goes.
    pub url: EndpointUrl,
    /// What is delivered, byte for byte.
    pub payload: &'a RawValue,
    /// The event type.
    pub kind: &'a str,
    /// The tenant's name.
    pub target: &'a str,
    /// The trace it belongs to.
    pub trace: TraceContext,
}

impl Publisher {
    /// Seals a direct event with `envelope` and queues it. When it returns, the queue's promise holds.
    ///
    /// # Errors
    /// The URL is refused, the payload doesn't fit the legacy envelope, or the queue is full or closed.
    pub async fn publish_direct(
        &self,
        event: DirectEvent<'_>,
        envelope: &Envelope,
    ) -> Result<Published, PublishError> {
        self.guard.check_url(&event.url)?;
        let (id, event_id) = (MessageId::new(), EventId::new());
        // Customers compare it with their clocks; the queue's own, below, only measures.
        let timestamp = Timestamp::now();
        let plain = Plain { id: event_id, kind: event.kind, payload: event.payload, timestamp };
        let (content_type, body) = match envelope {
            Envelope::Jwe(sealer) => plain.seal_as_jwe(sealer)?,
            Envelope::RsaOaep(key) => plain.seal_as_the_scripts(key)?,
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
        self.queue.push(vec![job]).await?;
        self.metrics.published.inc();
        let message = PublishedMessage { id, tenant: None, endpoint: None };
        Ok(Published { event_id, messages: vec![message], refused: Vec::new() })
    }
}
