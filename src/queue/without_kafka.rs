//! Stand-in for the queue in Kafka, in builds without the `kafka` feature.

use std::sync::Arc;

use super::{Queue, QueueConfig};
pub use crate::common::kafka::NotBuiltIn as OpenKafkaError;
use crate::common::kafka::{Batching, KafkaConfig};

/// Refuses to open the queue.
///
/// # Errors
/// Always.
#[expect(clippy::unused_async, reason = "the queue in Kafka is opened the same way")]
pub async fn open(
    _kafka: &KafkaConfig,
    _batching: Batching,
    _group: &str,
    _config: &QueueConfig,
) -> Result<Arc<dyn Queue>, OpenKafkaError> {
    Err(OpenKafkaError)
}
