//! Whether the topics are there, and fit each other.

use rdkafka::error::KafkaResult;

use super::OpenKafkaError;
use super::lag::Lag;
use super::watermarks::partitions;
use crate::common::kafka::KafkaConfig;

/// That all topics of jobs are there, with as many partitions.
pub(super) async fn check(lag: &Lag, kafka: &KafkaConfig) -> Result<(), OpenKafkaError> {
    let (topics, timeout) = (kafka.topics.clone(), kafka.timeout);
    let asked = [topics.events, topics.retry, topics.dead];
    let counted = lag.ask(move |consumer| {
        let count = |topic: String| Ok((partitions(consumer, &topic, timeout)?.len(), topic));
        asked.into_iter().map(count).collect::<KafkaResult<Vec<_>>>()
    });
    let unreachable = |source| OpenKafkaError::Unreachable { brokers: kafka.to_string(), source };
    let mut found = counted.await.map_err(unreachable)?.into_iter();
    let Some((of_first, first)) = found.next() else { return Ok(()) };
    if of_first == 0 {
        return Err(OpenKafkaError::Missing(first));
    }
    for (of_second, second) in found {
        match of_second {
            0 => return Err(OpenKafkaError::Missing(second)),
            _ if of_second == of_first => {}
            _ => return Err(OpenKafkaError::Unequal { first, of_first, second, of_second }),
        }
    }
    Ok(())
}
