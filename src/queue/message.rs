//! What is known of one message: where it stands and what its attempts came to.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use super::error::QueueError;
use crate::common::attempt::Attempt;
use crate::common::id::MessageId;
use crate::common::job::Target;
use crate::common::retry::CauseKind;

/// Knows every message that is queued or dead, and the latest that were delivered.
#[async_trait]
pub trait Messages: Send + Sync {
    /// What is known of a message, if anything is.
    async fn message(&self, id: MessageId) -> Result<Option<MessageRecord>, QueueError>;
}

/// What is known of one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageRecord {
    /// The same as on every attempt.
    pub id: MessageId,
    /// The id of the tenant it belongs to; in direct mode the publisher's `target`.
    pub tenant: Arc<str>,
    /// Where it goes.
    pub target: Target,
    /// When it was published.
    pub published_at: Timestamp,
    /// Where it stands.
    pub state: MessageState,
    /// Its latest attempts, in order.
    pub attempts: Vec<Attempt>,
}

/// Where a message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageState {
    /// It waits, or is being delivered.
    Queued,
    /// The customer has it.
    Delivered,
    /// It was given up, for that cause.
    Dead(CauseKind),
}
