//! Wake-ups: what is published on a channel, heard over a connection of its own.

use std::time::Duration;

use futures_util::StreamExt as _;
use redis::RedisError;
use redis::aio::PubSub;
use tokio_util::task::AbortOnDropHandle;

use super::{BACKOFF, CONNECT_TIME, RedisConfig};

/// Calls `heard` with each message on `channel`, and with none after each time the connection was made, since messages
/// may have been missed before. It goes on for ever, until the handle is dropped.
pub fn subscribe(
    config: RedisConfig,
    channel: String,
    heard: impl Fn(Option<&str>) + Send + 'static,
) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        let (shortest, longest) = BACKOFF;
        let (mut turn, mut wait) = (0_usize, shortest);
        loop {
            // Each time another node: of a cluster, any of them hears what is published on one.
            match listening(&config, turn, &channel).await {
                Ok(mut pubsub) => {
                    wait = shortest;
                    heard(None);
                    let mut messages = pubsub.on_message();
                    while let Some(message) = messages.next().await {
                        heard(std::str::from_utf8(message.get_payload_bytes()).ok());
                    }
                    tracing::debug!(redis = %config, "the connection for wake-ups ended");
                }
                Err(error) => tracing::debug!(redis = %config, %error, "connect for wake-ups"),
            }
            turn = turn.wrapping_add(1);
            tokio::time::sleep(wait).await;
            wait = wait.saturating_mul(2).min(longest);
        }
    }))
}

async fn listening(config: &RedisConfig, turn: usize, channel: &str) -> Result<PubSub, RedisError> {
    let connect = async {
        let mut pubsub = config.client_of(turn)?.get_async_pubsub().await?;
        pubsub.subscribe(channel).await?;
        Ok(pubsub)
    };
    let too_long = |_| RedisError::from((redis::ErrorKind::Io, "no connection within the time limit"));
    tokio::time::timeout(CONNECT_TIME.saturating_add(Duration::from_secs(1)), connect)
        .await
        .map_err(too_long)?
}
