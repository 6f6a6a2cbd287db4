//! Dead letters.

use async_trait::async_trait;

use super::KafkaQueue;
use crate::common::id::MessageId;
use crate::queue::QueueError;
use crate::queue::dead::{DeadBody, DeadCursor, DeadFilter, DeadLetters, DeadPage};
use crate::queue::message::{MessageRecord, Messages};

#[async_trait]
impl DeadLetters for KafkaQueue {
    async fn dead_letters(
        &self,
        _filter: &DeadFilter,
        _after: Option<DeadCursor>,
        _limit: usize,
    ) -> Result<DeadPage, QueueError> {
        Ok(DeadPage::default())
    }

    async fn dead_letter(&self, _id: MessageId) -> Result<Option<DeadBody>, QueueError> {
        Ok(None)
    }

    async fn count_dead(&self, _filter: &DeadFilter) -> Result<u64, QueueError> {
        Ok(0)
    }

    async fn replay(&self, _filter: &DeadFilter, _limit: usize) -> Result<u64, QueueError> {
        Ok(0)
    }

    async fn purge(&self, _filter: &DeadFilter, _limit: usize) -> Result<u64, QueueError> {
        Ok(0)
    }
}

#[async_trait]
impl Messages for KafkaQueue {
    async fn message(&self, _id: MessageId) -> Result<Option<MessageRecord>, QueueError> {
        Ok(None)
    }
}
