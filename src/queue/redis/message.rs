//! Messages: reads a message in any state.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use super::RedisQueue;
use super::error::unavailable;
use super::sharded::ShardedQueue;
use super::shards::Shard;
use crate::common::attempt::Attempt;
use crate::common::id::MessageId;
use crate::common::job::Job;
use crate::queue::dead::{CauseOfDeath, DeadLetter, unknown_target};
use crate::queue::message::{MessageRecord, MessageState, Messages};
use crate::queue::{QueueError, record};

/// The stored fields of a message, without its body.
pub(super) struct StoredMessage {
    pub(super) id: MessageId,
    pub(super) record: String,
    /// Cause of death as JSON.
    pub(super) cause: String,
    /// Time of death, in ms.
    pub(super) died: i64,
    pub(super) bytes: u64,
    pub(super) tenant: String,
}

/// The answer of `message.lua`.
pub(super) struct FoundMessage {
    pub(super) state: String,
    pub(super) stored: StoredMessage,
    pub(super) attempts: Vec<Attempt>,
    pub(super) body: Option<Bytes>,
}

impl StoredMessage {
    /// Decodes the job, with an empty body. Returns `None` if the record is damaged.
    pub(super) fn job(&self) -> Option<Job> {
        record::decode(&self.record, Bytes::new()).ok()
    }

    /// Converts the message into a dead letter. Fields that are damaged get substitutes.
    pub(super) fn into_dead_letter(self) -> DeadLetter {
        let cause: CauseOfDeath =
            serde_json::from_str(&self.cause).unwrap_or_else(|_| CauseOfDeath::unreadable());
        let (tenant, target, published_at) = match self.job() {
            Some(job) => (job.tenant, job.target, job.published_at),
            None => (self.tenant.as_str().into(), unknown_target(), Timestamp::UNIX_EPOCH),
        };
        DeadLetter {
            id: self.id,
            tenant,
            target,
            cause: cause.cause,
            detail: cause.detail,
            attempts: cause.attempts,
            published_at,
            died_at: Timestamp::from_millisecond(self.died).unwrap_or_default(),
            bytes: self.bytes,
        }
    }
}

impl ShardedQueue {
    /// Reads a message from one shard. With `with_body` only dead letters are found.
    pub(super) async fn message_in(
        &self,
        shard: &Shard,
        id: MessageId,
        with_body: bool,
    ) -> Result<Option<FoundMessage>, QueueError> {
        type Row = (String, String, String, String, Option<i64>, Option<u64>, String, Option<Vec<u8>>);
        let row: Vec<redis::Value> = self
            .call(&self.scripts.message, shard, |command| {
                command.arg(id.to_string()).arg(u8::from(with_body));
            })
            .await?;
        if row.is_empty() {
            return Ok(None);
        }
        let row: Row = redis::from_redis_value(redis::Value::Array(row))
            .map_err(|error| unavailable(redis::RedisError::from(error).into()))?;
        let (state, record, attempts, cause, died, bytes, tenant, body) = row;
        let (died, bytes) = (died.unwrap_or(0), bytes.unwrap_or(0));
        let stored = StoredMessage { id, record, cause, died, bytes, tenant };
        let attempts = attempts.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Ok(Some(FoundMessage { state, stored, attempts, body: body.map(Bytes::from) }))
    }
}

#[async_trait]
impl Messages for RedisQueue {
    async fn message(&self, id: MessageId) -> Result<Option<MessageRecord>, QueueError> {
        let mut found: Option<FoundMessage> = None;
        // The id doesn't tell the shard.
        for shard in &self.sharded.shards {
            found = found.or(self.sharded.message_in(shard, id, false).await?);
        }
        let Some(FoundMessage { state, stored, attempts, .. }) = found else { return Ok(None) };
        let job = stored.job();
        let letter = stored.into_dead_letter();
        let state = match state.as_str() {
            "job" => MessageState::Queued,
            "dead" => MessageState::Dead(letter.cause),
            _ => MessageState::Delivered,
        };
        Ok(Some(MessageRecord {
            id,
            tenant: job.as_ref().map_or(Arc::clone(&letter.tenant), |job| Arc::clone(&job.tenant)),
            target: letter.target,
            published_at: letter.published_at,
            state,
            attempts,
        }))
    }
}
