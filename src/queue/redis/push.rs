//! Pushes jobs to their shards, in calls of limited size.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::join_all;

use super::sharded::ShardedQueue;
use super::shards::{Shard, Totals, lane_key, shard_of};
use crate::common::job::{Job, Target};
use crate::common::task;
use crate::queue::{QueueError, record};

/// Maximum jobs per call. Redis blocks all other clients while the script runs.
const MAX_JOBS_PER_CALL: usize = 500;

/// Maximum bytes of bodies and records per call.
const MAX_BYTES_PER_CALL: usize = 4 << 20;

/// A job with the lane and the record that Redis stores.
struct EncodedJob {
    job: Job,
    lane: String,
    record: String,
}

impl ShardedQueue {
    pub(super) async fn push(self: &Arc<Self>, jobs: Vec<Job>) -> Result<(), QueueError> {
        if self.is_closed() {
            return Err(QueueError::Closed);
        }
        if jobs.len() > self.config.max_jobs || body_bytes(jobs.iter()) > self.config.max_bytes {
            return Err(QueueError::TooLarge);
        }
        let totals = self.totals();
        let mut by_shard: BTreeMap<usize, Vec<EncodedJob>> = BTreeMap::new();
        for job in jobs {
            let lane = lane_key(&job.lane);
            let encoded = EncodedJob { record: record::encode(&job), lane, job };
            by_shard.entry(shard_of(&encoded.lane, self.shards.len())).or_default().push(encoded);
        }
        // Each shard has a task of its own. If the publisher disconnects, the tasks still run and notify claims.
        let pushes = by_shard.into_iter().map(|(shard, jobs)| {
            let sharded = Arc::clone(self);
            task::spawn("redis_push", async move { sharded.push_to(shard, &jobs, totals).await })
        });
        for pushed in join_all(pushes).await {
            pushed.map_err(|_| QueueError::task_ended("push"))??;
        }
        Ok(())
    }

    async fn push_to(&self, index: usize, jobs: &[EncodedJob], totals: Totals) -> Result<(), QueueError> {
        let Some(shard) = self.shards.get(index) else { return Ok(()) };
        let size = Totals {
            jobs: u64::try_from(jobs.len()).unwrap_or(u64::MAX),
            bytes: u64::try_from(body_bytes(jobs.iter().map(|encoded| &encoded.job))).unwrap_or(u64::MAX),
        };
        // The first call checks that all jobs fit. The other calls are accepted without a check.
        let (mut limits, mut size) = (self.limits_of(shard, totals), size);
        let mut pushed = Ok(());
        for jobs in calls(jobs) {
            pushed = self.push_call(shard, jobs, limits, size).await;
            if pushed.is_err() {
                break;
            }
            (limits, size) = (Totals::UNLIMITED, Totals::default());
        }
        shard.request_poll();
        self.changed.notify_waiters();
        pushed
    }

    /// Pushes jobs in one call, if a push of `size` keeps the shard within `limits`.
    async fn push_call(
        &self,
        shard: &Shard,
        jobs: &[EncodedJob],
        limits: Totals,
        size: Totals,
    ) -> Result<(), QueueError> {
        let (had_room, jobs, bytes): (bool, u64, u64) = self
            .call(&self.scripts.push, shard, |command| {
                // This process is woken up as well, because it may have stopped waiting for the answer.
                self.add_wake_up_of_all(command, shard).arg(limits.jobs).arg(limits.bytes);
                command.arg(u8::from(self.config.ordered)).arg(size.jobs).arg(size.bytes);
                for EncodedJob { job, lane, record } in jobs {
                    // In direct mode the publisher chooses the tenant's name, so no tenant's usage is charged.
                    let tenant = if let Target::Endpoint(..) = job.target { &*job.tenant } else { "" };
                    command.arg(job.id.to_string()).arg(lane).arg(u8::from(job.ordered));
                    command.arg(tenant).arg(record).arg(&*job.body);
                }
            })
            .await?;
        shard.set_totals(Totals { jobs, bytes });
        if had_room { Ok(()) } else { Err(QueueError::Full) }
    }
}

fn body_bytes<'j>(jobs: impl Iterator<Item = &'j Job>) -> usize {
    jobs.fold(0, |sum, job| sum.saturating_add(job.body.len()))
}

/// Splits `jobs`, in order, into the parts that one call takes.
fn calls(jobs: &[EncodedJob]) -> Vec<&[EncodedJob]> {
    let mut calls = Vec::new();
    let mut rest = jobs;
    while !rest.is_empty() {
        let mut bytes = 0_usize;
        let fits = |encoded: &&EncodedJob| {
            bytes = bytes.saturating_add(encoded.job.body.len()).saturating_add(encoded.record.len());
            bytes <= MAX_BYTES_PER_CALL
        };
        // A job that is too large by itself gets a call of its own.
        let count = rest.iter().take(MAX_JOBS_PER_CALL).take_while(fits).count().max(1);
        let (call, after) = rest.split_at(count.min(rest.len()));
        calls.push(call);
        rest = after;
    }
    calls
}
