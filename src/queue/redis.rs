//! The queue in Redis, Valkey or a Redis Cluster, shared by all servers that use the same prefix.
//!
//! # Durability
//!
//! The queue is as durable as Redis. A call returns after Redis has executed it. With `appendonly yes` and
//! `appendfsync always` Redis has also written it to disk; the check at start-up warns of settings that lose jobs.
//! `WAITAOF` isn't used, because it delays all later commands on its connection.
//!
//! A lease expires after [`QueueConfig::lease`]. Any server then claims the job again, and the lost attempt counts.
//!
//! # Shards
//!
//! Lanes are distributed over shards by the hash of their names. There is 1 shard, or 16 in a cluster. The first server
//! decides, and `{prefix}:layout` stores the number. All keys of a shard start with its tag, such as `{prefix:0}`, and
//! therefore are in one hash slot. Every change is one Lua script on one shard, and atomic.
//!
//! # Keys
//!
//! All keys below follow the tag and a colon. `ID` is a message id. `LANE` is the hash of a lane's name, because the name
//! may be a URL. Times are in µs of Redis' clock unless stated otherwise.
//!
//! | key | type | content | written by | deleted by |
//! |---|---|---|---|---|
//! | `job:ID` | hash | An unsettled job: `record`, `body`, `bytes`, `tenant`, `lane`; `failures`, `attempts`, `first` (time of the first attempt); `token` while it is leased. | push, claim, settle, replay | settle |
//! | `ready:LANE` | list | Ids of the jobs of a lane, the next one first. | push, claim, settle, release, replay | claim |
//! | `aside:LANE` | sorted set | Ids of delayed jobs of an unordered lane, by due time. | settle | claim and release, when the jobs are moved to `ready` |
//! | `lane:LANE` | string | State of a lane, see below. | every change | Redis, an hour after the lane's last job |
//! | `well`, `new`, `failing` | sorted set | Run queues: lanes with a job that can be leased, by their last turn. | every change | every change |
//! | `timers` | sorted set | Lanes, by the time when something in them becomes due. | every change | claim |
//! | `leases` | sorted set | Ids of leased jobs, by expiry. | claim | settle; claim, when the lease has expired |
//! | `dead:ID` | hash | A dead letter: the fields of `job:ID` except those of leases, `dead` (cause of death), `died` (in ms). | settle | replay, purge |
//! | `deaths` | sorted set | Ids of all dead letters, by time of death in ms. | settle | replay, purge |
//! | `deaths:TENANT` | sorted set | Ids of the dead letters of one tenant, by time of death in ms. | settle | replay, purge |
//! | `done:ID` | string | A delivered message: record and attempts. | settle | settle, when the history is full |
//! | `history` | list | Ids of delivered messages, the oldest first. | settle | settle, when the history is full |
//! | `counts` | hash | Totals: `jobs`, `bytes`, `delayed`. | every change | never |
//! | `tenant_jobs` | hash | Unsettled jobs of each tenant. | push, settle, replay | the tenant's last job |
//! | `tenant_bytes` | hash | Bytes of the bodies of these jobs. | push, settle, replay | the tenant's last job |
//! | `serial` | string | The last number issued as token or turn. | every change | never |
//!
//! The state of a lane is eleven numbers and a name, separated by spaces: maximum concurrency; failures in a row; 1 after
//! a success; probes, or -1 while the breaker is closed; end of the time in which the breaker is open; 1 if the lane is
//! ordered; leases; due time of the first job; due time of the first delayed job; time of its entry in `timers`; length of
//! `ready`; its run queue, or `-`.
//!
//! The names `aside` (delayed) and `well` (healthy) are renamed with the next format.
//!
//! # Limits
//!
//! A push is atomic for jobs of one shard that fit into one call (500 jobs, 4 MiB). A larger push may be stored in part
//! if Redis fails in the middle. A push over several shards may also be stored in part if only some of them have room.
//! The stored part is delivered, and repeating the push with the same ids adds only the rest.
//!
//! In a cluster each server enforces `max_jobs` and `max_bytes` with the totals that it last heard from the shards.
//! Servers that publish at the same time may exceed them slightly.

mod answer;
mod check;
mod claim;
mod claimed;
mod dead;
mod error;
mod leases;
mod message;
mod push;
mod release;
mod scripts;
mod settle;
mod sharded;
mod shards;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

pub use self::error::OpenRedisError;
use self::sharded::ShardedQueue;
use self::shards::Shard;
use super::{Capabilities, Depth, Lease, Queue, QueueConfig, QueueError, Settlement, TenantUsage};
use crate::common::clock::Clock;
use crate::common::job::{Job, Lane};
use crate::common::redis::{RedisConfig, subscribe};
use crate::common::task;

