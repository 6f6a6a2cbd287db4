//! Dead letters and messages: read from every shard, since an id doesn't say where it is.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use super::RedisQueue;
use super::shards::Shard;
use crate::common::attempt::Attempt;
use crate::common::id::MessageId;
use crate::common::job::{ContentType, Job};
use crate::queue::dead::{
    CauseOfDeath, DeadCursor, DeadFilter, DeadLetter, DeadLetters, DeadPage, FullDeadLetter, MAX_BATCH,
    unknown_target,
};
use crate::queue::message::{MessageRecord, MessageState, Messages};
use crate::queue::{QueueError, record};

/// Dead letters that are read, or deleted, in one call.
const SLICE: usize = 250;

/// What is kept of a message, as the scripts give it.
struct Kept {
    id: MessageId,
    record: String,
    said: String,
    died: i64,
    bytes: u64,
    tenant: String,
}

/// What `message.lua` answers.
struct Known {
    state: String,
    kept: Kept,
    attempts: Vec<Attempt>,
    body: Option<Bytes>,
}

impl Kept {
    /// Its job without the body, where the record can be read.
    fn job(&self) -> Option<Job> {
        record::decode(&self.record, Bytes::new()).ok()
    }

    /// As a dead letter: a damaged one too, as far as it can be.
    fn letter(self) -> DeadLetter {
        let said: CauseOfDeath =
            serde_json::from_str(&self.said).unwrap_or_else(|_| CauseOfDeath::unreadable());
        let (tenant, target, published_at) = match self.job() {
            Some(job) => (job.tenant, Some(job.target), job.published_at),
            None => (self.tenant.as_str().into(), None, Timestamp::UNIX_EPOCH),
        };
        DeadLetter {
            id: self.id,
            tenant,
            target: target.unwrap_or_else(unknown_target),
            cause: said.cause,
            detail: said.detail,
            attempts: said.attempts,
            published_at,
            died_at: Timestamp::from_millisecond(self.died).unwrap_or_default(),
            bytes: self.bytes,
        }
    }
}

impl RedisQueue {
    /// Up to `limit` dead letters that match after `after`, the longest dead first, each with its shard.
    async fn matching(
        &self,
        filter: &DeadFilter,
        after: Option<DeadCursor>,
        limit: usize,
    ) -> Result<Vec<(usize, DeadLetter)>, QueueError> {
        let mut found = Vec::new();
        for shard in &self.shared.shards {
            let letters = match filter.id {
                None => self.matching_in(shard, filter, after, limit).await?,
                Some(id) => {
                    let known = self.known(shard, id, true).await?.map(|known| known.kept.letter());
                    let is_meant = |letter: &DeadLetter| {
                        filter.matches(letter) && after.is_none_or(|after| letter.cursor() > after)
                    };
                    known.filter(is_meant).into_iter().collect()
                }
            };
            found.extend(letters.into_iter().map(|letter| (shard.index, letter)));
        }
        found.sort_by_key(|(_, letter)| letter.cursor());
        found.truncate(limit);
        Ok(found)
    }

    async fn matching_in(
        &self,
        shard: &Shard,
        filter: &DeadFilter,
        mut after: Option<DeadCursor>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, QueueError> {
        let mut found = Vec::new();
        while found.len() < limit {
            let slice = self.slice(shard, filter, after).await?;
            let Some(last) = slice.last().map(DeadLetter::cursor) else { break };
            let is_last = slice.len() < SLICE;
            found.extend(slice.into_iter().filter(|letter| filter.matches(letter)));
            if is_last {
                break;
            }
            after = Some(last);
        }
        found.truncate(limit);
        Ok(found)
    }

    /// The next of a shard in the filter's time, of its tenant; the other conditions are the caller's.
    async fn slice(
        &self,
        shard: &Shard,
        filter: &DeadFilter,
        after: Option<DeadCursor>,
    ) -> Result<Vec<DeadLetter>, QueueError> {
        type Row = (String, f64, String, String, u64, String);
        let since = filter.since.into_iter().chain(after.map(|after| after.died_at)).max();
        let rows: Vec<Row> = self
            .shared
            .call(&self.shared.scripts.deaths, shard, |command| {
                command.arg(tenant_of(filter)).arg(bound(since, "-inf")).arg(until(filter));
                match after {
                    None => command.arg("").arg(""),
                    Some(after) => command.arg(after.died_at.as_millisecond()).arg(after.id.to_string()),
                };
                command.arg(SLICE);
            })
            .await?;
        let kept = rows.into_iter().filter_map(|(id, died, record, said, bytes, tenant)| {
            #[expect(clippy::cast_possible_truncation, reason = "whole milliseconds, as they were written")]
            let died = died as i64;
            Some(Kept { id: id.parse().ok()?, record, said, died, bytes, tenant })
        });
        Ok(kept.map(Kept::letter).collect())
    }

    async fn known(&self, shard: &Shard, id: MessageId, body: bool) -> Result<Option<Known>, QueueError> {
        type Row = (String, String, String, String, Option<i64>, Option<u64>, String, Option<Vec<u8>>);
        let shared = &self.shared;
        let rows: Vec<redis::Value> = shared
            .call(&shared.scripts.message, shard, |command| {
                command.arg(id.to_string()).arg(u8::from(body));
            })
            .await?;
        if rows.is_empty() {
            return Ok(None);
        }
        let row: Row = redis::from_redis_value(redis::Value::Array(rows))
            .map_err(|error| super::unavailable(redis::RedisError::from(error).into()))?;
        let (state, record, attempts, said, died, bytes, tenant, body) = row;
        let kept = Kept { id, record, said, died: died.unwrap_or(0), bytes: bytes.unwrap_or(0), tenant };
        let attempts = attempts.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Ok(Some(Known { state, kept, attempts, body: body.map(Bytes::from) }))
    }

    /// In batches of one shard each: `by_shard` gives the ids of a shard, the longest dead first.
    fn by_shard(&self, found: Vec<(usize, DeadLetter)>) -> Vec<(&Shard, Vec<String>)> {
        let ids_of = |shard: &Shard| {
            found
                .iter()
                .filter(|(index, _)| *index == shard.index)
                .map(|(_, letter)| letter.id.to_string())
                .collect()
        };
        let shards = self.shared.shards.iter().map(|shard| (shard, ids_of(shard)));
        shards.filter(|(_, ids): &(_, Vec<String>)| !ids.is_empty()).collect()
    }
}

fn tenant_of(filter: &DeadFilter) -> String {
    filter.tenant.map(|tenant| tenant.to_string()).unwrap_or_default()
}

/// A time as a bound: the millisecond that it is in or that follows it, since deaths are on whole ones.
fn bound(time: Option<Timestamp>, otherwise: &str) -> String {
    let of = |time: Timestamp| {
        let microseconds = time.as_microsecond();
        let up = i64::from(microseconds.checked_rem_euclid(1_000) != Some(0));
        microseconds.div_euclid(1_000).saturating_add(up).to_string()
    };
    time.map_or_else(|| otherwise.to_owned(), of)
}

/// Excluded itself.
fn until(filter: &DeadFilter) -> String {
    match filter.until {
        None => "+inf".to_owned(),
        until => format!("({}", bound(until, "")),
    }
}

#[async_trait]
impl DeadLetters for RedisQueue {
    async fn dead_letters(
        &self,
        filter: &DeadFilter,
        after: Option<DeadCursor>,
        limit: usize,
    ) -> Result<DeadPage, QueueError> {
        let mut found = self.matching(filter, after, limit.saturating_add(1)).await?;
        let more = found.len() > limit;
        found.truncate(limit);
        Ok(DeadPage { letters: found.into_iter().map(|(_, letter)| letter).collect(), more })
    }

