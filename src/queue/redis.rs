//! The queue in Redis, Valkey or a Redis Cluster: as durable as that is, and shared by all servers with its prefix.
//!
//! What was answered has been done by Redis. With `appendonly yes` and `appendfsync always` it is on its disk as well;
//! the start-up check says what else would be lost. `WAITAOF` would promise the same, but holds up all that comes after
//! it on its connection. A lease whose process died is claimed again after [`QueueConfig::lease`] by whichever server
//! looks next, and counts as an attempt.
//!
//! Lanes are spread over shards by the hash of their names. All keys of a shard begin with its tag, `{prefix:0}` for the
//! first, so they are in one hash slot; `{prefix}:layout` says how many shards there are: 1, or 16 in a cluster, as
//! the first server decided. `LANE` is a hash, since names of lanes may be URLs. Every change is one script on one
//! shard, atomic; times are those of Redis' own clock, in µs.
//!
//! ```text
//! key              type    holds                                         written by        goes
//! job:ID           hash    a queued job: record, body, bytes, tenant,    push, replay      settle
//!                          lane; failures, attempts, first attempt; the
//!                          token of its lease while it is out
//! ready:LANE       list    ids in order, the next one first              push, settle      claim
//! aside:LANE       zset    ids of unordered retries by due time          settle            claim, once due
//! lane:LANE        string  limit, failures in a row, whether one ever    all               an hour after the last
//!                          succeeded, probes (-1: breaker closed),                         job
//!                          closed until, ordered, leased, when its head
//!                          and the first aside are due, its timer, how
//!                          many are ready, its ring
//! well new failing zset    lanes with something to lease, by their last  all               when there is nothing
//!                          turn: the one that waited longest is first
//! timers           zset    lanes by when to look at them again           all               claim
//! leases           zset    ids of leased jobs by expiry                  claim             settle, claim (expired)
//! dead:ID          hash    a dead letter: as job:ID, and what is said    settle            replay, purge
//!                          of its death
//! deaths           zset    ids of dead letters by time of death, in ms;  settle            replay, purge
//!                          deaths:TENANT holds a tenant's
//! done:ID          string  a delivered message: record, attempts         settle            when it is too old
//! history          list    ids of delivered messages, the oldest first   settle            when it is too old
//! counts           hash    jobs, bytes, jobs that wait aside             all               never
//! tenant_jobs      hash    queued jobs by tenant; tenant_bytes: bytes    push, settle      with the last job
//! serial           string  the last token or turn given out              all               never
//! ```
//!
//! A push is atomic for the jobs of one shard that fit into one call (500 jobs, 4 MiB). A larger one, or one over several
//! shards, is refused as a whole where there is no room, but may be there in part if Redis fails in the middle: what is
//! there is delivered, and publishing it again under the same ids adds the rest alone.
//! In a cluster `max_jobs` and `max_bytes` are kept by what each server last heard of the shards, so servers that publish
//! at once may go past them by a little.

mod check;
mod claim;
mod dead;
mod push;
mod scripts;
mod settle;
mod shards;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

pub use self::check::OpenRedisError;
use self::claim::Held;
use self::scripts::Scripts;
use self::shards::Shard;
use super::{Capabilities, Depth, Lease, Queue, QueueConfig, QueueError, Settlement, TenantUsage};
use crate::common::clock::Clock;
use crate::common::job::{Job, Lane};
use crate::common::redis::{RedisConfig, RedisConnection, RedisFailure, subscribe};

/// See the module's page.
pub struct RedisQueue {
    shared: Arc<Shared>,
    _wake_ups: AbortOnDropHandle<()>,
}

/// What calls that outlive the future that made them share.
struct Shared {
    connection: RedisConnection,
    scripts: Scripts,
    shards: Vec<Shard>,
    config: QueueConfig,
    clock: Clock,
    /// What wake-ups are published on.
    channel: String,
    /// Names this process in them.
    origin: String,
    /// Rung after every change that a waiting claim may care for.
    changed: Notify,
    closed: AtomicBool,
    held: Held,
    /// Which shard and which standing have the next turn.
    turn: AtomicUsize,
}

