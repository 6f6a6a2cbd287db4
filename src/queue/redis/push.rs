//! Queueing: jobs by shard, in calls that stay short.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::join_all;

use super::Shared;
use super::shards::{Shard, lane_name, shard_of};
use crate::common::job::{Job, Lane, Target};
use crate::queue::{QueueError, record};

/// Jobs and bytes of one call: Redis does nothing else meanwhile.
const MOST_IN_CALL: (usize, usize) = (500, 4 << 20);

/// A job on its way into Redis.
struct Packed {
    job: Job,
    lane: String,
    record: String,
}

impl Shared {
    pub(super) async fn push(self: &Arc<Self>, jobs: Vec<Job>) -> Result<(), QueueError> {
        if self.is_closed() {
            return Err(QueueError::Closed);
        }
        let bytes = bytes_of(jobs.iter());
        if jobs.len() > self.config.max_jobs || bytes > self.config.max_bytes {
            return Err(QueueError::TooLarge);
        }
        let totals = self.shards.iter().map(Shard::totals).fold((0_u64, 0_u64), |sum, (jobs, bytes)| {
            (sum.0.saturating_add(jobs), sum.1.saturating_add(bytes))
        });
        let mut by_shard: BTreeMap<usize, Vec<Packed>> = BTreeMap::new();
        for job in jobs {
            let lane = lane_name(&job.lane);
            let packed = Packed { record: record::encode(&job), lane, job };
            by_shard.entry(shard_of(&packed.lane, self.shards.len())).or_default().push(packed);
        }
        // In tasks: what Redis has queued is looked for though the publisher has gone.
        let pushes = by_shard.into_iter().map(|(shard, jobs)| {
            let shared = Arc::clone(self);
            tokio::spawn(async move { shared.push_to(shard, &jobs, totals).await })
        });
        for pushed in join_all(pushes).await {
            pushed.map_err(|error| QueueError::Unavailable("push", Box::new(error)))??;
        }
        Ok(())
    }

    async fn push_to(&self, index: usize, jobs: &[Packed], totals: (u64, u64)) -> Result<(), QueueError> {
        let Some(shard) = self.shards.get(index) else { return Ok(()) };
        let most = self.room_of(shard, totals);
        let all = (jobs.len(), bytes_of(jobs.iter().map(|packed| &packed.job)));
        let mut pushed = Ok(());
        for (turn, call) in calls(jobs).into_iter().enumerate() {
            // The first call has room for all of them or none; the others follow it.
            let (most, all) =
                if turn == 0 { (most, all) } else { ((u64::MAX >> 12, u64::MAX >> 12), (0, 0)) };
            pushed = self.push_call(shard, call, most, all).await;
            if pushed.is_err() {
                break;
            }
        }
        shard.look_again();
        self.changed.notify_waiters();
        pushed
    }

    async fn push_call(
        &self,
        shard: &Shard,
        jobs: &[Packed],
        most: (u64, u64),
        all: (usize, usize),
    ) -> Result<(), QueueError> {
        let (had_room, held_jobs, held_bytes): (bool, u64, u64) = self
            .call(&self.scripts.push, shard, |command| {
                // From nobody, so that this process hears of it too: it may have given the push up.
                command.arg(&self.channel).arg(format!(":{}", shard.index)).arg(most.0).arg(most.1);
                command.arg(u8::from(self.config.ordered)).arg(all.0).arg(all.1);
                for Packed { job, lane, record } in jobs {
                    // In direct mode the tenant is what a stranger says, and no tenant's quota is charged for it.
                    let tenant = if let Target::Endpoint(..) = job.target { &*job.tenant } else { "" };
                    command.arg(job.id.to_string()).arg(lane).arg(u8::from(job.ordered));
                    command.arg(tenant).arg(record).arg(&*job.body);
                }
            })
            .await?;
        shard.set_totals(held_jobs, held_bytes);
        if had_room { Ok(()) } else { Err(QueueError::Full) }
    }

    /// Jobs and bytes that a shard may hold, given what all of them held together.
    pub(super) fn room_of(&self, shard: &Shard, totals: (u64, u64)) -> (u64, u64) {
        let (jobs, bytes) = shard.totals();
        let of = |most: usize, all: u64, here: u64| {
            u64::try_from(most)
                .unwrap_or(u64::MAX)
                .min(u64::MAX >> 12)
                .saturating_sub(all.saturating_sub(here))
        };
        (of(self.config.max_jobs, totals.0, jobs), of(self.config.max_bytes, totals.1, bytes))
    }

    pub(super) async fn release(&self, lanes: &[Lane]) -> Result<(), QueueError> {
        let mut by_shard: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for name in lanes.iter().map(lane_name) {
            by_shard.entry(shard_of(&name, self.shards.len())).or_default().push(name);
        }
        for (index, names) in by_shard {
            let Some(shard) = self.shards.get(index) else { continue };
            for names in names.chunks(MOST_IN_CALL.0) {
                let release = || {
                    self.call::<bool>(&self.scripts.release, shard, |command| {
                        self.wake_up(command, shard).arg(names);
                    })
                };
                while release().await? {}
            }
            shard.look_again();
        }
        self.changed.notify_waiters();
        Ok(())
    }
}

fn bytes_of<'j>(jobs: impl Iterator<Item = &'j Job>) -> usize {
    jobs.fold(0, |sum, job| sum.saturating_add(job.body.len()))
}

/// Parts of `jobs` that one call takes, in order.
fn calls(jobs: &[Packed]) -> Vec<&[Packed]> {
    let (most_jobs, most_bytes) = MOST_IN_CALL;
    let mut calls = Vec::new();
    let mut rest = jobs;
    while !rest.is_empty() {
        let mut bytes = 0_usize;
        let fits = |packed: &&Packed| {
            bytes = bytes.saturating_add(packed.job.body.len()).saturating_add(packed.record.len());
            bytes <= most_bytes
        };
        let count = rest.iter().take(most_jobs).take_while(fits).count().max(1);
        let (call, after) = rest.split_at(count.min(rest.len()));
        calls.push(call);
        rest = after;
    }
    calls
}