    async fn dead_letter(&self, id: MessageId) -> Result<Option<FullDeadLetter>, QueueError> {
        for shard in &self.shared.shards {
            if let Some(Known { kept, attempts, body, .. }) = self.known(shard, id, true).await? {
                let job = kept.job();
                let content_type = job.map_or(ContentType::default(), |job| job.content_type);
                return Ok(Some(FullDeadLetter { letter: kept.letter(), content_type, body, attempts }));
            }
        }
        Ok(None)
    }

    async fn count_dead(&self, filter: &DeadFilter) -> Result<u64, QueueError> {
        let mut count = 0_u64;
        let by_time_alone = DeadFilter {
            tenant: filter.tenant,
            since: filter.since,
            until: filter.until,
            ..DeadFilter::default()
        };
        if *filter == by_time_alone {
            for shard in &self.shared.shards {
                let here: u64 = self
                    .shared
                    .call(&self.shared.scripts.count_dead, shard, |command| {
                        command.arg(tenant_of(filter)).arg(bound(filter.since, "-inf")).arg(until(filter));
                    })
                    .await?;
                count = count.saturating_add(here);
            }
            return Ok(count);
        }
        let mut after = None;
        loop {
            let found = self.matching(filter, after, MAX_BATCH).await?;
            count = count.saturating_add(u64::try_from(found.len()).unwrap_or(u64::MAX));
            match found.last() {
                Some((_, last)) if found.len() == MAX_BATCH => after = Some(last.cursor()),
                _ => return Ok(count),
            }
        }
    }

    async fn replay(&self, filter: &DeadFilter, limit: usize) -> Result<u64, QueueError> {
        if self.shared.is_closed() {
            return Err(QueueError::Closed);
        }
        let found = self.matching(filter, None, limit.min(MAX_BATCH)).await?;
        let shared = &self.shared;
        let totals = shared.shards.iter().map(Shard::totals).fold((0_u64, 0_u64), |sum, (jobs, bytes)| {
            (sum.0.saturating_add(jobs), sum.1.saturating_add(bytes))
        });
        let mut replayed = 0_u64;
        for (shard, ids) in self.by_shard(found) {
            let most = shared.room_of(shard, totals);
            let here: i64 = shared
                .call(&shared.scripts.replay, shard, |command| {
                    command.arg(&shared.channel).arg(format!(":{}", shard.index));
                    command.arg(most.0).arg(most.1).arg(&ids);
                })
                .await?;
            let Ok(here) = u64::try_from(here) else {
                // What another shard has taken is told.
                if replayed == 0 {
                    return Err(QueueError::Full);
                }
                break;
            };
            replayed = replayed.saturating_add(here);
            shard.look_again();
        }
        shared.changed.notify_waiters();
        Ok(replayed)
    }

    async fn purge(&self, filter: &DeadFilter, limit: usize) -> Result<u64, QueueError> {
        let found = self.matching(filter, None, limit.min(MAX_BATCH)).await?;
        let shared = &self.shared;
        let mut purged = 0_u64;
        for (shard, ids) in self.by_shard(found) {
            for ids in ids.chunks(SLICE) {
                let here: u64 =
                    shared.call(&shared.scripts.purge, shard, |command| _ = command.arg(ids)).await?;
                purged = purged.saturating_add(here);
            }
        }
        Ok(purged)
    }
}

#[async_trait]
impl Messages for RedisQueue {
    async fn message(&self, id: MessageId) -> Result<Option<MessageRecord>, QueueError> {
        let mut best: Option<Known> = None;
        for shard in &self.shared.shards {
            best = best.or(self.known(shard, id, false).await?);
        }
        let Some(Known { state, kept, attempts, .. }) = best else { return Ok(None) };
        let job = kept.job();
        let letter = kept.letter();
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
