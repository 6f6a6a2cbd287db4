//! Writing to Kafka: every record is acknowledged by all in-sync replicas before it counts as written.

use std::time::Duration;

use futures_util::future::join_all;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};

use super::record::Record;
use crate::common::kafka::{KafkaConfig, KafkaContext};
use crate::queue::QueueError;

/// Records and KiB of them that wait for their acknowledgement; publishers that come then are told to wait.
const MOST_RECORDS: usize = 200_000;
const MOST_KIB: usize = 512 << 10;

/// The largest record, in bytes, that is sent: what the topic itself allows is less.
const MOST_RECORD: usize = 64 << 20;

/// How records are compressed on their way and in Kafka.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Compression {
    /// Not at all: sealed bodies are close to random
    #[default]
    None,
    /// gzip
    Gzip,
    /// Snappy
    Snappy,
    /// LZ4
    Lz4,
    /// Zstandard
    Zstd,
}

impl Compression {
    fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// How records are gathered into requests.
#[derive(Debug, Clone, Copy)]
pub struct Batching {
    /// How they are compressed.
    pub compression: Compression,
    /// How long the first of a request waits for others.
    pub linger: Duration,
}

impl Default for Batching {
    fn default() -> Self {
        Self { compression: Compression::default(), linger: Duration::from_millis(5) }
    }
}

/// Writes records. Cloning it shares its connections.
#[derive(Clone)]
pub(super) struct Producer {
    producer: FutureProducer<KafkaContext>,
    context: KafkaContext,
}

impl Producer {
    /// A producer that connects by itself, for ever.
    pub(super) fn open(kafka: &KafkaConfig, batching: Batching) -> Result<Self, KafkaError> {
        let timeout = kafka.timeout.as_millis().to_string();
        let context = KafkaContext::default();
        let producer = kafka
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
            .create_with_context(context.clone())?;
        Ok(Self { producer, context })
    }

    /// Writes all of `records`, those of one partition in order. Where it fails, some may have been written.
    pub(super) async fn write(&self, records: &[Record]) -> Result<(), QueueError> {
        let mut acknowledgements = Vec::with_capacity(records.len());
        let mut refused = None;
        for record in records {
            match self.producer.send_result(outgoing(record)) {
                Ok(acknowledgement) => acknowledgements.push(acknowledgement),
                Err((error, _)) => {
                    refused = Some(error);
                    break;
                }
            }
        }
        // Also where one was refused: whoever writes them again must not do so beside these.
        for acknowledged in join_all(acknowledgements).await {
            match acknowledged {
                Ok(Ok(_)) => self.context.is_back(),
                Ok(Err((error, _))) => refused = refused.or(Some(error)),
                Err(_) => refused = refused.or(Some(KafkaError::Canceled)),
            }
        }
        refused.map_or(Ok(()), |error| Err(failure(error)))
    }
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
