//! Publishing: event in, sealed job in the queue, ids out.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::common::clock::Clock;
use crate::common::crypto::envelope::{SealError, Sealer};
use crate::common::crypto::keys::PublicKey;
use crate::common::crypto::legacy::{self, LegacyError};
use crate::common::endpoint_url::EndpointUrl;
use crate::common::job::{ContentType, EventId, Job, Lane, Message, MessageId, TraceContext};
use crate::common::metrics::Metrics;
use crate::deliver::egress::{EgressGuard, Refusal};
use crate::queue::{Queue, QueueError};

/// The event type of what is published directly without one.
pub const DIRECT_TYPE: &str = "webhook";

/// The tenant of what is published directly without a `target`, as the scripts have it.
pub const DIRECT_TENANT: &str = "customer-1";

/// How payloads are sealed.
#[derive(Debug)]
pub enum Envelope {
    /// Flattened JWE.
    Jwe(Sealer),
    /// The Deno scripts' format.
    RsaOaep(PublicKey),
}

/// An event that names its URL itself, as the scripts publish it.
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

/// What a publisher is told.
#[derive(Debug, Serialize)]
pub struct Published {
    /// The event's id.
    pub event_id: EventId,
    /// One message an endpoint.
    pub messages: Vec<PublishedMessage>,
}

/// One message of an event.
#[derive(Debug, Serialize)]
pub struct PublishedMessage {
    /// The `webhook-id` of its deliveries.
    pub id: MessageId,
}

/// Why an event wasn't published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The URL may not be called.
    #[error("url refused")]
    Refused(#[from] Refusal),
    /// The legacy envelope can't hold it.
    #[error("legacy envelope")]
    Legacy(#[from] LegacyError),
    /// This machine can't seal.
    #[error("seal the payload")]
    Seal(#[from] SealError),
    /// The payload isn't JSON that can be written again, which its parser rules out.
    #[error("write the message")]
    Write(#[from] serde_json::Error),
    /// The queue refused it.
    #[error("queue the event")]
    Queue(#[from] QueueError),
}

/// Publishes events.
pub struct Publisher {
    /// How payloads are sealed.
    pub envelope: Envelope,
    /// Which addresses may be called.
    pub guard: EgressGuard,
    /// Where jobs go.
    pub queue: Arc<dyn Queue>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Times events.
    pub clock: Clock,
}

impl Publisher {
    /// Seals a direct event and queues it. When it returns, the queue's promise holds.
    ///
    /// # Errors
    /// The URL is refused, the payload doesn't fit the legacy envelope, or the queue is full or closed.
    pub async fn publish_direct(&self, event: DirectEvent<'_>) -> Result<Published, PublishError> {
        self.guard.check_url(&event.url)?;
        let id = MessageId::new();
        // Customers compare it with their clocks; the queue's own, below, only measures.
        let (content_type, body) = self.seal(id, &event, Timestamp::now())?;
        let job = Job {
            id,
            tenant: event.target.into(),
            lane: Lane::new(&event.url.uri().to_string()),
            url: event.url,
            content_type,
            body,
            published_at: self.clock.now(),
            trace: event.trace,
        };
        self.queue.push(vec![job]).await?;
        self.metrics.published.inc();
        Ok(Published { event_id: EventId::new(), messages: vec![PublishedMessage { id }] })
    }

    fn seal(
        &self,
        id: MessageId,
        event: &DirectEvent<'_>,
        timestamp: Timestamp,
    ) -> Result<(ContentType, Bytes), PublishError> {
        match &self.envelope {
            Envelope::Jwe(sealer) => {
                let message = Message { id, kind: event.kind, timestamp, data: event.payload };
                // The frame around the payload takes about 120 bytes: room for it saves growing.
                let mut plaintext = Vec::with_capacity(event.payload.get().len().saturating_add(192));
                serde_json::to_writer(&mut plaintext, &message)?;
                Ok((ContentType::Jose, sealer.seal(plaintext)?))
            }
            Envelope::RsaOaep(key) => {
                Ok((ContentType::Json, legacy::seal(key, event.payload, timestamp.as_millisecond())?))
            }
        }
    }
}
