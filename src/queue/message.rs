//! The state of each message and the results of its attempts.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use super::error::QueueError;
use crate::common::attempt::Attempt;
use crate::common::id::MessageId;
use crate::common::job::Target;
use crate::common::retry::CauseKind;

/// The messages of a queue: every queued message, every dead letter, and the latest delivered messages.
#[async_trait]
pub trait Messages: Send + Sync {
    /// Returns the record of a message, if the queue knows it.
    async fn message(&self, id: MessageId) -> Result<Option<MessageRecord>, QueueError>;
}

/// Record of one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageRecord {
    /// Message id, the same on every attempt.
    pub id: MessageId,
    /// Id of the tenant; in direct mode the publisher's `target`.
    pub tenant: Arc<str>,
    /// Target of the message.
    pub target: Target,
    /// Time of publishing.
    pub published_at: Timestamp,
    /// State of the message.
    pub state: MessageState,
    /// The latest attempts, in order.
    pub attempts: Vec<Attempt>,
}

/// State of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageState {
    /// The message waits or is being delivered.
    Queued,
    /// The customer has accepted the message.
    Delivered,
    /// The message became a dead letter for that cause.
    Dead(CauseKind),
}
