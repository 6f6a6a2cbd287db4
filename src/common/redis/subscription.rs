//! Subscriptions to wake-ups, each over a connection of its own.

use std::time::Duration;

use futures_util::StreamExt as _;
use redis::RedisError;
use redis::aio::PubSub;
use tokio_util::task::AbortOnDropHandle;

use super::config::{CONNECT_TIME, MAX_BACKOFF, MIN_BACKOFF, RedisConfig};
use crate::common::task;

/// Calls `received` with each message that is published on `channel`.
///
/// Also calls it with `None` after each connect, because messages may have been missed before. The subscription
/// reconnects without limit. It ends when the returned handle is dropped.
pub fn subscribe(
    config: RedisConfig,
    channel: String,
    received: impl Fn(Option<&str>) + Send + 'static,
) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(task::spawn("redis_subscription", async move {
        let (mut turn, mut backoff) = (0_usize, MIN_BACKOFF);
        loop {
            // Each attempt uses the next node. Every node of a cluster receives the messages published on any node.
            match connect(&config, turn, &channel).await {
                Ok(mut pubsub) => {
                    backoff = MIN_BACKOFF;
                    received(None);
                    let mut messages = pubsub.on_message();
                    while let Some(message) = messages.next().await {
                        received(std::str::from_utf8(message.get_payload_bytes()).ok());
                    }
                    tracing::debug!(redis = %config, "the connection for wake-ups ended");
                }
                Err(error) => tracing::debug!(redis = %config, %error, "connect for wake-ups"),
            }
            turn = turn.wrapping_add(1);
            tokio::time::sleep(backoff).await;
            backoff = backoff.saturating_mul(2).min(MAX_BACKOFF);
        }
    }))
}

async fn connect(config: &RedisConfig, turn: usize, channel: &str) -> Result<PubSub, RedisError> {
    let connect = async {
        let mut pubsub = config.client_of(turn)?.get_async_pubsub().await?;
        pubsub.subscribe(channel).await?;
        Ok(pubsub)
    };
    let timed_out = |_| RedisError::from((redis::ErrorKind::Io, "no connection within the time limit"));
    tokio::time::timeout(CONNECT_TIME.saturating_add(Duration::from_secs(1)), connect)
        .await
        .map_err(timed_out)?
}
