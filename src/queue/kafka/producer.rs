//! Writing to Kafka: every record is acknowledged by all in-sync replicas before it counts as written.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer as _};

use super::record::Record;
use crate::common::kafka::{Batching, KafkaConfig, KafkaContext};
use crate::queue::QueueError;

/// Records and KiB of them that wait for their acknowledgement; publishers that come then are told to wait.
const MOST_RECORDS: usize = 200_000;
const MOST_KIB: usize = 512 << 10;

/// The largest record, in bytes, that is sent: what the topic itself allows is less.
const MOST_RECORD: usize = 64 << 20;

/// Between two producers that are made in place of one another.
const RENEWED_EVERY: Duration = Duration::from_secs(1);

/// Writes records. Clones share their connections.
#[derive(Clone)]
pub(super) struct Producer(Arc<Inner>);

struct Inner {
    kafka: KafkaConfig,
    batching: Batching,
    context: KafkaContext,
    current: Mutex<Current>,
}

struct Current {
    producer: FutureProducer<KafkaContext>,
    /// When it took the place of another, if it did.
    renewed: Option<Instant>,
}

impl Producer {
    /// A producer that connects by itself, for ever.
    pub(super) fn open(kafka: &KafkaConfig, batching: Batching) -> Result<Self, KafkaError> {
        let context = KafkaContext::default();
        let current = Current { producer: client(kafka, batching, &context)?, renewed: None };
        let (kafka, current) = (kafka.clone(), Mutex::new(current));
        Ok(Self(Arc::new(Inner { kafka, batching, context, current })))
    }

    /// Writes all of `records`, those of one partition in order. Where it fails, some may have been written.
    pub(super) async fn write(&self, records: &[Record]) -> Result<(), QueueError> {
        self.write_each(records).await.into_iter().try_for_each(|written| written.map(drop))
    }

    /// The same: says of each at which offset it stands, or why it may not have been written.
    pub(super) async fn write_each(&self, records: &[Record]) -> Vec<Result<i64, QueueError>> {
        let producer = self.current().producer.clone();
        let mut refused: Option<KafkaError> = None;
        let sent: Vec<_> = records
            .iter()
            .map(|record| match &refused {
                // It would come before the one that was refused.
                Some(error) => Err(error.clone()),
                None => {
                    producer.send_result(outgoing(record)).map_err(|(error, _)| refused.insert(error).clone())
                }
            })
            .collect();
        // Also where one was refused: whoever writes them again must not do so beside these.
        let mut written = Vec::with_capacity(sent.len());
        for sent in sent {
            written.push(acknowledged(sent).await);
        }
        if written.iter().any(Result::is_ok) {
            self.0.context.broker_answered();
        }
        if written.iter().any(Result::is_err) && producer.client().fatal_error().is_some() {
            self.renew();
            let_go(producer);
        }
        written.into_iter().map(|written| written.map_err(failure)).collect()
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.0.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts another in the place of one that librdkafka has given up for good, as it does where it can't tell any more
    /// whether a record would be written twice, or where the broker didn't allow it to begin.
    fn renew(&self) {
        let mut current = self.current();
        let Some((code, reason)) = current.producer.client().fatal_error() else { return };
        if current.renewed.is_some_and(|renewed| renewed.elapsed() < RENEWED_EVERY) {
            return;
        }
        match client(&self.0.kafka, self.0.batching, &self.0.context) {
            Ok(producer) => {
                tracing::warn!(%code, reason, "the producer is of no use any more; another takes its place");
                let renewed = Some(Instant::now());
                let old = std::mem::replace(&mut *current, Current { producer, renewed });
                let_go(old.producer);
            }
            Err(error) => {
                tracing::error!(%error, "make a producer in place of one that is of no use any more")
            }
        }
    }
}

/// At which offset it stands that was sent. Each is acknowledged whether or not it is waited for.
async fn acknowledged(sent: Result<DeliveryFuture, KafkaError>) -> Result<i64, KafkaError> {
    match sent?.await {
        Ok(written) => written.map(|delivery| delivery.offset).map_err(|(error, _)| error),
        Err(_) => Err(KafkaError::Canceled),
    }
}

/// The last that lets go of a producer waits for its threads: away from those that serve.
fn let_go(producer: FutureProducer<KafkaContext>) {
    drop(tokio::task::spawn_blocking(move || drop(producer)));
}

fn client(
    kafka: &KafkaConfig,
    batching: Batching,
    context: &KafkaContext,
) -> Result<FutureProducer<KafkaContext>, KafkaError> {
    let timeout = kafka.timeout.as_millis().to_string();
    kafka
        .client()
        .set("acks", "all")
        // A record that is sent again, since its answer was lost, isn't written twice, nor after a later one.
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2")
        .set("compression.type", batching.compression.as_str())
        .set("linger.ms", batching.linger.as_millis().to_string())
        .set("message.timeout.ms", &timeout)
        .set("request.timeout.ms", &timeout)
        .set("message.max.bytes", MOST_RECORD.to_string())
        .set("queue.buffering.max.messages", MOST_RECORDS.to_string())
        .set("queue.buffering.max.kbytes", MOST_KIB.to_string())
        .create_with_context(context.clone())
}

fn outgoing(record: &Record) -> FutureRecord<'_, [u8], [u8]> {
    let headers = record
        .headers
        .iter()
        .fold(OwnedHeaders::new_with_capacity(record.headers.len()), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(value) })
        });
    let mut outgoing = FutureRecord::to(&record.topic).key(record.key.as_slice()).headers(headers);
    outgoing.payload = record.value.as_deref();
    outgoing.partition = record.partition;
    outgoing
}

fn failure(error: KafkaError) -> QueueError {
    use RDKafkaErrorCode::{
        InvalidMessageSize, MessageBatchTooLarge, MessageSizeTooLarge, QueueFull, UnknownTopic,
        UnknownTopicOrPartition,
    };
    match error.rdkafka_error_code() {
        Some(QueueFull) => QueueError::Full,
        Some(MessageSizeTooLarge | InvalidMessageSize | MessageBatchTooLarge) => QueueError::TooLarge,
        Some(UnknownTopic | UnknownTopicOrPartition) => {
            QueueError::Unavailable("write to Kafka: the topic is missing; run whk kafka-setup", error.into())
        }
        _ => QueueError::Unavailable("write to Kafka", error.into()),
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::*;
    use crate::common::kafka::Topics;

    #[tokio::test]
    async fn a_producer_that_is_given_up_for_good_is_replaced() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("events", 1, 1).unwrap();
        let forbidden = RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED;
        cluster.request_errors(RDKafkaApiKey::InitProducerId, &[forbidden]);
        let topics = Topics::parse("events", "whk.tenants").unwrap();
        let kafka =
            KafkaConfig::parse(&cluster.bootstrap_servers(), topics, Duration::from_secs(10)).unwrap();
        let producer = Producer::open(&kafka, Batching::default()).unwrap();
        let record = Record {
            topic: "events".into(),
            partition: None,
            key: b"tenant".to_vec(),
            headers: Vec::new(),
            value: None,
        };
        producer.write(std::slice::from_ref(&record)).await.unwrap_err();
        producer.write(&[record]).await.unwrap();
    }
}