/// Maximum time without a look at Redis while a claim waits, in case a wake-up was lost.
///
/// A server that dies between its change and the wake-up loses the wake-up.
const MAX_IDLE: Duration = Duration::from_secs(15);

/// Tenants per call of `tenant_usage.lua`, whose arguments are limited.
const TENANTS_PER_CALL: usize = 1_000;

/// A queue in Redis. See the [module documentation](self).
pub struct RedisQueue {
    sharded: Arc<ShardedQueue>,
    _subscription: AbortOnDropHandle<()>,
}

impl RedisQueue {
    /// Connects, checks the settings of Redis, and reads or creates the layout.
    ///
    /// # Errors
    /// Redis can't be reached or used, or a newer version of whk has written the keys.
    pub async fn open(
        redis: &RedisConfig,
        config: QueueConfig,
        clock: Clock,
    ) -> Result<Self, OpenRedisError> {
        let sharded = Arc::new(ShardedQueue::open(redis, config, clock).await?);
        let subscriber = Arc::downgrade(&sharded);
        let subscription = subscribe(redis.clone(), sharded.channel.clone(), move |message| {
            if let Some(sharded) = subscriber.upgrade() {
                sharded.wake_up_received(message);
            }
        });
        Ok(Self { sharded, _subscription: subscription })
    }
}

#[async_trait]
impl Queue for RedisQueue {
    async fn push(&self, jobs: Vec<Job>) -> Result<(), QueueError> {
        self.sharded.push(jobs).await
    }

    async fn claim(&self, max: usize) -> Result<Vec<Lease>, QueueError> {
        loop {
            // Registered before the shards are polled, so that no change in between is missed.
            let changed = self.sharded.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.sharded.is_closed() || max == 0 {
                return Ok(Vec::new());
            }
            // The claim runs in a task of its own. If this future is dropped, the task still receives the leases and
            // returns them.
            let claiming = task::spawn("redis_claim", Arc::clone(&self.sharded).claim_now(max));
            let claimed = claiming.await.map_err(|_| QueueError::task_ended("claim"))??;
            if !claimed.is_empty() {
                return Ok(claimed.into_leases());
            }
            match self.sharded.shards.iter().filter_map(Shard::next_poll).min() {
                None => {
                    if tokio::time::timeout(MAX_IDLE, changed).await.is_err() {
                        self.sharded.shards.iter().for_each(Shard::request_poll);
                    }
                }
                Some(at) if at <= Instant::now() => tokio::task::yield_now().await,
                Some(at) => drop(tokio::time::timeout_at(at, changed).await),
            }
        }
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<(), QueueError> {
        self.sharded.settle(settlements).await
    }

    async fn depth(&self) -> Result<Depth, QueueError> {
        let mut depth = Depth::default();
        for shard in &self.sharded.shards {
            let (ready, delayed, leased, dead): (u64, u64, u64, u64) =
                self.sharded.call(&self.sharded.scripts.depth, shard, |_| ()).await?;
            depth.ready = depth.ready.saturating_add(ready);
            depth.delayed = depth.delayed.saturating_add(delayed);
            depth.leased = depth.leased.saturating_add(leased);
            depth.dead = depth.dead.saturating_add(dead);
        }
        Ok(depth)
    }

    async fn tenant_usage(&self, tenants: &[String]) -> Result<Vec<TenantUsage>, QueueError> {
        let mut sums = vec![TenantUsage::default(); tenants.len()];
        if tenants.is_empty() {
            return Ok(sums);
        }
        for shard in &self.sharded.shards {
            for (sums, tenants) in sums.chunks_mut(TENANTS_PER_CALL).zip(tenants.chunks(TENANTS_PER_CALL)) {
                let (jobs, bytes): (Vec<Option<u64>>, Vec<Option<u64>>) = self
                    .sharded
                    .call(&self.sharded.scripts.tenant_usage, shard, |command| _ = command.arg(tenants))
                    .await?;
                for ((sum, jobs), bytes) in sums.iter_mut().zip(jobs).zip(bytes) {
                    sum.jobs = sum.jobs.saturating_add(jobs.unwrap_or_default());
                    sum.bytes = sum.bytes.saturating_add(bytes.unwrap_or_default());
                }
            }
        }
        Ok(sums)
    }

    async fn release(&self, lanes: &[Lane]) -> Result<(), QueueError> {
        self.sharded.release(lanes).await
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { is_shared: true, ..Capabilities::default() }
    }

    fn close(&self) {
        if self.sharded.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        self.sharded.changed.notify_waiters();
        // Other servers claim the jobs that this one would have claimed next.
        let sharded = Arc::clone(&self.sharded);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { sharded.wake_up_other_servers().await });
        }
    }

    fn abandoned(&self) -> Vec<Arc<Job>> {
        Vec::new()
    }
}
