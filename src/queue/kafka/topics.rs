//! Whether the topics are there, and fit each other.

use rdkafka::consumer::Consumer as _;

use super::OpenKafkaError;
use super::lag::{Lag, partitions};
use crate::common::kafka::KafkaConfig;

/// That all topics of jobs are there, with as many partitions.
pub(super) async fn check(lag: &Lag, kafka: &KafkaConfig) -> Result<(), OpenKafkaError> {
    let (topics, timeout) = (kafka.topics.clone(), kafka.timeout);
    let of_jobs = [topics.events, topics.retry, topics.dead];
    let asked = of_jobs.clone();
    let counted = lag.ask(move |consumer| {
        let metadata = consumer.fetch_metadata(None, timeout)?;
        Ok(asked.map(|topic| partitions(&metadata, &topic).len()))
    });
    let unreachable = |source| OpenKafkaError::Unreachable { brokers: kafka.to_string(), source };
    let counts = counted.await.map_err(unreachable)?;
    let mut found = of_jobs.into_iter().zip(counts);
    let Some((first, of_first)) = found.next() else { return Ok(()) };
    if of_first == 0 {
        return Err(OpenKafkaError::Missing(first));
    }
    for (second, of_second) in found {
        match of_second {
            0 => return Err(OpenKafkaError::Missing(second)),
            _ if of_second == of_first => {}
            _ => return Err(OpenKafkaError::Unequal { first, of_first, second, of_second }),
        }
    }
    Ok(())
}
