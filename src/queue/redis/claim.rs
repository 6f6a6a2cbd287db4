//! Claims: leases jobs from the shards.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::Value;

use super::answer::{ClaimAnswer, LeasedJob};
use super::claimed::ClaimedLeases;
use super::sharded::ShardedQueue;
use super::shards::{Shard, microseconds};
use crate::common::retry::Cause;
use crate::queue::{Lease, LeaseId, QueueError, record};

/// Maximum jobs leased per call. Redis blocks all other clients while the script runs.
const MAX_JOBS_PER_CALL: usize = 500;

/// Delay before a failed shard is retried.
const FAILED_SHARD_DELAY: Duration = Duration::from_secs(1);

/// Time after the request within which Redis may lease jobs.
///
/// It is shorter than the time for which the answer is awaited. If the request was delayed for longer, Redis leases
/// nothing, because the leases would reach no server.
const CLAIM_TIME: Duration = Duration::from_millis(2_500);

impl ShardedQueue {
    /// Leases up to `max` jobs that are due, from the shards that may have some. Doesn't wait for jobs.
    pub(super) async fn claim_now(self: Arc<Self>, max: usize) -> Result<ClaimedLeases, QueueError> {
        let mut claimed = ClaimedLeases::new(Arc::clone(&self));
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let first = turn.checked_rem(self.shards.len()).unwrap_or(0);
        let mut failure = None;
        for shard in self.shards.iter().cycle().skip(first).take(self.shards.len()) {
            let wanted = max.min(MAX_JOBS_PER_CALL).saturating_sub(claimed.leases.len());
            if wanted == 0 || self.is_closed() {
                break;
            }
            if !shard.begin_poll() {
                continue;
            }
            match self.claim_from(shard, wanted, turn).await {
                Ok(answer) => {
                    shard.end_poll(answer.wait, answer.slots_short, answer.jobs.len() >= wanted);
                    for job in answer.jobs {
                        claimed.leases.extend(self.lease(shard, job).await);
                    }
                }
                Err(error) => {
                    shard.end_poll(Some(FAILED_SHARD_DELAY), true, self.shards.len() == 1);
                    failure = Some(error);
                    // The leases are delivered now. The other shards might be unavailable too.
                    if !claimed.is_empty() {
                        break;
                    }
                }
            }
        }
        match failure {
            Some(error) if claimed.is_empty() => Err(error),
            _ => Ok(claimed),
        }
    }

    /// Reads the totals and the clock of each shard.
    pub(super) async fn fetch_totals(&self) -> Result<(), QueueError> {
        for shard in &self.shards {
            self.claim_from(shard, 0, 0).await?;
        }
        Ok(())
    }

    async fn claim_from(&self, shard: &Shard, max: usize, turn: usize) -> Result<ClaimAnswer, QueueError> {
        let used = self.leases.counts();
        let deadline = shard.time().map_or(0, |now| now.saturating_add(microseconds(CLAIM_TIME)));
        let call = self.call::<Vec<Value>>(&self.scripts.claim, shard, |command| {
            command.arg(max).arg(microseconds(self.config.lease)).arg(self.config.in_flight);
            command.arg(used.all).arg(used.new).arg(used.failing).arg(turn);
            self.add_wake_up(command, shard).arg(deadline);
        });
        let answer = ClaimAnswer::decode(call.await?);
        shard.set_totals(answer.totals);
        shard.set_time(answer.time);
        for message_id in &answer.missing {
            tracing::error!(
                message_id,
                "a queued job is missing in Redis; does another program delete keys with this prefix?"
            );
        }
        for job in &answer.jobs {
            self.leases.add(LeaseId { slot: shard.index, serial: job.token }, job.health);
        }
        Ok(answer)
    }

    /// Converts a leased job into a lease. A job that can't be read is dead-lettered, and `None` is returned.
    async fn lease(&self, shard: &Shard, leased: LeasedJob) -> Option<Lease> {
        let id = LeaseId { slot: shard.index, serial: leased.token };
        let decoded = match leased.body {
            None => Err("the body is missing".to_owned()),
            Some(body) => record::decode(&leased.record, body).map_err(|error| error.to_string()),
        };
        match decoded {
            Ok(job) => Some(Lease {
                job: Arc::new(job),
                attempt: leased.failures.saturating_add(1),
                first_attempt_at: leased.first_attempt_at.unwrap_or_else(|| self.clock.now()),
                ordered: leased.ordered,
                id,
            }),
            Err(detail) => {
                tracing::error!(message_id = %leased.id, detail, "dead-letter a damaged job");
                let cause = Cause::Damaged(detail);
                if let Err(error) = self.bury(shard, leased.id, id, &cause, leased.failures).await {
                    tracing::error!(message_id = %leased.id, %error, "a damaged job couldn't be dead-lettered");
                }
                None
            }
        }
    }
}
