//! Dead letters: listed, replayed and purged over all shards.

use async_trait::async_trait;
use jiff::Timestamp;

use super::RedisQueue;
use super::message::{FoundMessage, StoredMessage};
use super::sharded::ShardedQueue;
use super::shards::Shard;
use crate::common::id::MessageId;
use crate::common::job::ContentType;
use crate::queue::QueueError;
use crate::queue::dead::{
    DeadCursor, DeadFilter, DeadLetter, DeadLetters, DeadPage, FullDeadLetter, MAX_BATCH,
};

/// Maximum dead letters read or deleted per call. Redis blocks all other clients while the script runs.
const MAX_LETTERS_PER_CALL: usize = 250;

impl ShardedQueue {
    /// Returns up to `limit` matching dead letters after the cursor, the oldest death first, each with the index of its
    /// shard.
    async fn matching(
        &self,
        filter: &DeadFilter,
        after: Option<DeadCursor>,
        limit: usize,
    ) -> Result<Vec<(usize, DeadLetter)>, QueueError> {
        let mut found = Vec::new();
        for shard in &self.shards {
            let letters = match filter.id {
                None => self.matching_in(shard, filter, after, limit).await?,
                Some(id) => {
                    let message = self.message_in(shard, id, true).await?;
                    let letter = message.map(|message| message.stored.into_dead_letter());
                    let matches = |letter: &DeadLetter| {
                        filter.matches(letter) && after.is_none_or(|after| letter.cursor() > after)
                    };
                    letter.filter(matches).into_iter().collect()
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
            let page = self.page_in(shard, filter, after).await?;
            let Some(last) = page.last().map(DeadLetter::cursor) else { break };
            let is_last = page.len() < MAX_LETTERS_PER_CALL;
            found.extend(page.into_iter().filter(|letter| filter.matches(letter)));
            if is_last {
                break;
            }
            after = Some(last);
        }
        found.truncate(limit);
        Ok(found)
    }

    /// Reads the next page of a shard. The page is filtered by tenant and time of death; the caller checks the other
    /// conditions.
    async fn page_in(
        &self,
        shard: &Shard,
        filter: &DeadFilter,
        after: Option<DeadCursor>,
    ) -> Result<Vec<DeadLetter>, QueueError> {
        type Row = (String, f64, String, String, u64, String);
        let since = filter.since.into_iter().chain(after.map(|after| after.died_at)).max();
        let rows: Vec<Row> = self
            .call(&self.scripts.list_dead, shard, |command| {
                command.arg(tenant_arg(filter)).arg(since_arg(since)).arg(until_arg(filter));
                match after {
                    None => command.arg("").arg(""),
                    Some(after) => command.arg(after.died_at.as_millisecond()).arg(after.id.to_string()),
                };
                command.arg(MAX_LETTERS_PER_CALL);
            })
            .await?;
        let stored = rows.into_iter().filter_map(|(id, died, record, cause, bytes, tenant)| {
            #[expect(clippy::cast_possible_truncation, reason = "scores are whole milliseconds")]
            let died = died as i64;
            Some(StoredMessage { id: id.parse().ok()?, record, cause, died, bytes, tenant })
        });
        Ok(stored.map(StoredMessage::into_dead_letter).collect())
    }

    /// Groups the ids of dead letters by shard and keeps their order.
    fn ids_by_shard(&self, found: &[(usize, DeadLetter)]) -> Vec<(&Shard, Vec<String>)> {
        let ids_of = |shard: &Shard| -> Vec<String> {
            let letters = found.iter().filter(|(index, _)| *index == shard.index);
            letters.map(|(_, letter)| letter.id.to_string()).collect()
        };
        let shards = self.shards.iter().map(|shard| (shard, ids_of(shard)));
        shards.filter(|(_, ids)| !ids.is_empty()).collect()
    }
}

fn tenant_arg(filter: &DeadFilter) -> String {
    filter.tenant.map(|tenant| tenant.to_string()).unwrap_or_default()
}

/// Rounds a time up to whole milliseconds, because times of death are whole ones.
fn round_up_to_ms(time: Timestamp) -> i64 {
    let microseconds = time.as_microsecond();
    let up = i64::from(microseconds.checked_rem_euclid(1_000) != Some(0));
    microseconds.div_euclid(1_000).saturating_add(up)
}

/// Returns the lower bound of a range of scores.
fn since_arg(since: Option<Timestamp>) -> String {
    since.map_or_else(|| "-inf".to_owned(), |since| round_up_to_ms(since).to_string())
}

/// Returns the upper bound of a range of scores. The bound itself is excluded.
fn until_arg(filter: &DeadFilter) -> String {
    filter.until.map_or_else(|| "+inf".to_owned(), |until| format!("({}", round_up_to_ms(until)))
}

#[async_trait]
impl DeadLetters for RedisQueue {
    async fn dead_letters(
        &self,
        filter: &DeadFilter,
        after: Option<DeadCursor>,
        limit: usize,
    ) -> Result<DeadPage, QueueError> {
        let mut found = self.sharded.matching(filter, after, limit.saturating_add(1)).await?;
        let more = found.len() > limit;
        found.truncate(limit);
        Ok(DeadPage { letters: found.into_iter().map(|(_, letter)| letter).collect(), more })
    }

    async fn dead_letter(&self, id: MessageId) -> Result<Option<FullDeadLetter>, QueueError> {
        for shard in &self.sharded.shards {
            let found = self.sharded.message_in(shard, id, true).await?;
            if let Some(FoundMessage { stored, attempts, body, .. }) = found {
                let content_type = stored.job().map_or(ContentType::default(), |job| job.content_type);
                let letter = stored.into_dead_letter();
                return Ok(Some(FullDeadLetter { letter, content_type, body, attempts }));
            }
        }
        Ok(None)
    }

    async fn count_dead(&self, filter: &DeadFilter) -> Result<u64, QueueError> {
        let mut count = 0_u64;
        let indexed_conditions = DeadFilter {
            tenant: filter.tenant,
            since: filter.since,
            until: filter.until,
            ..DeadFilter::default()
        };
        if *filter == indexed_conditions {
            for shard in &self.sharded.shards {
                let in_shard: u64 = self
                    .sharded
                    .call(&self.sharded.scripts.count_dead, shard, |command| {
                        command.arg(tenant_arg(filter)).arg(since_arg(filter.since)).arg(until_arg(filter));
                    })
                    .await?;
                count = count.saturating_add(in_shard);
            }
            return Ok(count);
        }
        let mut after = None;
        loop {
            let found = self.sharded.matching(filter, after, MAX_BATCH).await?;
            count = count.saturating_add(u64::try_from(found.len()).unwrap_or(u64::MAX));
            match found.last() {
                Some((_, last)) if found.len() == MAX_BATCH => after = Some(last.cursor()),
                _ => return Ok(count),
            }
        }
    }

    async fn replay(&self, filter: &DeadFilter, limit: usize) -> Result<u64, QueueError> {
        let sharded = &self.sharded;
        if sharded.is_closed() {
            return Err(QueueError::Closed);
        }
        let found = sharded.matching(filter, None, limit.min(MAX_BATCH)).await?;
        let totals = sharded.totals();
        let mut replayed = 0_u64;
        for (shard, ids) in sharded.ids_by_shard(&found) {
            let limits = sharded.limits_of(shard, totals);
            let answer: i64 = sharded
                .call(&sharded.scripts.replay, shard, |command| {
                    sharded.add_wake_up_of_all(command, shard).arg(limits.jobs).arg(limits.bytes).arg(&ids);
                })
                .await?;
            let Ok(in_shard) = u64::try_from(answer) else {
                // The shard has no room. Letters that other shards replayed are still reported.
                if replayed == 0 {
                    return Err(QueueError::Full);
                }
                break;
            };
            replayed = replayed.saturating_add(in_shard);
            shard.request_poll();
        }
        sharded.changed.notify_waiters();
        Ok(replayed)
    }

    async fn purge(&self, filter: &DeadFilter, limit: usize) -> Result<u64, QueueError> {
        let sharded = &self.sharded;
        let found = sharded.matching(filter, None, limit.min(MAX_BATCH)).await?;
        let mut purged = 0_u64;
        for (shard, ids) in sharded.ids_by_shard(&found) {
            for ids in ids.chunks(MAX_LETTERS_PER_CALL) {
                let in_shard: u64 =
                    sharded.call(&sharded.scripts.purge, shard, |command| _ = command.arg(ids)).await?;
                purged = purged.saturating_add(in_shard);
            }
        }
        Ok(purged)
    }
}
