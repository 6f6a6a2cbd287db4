//! Tests against a real server: the conformance suite, and behaviour that only Redis has.

mod cluster;
mod own_server;
mod shared;

use std::sync::Arc;

use super::RedisQueue;
use crate::common::clock::Clock;
use crate::common::redis::RedisConfig;
use crate::common::test_services;
use crate::queue::conformance::{Harness, conformance};
use crate::queue::{Queue, QueueConfig};

/// Returns the configuration of the server that `scripts/services.sh start redis` started, with a unique prefix.
fn redis() -> RedisConfig {
    let url = test_services::redis_url();
    RedisConfig::parse(&url, &format!("test:{}", uuid::Uuid::now_v7().simple())).unwrap()
}

fn config() -> QueueConfig {
    crate::queue::conformance::config()
}

fn clock() -> Clock {
    Clock::start()
}

async fn open(redis: &RedisConfig, config: QueueConfig) -> Arc<dyn Queue> {
    Arc::new(RedisQueue::open(redis, config, clock()).await.unwrap())
}

/// Harness of the conformance suite.
struct Redis {
    redis: RedisConfig,
    config: QueueConfig,
    queue: Arc<dyn Queue>,
    clock: Clock,
}

impl Harness for Redis {
    const DURABLE: bool = true;

    async fn start(config: QueueConfig) -> Self {
        let (redis, clock) = (redis(), Clock::start());
        let queue = Arc::new(RedisQueue::open(&redis, config.clone(), clock).await.unwrap());
        Self { redis, config, queue, clock }
    }

    fn queue(&self) -> &Arc<dyn Queue> {
        &self.queue
    }

    fn clock(&self) -> Clock {
        self.clock
    }

    async fn reopen(&mut self) {
        self.queue = Arc::new(RedisQueue::open(&self.redis, self.config.clone(), self.clock).await.unwrap());
    }
}

conformance!(redis, super::Redis);