impl RedisQueue {
    /// Connects, checks what Redis can promise, and finds or makes the layout.
    ///
    /// # Errors
    /// Redis can't be reached or used, or a newer whk laid the keys out.
    pub async fn open(
        redis: &RedisConfig,
        config: QueueConfig,
        clock: Clock,
    ) -> Result<Self, OpenRedisError> {
        check::check(redis).await?;
        let connection =
            RedisConnection::open(redis).await.map_err(|error| OpenRedisError::of(redis, error))?;
        let shards = shards::open(&connection, redis).await?;
        let shared = Arc::new(Shared {
            connection,
            scripts: Scripts::new(),
            shards,
            held: Held::new(config.lease),
            config,
            clock,
            // Channels are not of a database, so it is named.
            channel: format!("{{{}}}:{}:wake", redis.prefix(), redis.database()),
            origin: uuid::Uuid::now_v7().simple().to_string(),
            changed: Notify::new(),
            closed: AtomicBool::new(false),
            turn: AtomicUsize::new(0),
        });
        shared.meet().await.map_err(OpenRedisError::Queue)?;
        let woken = Arc::downgrade(&shared);
        let wake_ups = subscribe(redis.clone(), shared.channel.clone(), move |message| {
            if let Some(shared) = woken.upgrade() {
                shared.wake(message);
            }
        });
        Ok(Self { shared, _wake_ups: wake_ups })
    }
}

impl Shared {
    /// A message came: `origin:shard`. None where some may have been missed.
    fn wake(&self, message: Option<&str>) {
        let Some((origin, shard)) = message.and_then(|message| message.split_once(':')) else {
            self.shards.iter().for_each(Shard::look_again);
            self.changed.notify_waiters();
            return;
        };
        if origin == self.origin {
            return;
        }
        match shard.parse().ok().and_then(|index: usize| self.shards.get(index)) {
            Some(shard) => shard.look_again(),
            None => self.shards.iter().for_each(Shard::look_again),
        }
        self.changed.notify_waiters();
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

/// How long an idle server takes Redis' silence for nothing to do.
const MOST_IDLE: Duration = Duration::from_secs(15);

fn unavailable(error: RedisFailure) -> QueueError {
    let what = match error.code() {
        Some("OOM") => "Redis has no memory left (maxmemory)",
        Some("READONLY") => "Redis is a replica now",
        Some("LOADING") => "Redis is loading its data",
        Some("MASTERDOWN" | "CLUSTERDOWN") => "a part of Redis is down",
        Some("NOPERM" | "NOAUTH" | "WRONGPASS") => "Redis permits it not",
        Some("MISCONF") => "Redis can't write to its disk",
        Some(_) => "Redis refused",
        None if matches!(error, RedisFailure::Unexpected) => "Redis answered something unexpected",
        None => "Redis can't be reached",
    };
    QueueError::Unavailable(what, Box::new(error))
}

#[async_trait]
impl Queue for RedisQueue {
    async fn push(&self, jobs: Vec<Job>) -> Result<(), QueueError> {
        self.shared.push(jobs).await
    }

    async fn claim(&self, max: usize) -> Result<Vec<Lease>, QueueError> {
        loop {
            // Registered before looking, so that a change in between isn't missed.
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.shared.is_closed() || max == 0 {
                return Ok(Vec::new());
            }
            // In a task, since what Redis has leased must be given back if nobody is here any more to take it.
            let claiming = tokio::spawn(Arc::clone(&self.shared).claim_now(max));
            let claimed =
                claiming.await.map_err(|error| QueueError::Unavailable("claim", Box::new(error)))??;
            if !claimed.is_empty() {
                return Ok(claimed.into_leases());
            }
            match self.shared.shards.iter().filter_map(Shard::next_look).min() {
                None => {
                    // In case a wake-up was lost, such as by a server that died before it rang.
                    if tokio::time::timeout(MOST_IDLE, changed).await.is_err() {
                        self.shared.shards.iter().for_each(Shard::look_again);
                    }
                }
                Some(at) if at <= Instant::now() => tokio::task::yield_now().await,
                Some(at) => drop(tokio::time::timeout_at(at, changed).await),
            }
        }
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<(), QueueError> {
        self.shared.settle(settlements).await
    }

    async fn depth(&self) -> Result<Depth, QueueError> {
        let mut depth = Depth::default();
        for shard in &self.shared.shards {
            let (ready, delayed, leased, dead): (u64, u64, u64, u64) =
                self.shared.call(&self.shared.scripts.depth, shard, |_| ()).await?;
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
        for shard in &self.shared.shards {
            for (sums, tenants) in sums.chunks_mut(1_000).zip(tenants.chunks(1_000)) {
                let (jobs, bytes): (Vec<Option<u64>>, Vec<Option<u64>>) = self
                    .shared
                    .call(&self.shared.scripts.queued, shard, |command| _ = command.arg(tenants))
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
        self.shared.release(lanes).await
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { is_shared: true, ..Capabilities::default() }
    }

    fn close(&self) {
        if self.shared.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        self.shared.changed.notify_waiters();
        // What this process would have claimed next is for the others.
        let shared = Arc::clone(&self.shared);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let mut publish = redis::cmd("PUBLISH");
                publish.arg(&shared.channel).arg("closed");
                drop(shared.connection.query::<()>(&publish).await);
            });
        }
    }

    fn abandoned(&self) -> Vec<Arc<Job>> {
        Vec::new()
    }
}

/// `time` in whole µs.
fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
