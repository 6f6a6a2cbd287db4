//! The state that all operations of a queue in Redis share.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use redis::{Cmd, FromRedisValue};
use tokio::sync::Notify;

use super::check;
use super::error::{OpenRedisError, unavailable};
use super::leases::ProcessLeases;
use super::scripts::Scripts;
use super::shards::{self, Shard, Totals};
use crate::common::clock::Clock;
use crate::common::redis::{RedisConfig, RedisConnection, RedisScript};
use crate::queue::{QueueConfig, QueueError};

/// The queue over all shards. Tasks that outlive a dropped call share it.
pub(super) struct ShardedQueue {
    connection: RedisConnection,
    pub(super) scripts: Scripts,
    pub(super) shards: Vec<Shard>,
    pub(super) config: QueueConfig,
    pub(super) clock: Clock,
    /// Channel on which wake-ups are published.
    pub(super) channel: String,
    /// Name of this process in wake-ups.
    origin: String,
    /// Notified after every change that may matter to a waiting claim.
    pub(super) changed: Notify,
    pub(super) closed: AtomicBool,
    pub(super) leases: ProcessLeases,
    /// Counts claims. It selects the shard and the run queue that are served first.
    pub(super) turn: AtomicUsize,
}

impl ShardedQueue {
    pub(super) async fn open(
        redis: &RedisConfig,
        config: QueueConfig,
        clock: Clock,
    ) -> Result<Self, OpenRedisError> {
        check::check(redis).await?;
        let connection =
            RedisConnection::open(redis).await.map_err(|error| OpenRedisError::unusable(redis, error))?;
        let shards = shards::open(&connection, redis).await?;
        let sharded = Self {
            connection,
            scripts: Scripts::new(),
            shards,
            leases: ProcessLeases::new(config.lease),
            config,
            clock,
            // Channels don't belong to a database, so the name contains its number.
            channel: format!("{{{}}}:{}:wake", redis.prefix(), redis.database()),
            origin: uuid::Uuid::now_v7().simple().to_string(),
            changed: Notify::new(),
            closed: AtomicBool::new(false),
            turn: AtomicUsize::new(0),
        };
        sharded.fetch_totals().await.map_err(OpenRedisError::Queue)?;
        Ok(sharded)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Calls a script on a shard.
    pub(super) async fn call<T: FromRedisValue>(
        &self,
        script: &RedisScript,
        shard: &Shard,
        add_args: impl Fn(&mut Cmd),
    ) -> Result<T, QueueError> {
        self.connection.call(script, &shard.tag, add_args).await.map_err(unavailable)
    }

    /// Adds the channel and the message of a wake-up to a command. This process ignores the message.
    pub(super) fn add_wake_up<'c>(&self, command: &'c mut Cmd, shard: &Shard) -> &'c mut Cmd {
        command.arg(&self.channel).arg(format!("{}:{}", self.origin, shard.index))
    }

    /// Adds the channel and the message of a wake-up to a command. This process receives the message as well.
    pub(super) fn add_wake_up_of_all<'c>(&self, command: &'c mut Cmd, shard: &Shard) -> &'c mut Cmd {
        command.arg(&self.channel).arg(format!(":{}", shard.index))
    }

    /// Makes the other servers poll all shards.
    pub(super) async fn wake_up_other_servers(&self) {
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(&self.channel).arg("closed");
        drop(self.connection.query::<()>(&publish).await);
    }

    /// Handles a wake-up: `origin:shard`, or any other text for all shards. `None` means that messages may have been
    /// missed.
    pub(super) fn wake_up_received(&self, message: Option<&str>) {
        let Some((origin, shard)) = message.and_then(|message| message.split_once(':')) else {
            self.shards.iter().for_each(Shard::request_poll);
            self.changed.notify_waiters();
            return;
        };
        if origin == self.origin {
            return;
        }
        match shard.parse().ok().and_then(|index: usize| self.shards.get(index)) {
            Some(shard) => shard.request_poll(),
            None => self.shards.iter().for_each(Shard::request_poll),
        }
        self.changed.notify_waiters();
    }

    /// Returns the jobs and bytes of all shards, as last reported.
    pub(super) fn totals(&self) -> Totals {
        self.shards.iter().map(Shard::totals).fold(Totals::default(), Totals::saturating_add)
    }

    /// Returns the maximum jobs and bytes of one shard, if all shards together hold `totals`.
    pub(super) fn limits_of(&self, shard: &Shard, totals: Totals) -> Totals {
        let here = shard.totals();
        let limit = |max: usize, all: u64, here: u64| {
            u64::try_from(max)
                .unwrap_or(u64::MAX)
                .min(Totals::UNLIMITED.jobs)
                .saturating_sub(all.saturating_sub(here))
        };
        Totals {
            jobs: limit(self.config.max_jobs, totals.jobs, here.jobs),
            bytes: limit(self.config.max_bytes, totals.bytes, here.bytes),
        }
    }
}
