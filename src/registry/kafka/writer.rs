//! Writing changes to the log, one transaction each.

use futures_util::future::join_all;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use tokio::task::spawn_blocking;

use super::format::ChangePart;
use crate::common::kafka::{KafkaConfig, KafkaContext, without_value};
use crate::registry::record::Write;

/// Largest record in bytes that the producer sends. The topic's own limit is lower.
const MAX_RECORD: usize = 64 << 20;

/// Transactional producer of the one server that may write. The next server that takes over fences it.
pub(in crate::registry) struct Writer {
    producer: FutureProducer<KafkaContext>,
    config: KafkaConfig,
}

/// A change that isn't known to be written.
#[derive(Debug)]
pub(super) enum WriteError {
    /// Another server has taken over, or a failure occurred that a new writer recovers from. Nothing was written.
    Fenced,
    /// Kafka refused a record, and would refuse it from a new writer as well. Nothing was written.
    Refused(KafkaError),
    /// The log is shorter than the part that this server has read. Nothing was written.
    ShorterLog,
    /// The change may have been written.
    Unknown(KafkaError),
}

impl Writer {
    /// Initializes the producer, which fences the server that could write before. When this returns, Kafka has committed
    /// or aborted that server's last transaction. Clients that share a `context` log an outage of Kafka once.
    pub(super) async fn take_over(config: &KafkaConfig, context: KafkaContext) -> Result<Self, KafkaError> {
        let config = config.clone();
        let initializing = spawn_blocking(move || {
            let milliseconds = config.timeout.as_millis();
            let producer: FutureProducer<KafkaContext> = config
                .client()
                .set("transactional.id", format!("whk-registry-{}", config.topics.registry))
                // A server that dies in a transaction blocks readers for no longer than this, if no other takes over.
                .set("transaction.timeout.ms", milliseconds.saturating_add(1_000).to_string())
                .set("message.timeout.ms", milliseconds.to_string())
                .set("request.timeout.ms", milliseconds.to_string())
                .set("message.max.bytes", MAX_RECORD.to_string())
                .set("linger.ms", "0")
                .create_with_context(context)
                .map_err(without_value)?;
            producer.init_transactions(config.timeout)?;
            Ok(Self { producer, config })
        });
        initializing.await.unwrap_or(Err(KafkaError::Canceled))
    }

    /// Writes all of `writes` or none, as the change with that id. Every record must get offset `next` or a later one.
    /// Returns the writer if it can be used again.
    pub(super) async fn write(
        self,
        id: &str,
        writes: &[Write],
        next: i64,
    ) -> (Option<Self>, Result<(), WriteError>) {
        match self.send(id, writes, next).await {
            Ok(()) => {}
            Err(error) => {
                self.close(!matches!(error, WriteError::Fenced));
                return (None, Err(error));
            }
        }
        let committing = spawn_blocking(move || {
            let committed = self.producer.commit_transaction(self.config.timeout);
            (self, committed)
        });
        match committing.await {
            Ok((writer, Ok(()))) => (Some(writer), Ok(())),
            Ok((writer, Err(error))) => {
                writer.close(false);
                (None, Err(WriteError::Unknown(error)))
            }
            Err(_) => (None, Err(WriteError::Unknown(KafkaError::Canceled))),
        }
    }

    /// Sends all records in a new transaction, and leaves it open.
    pub(super) async fn send(&self, id: &str, writes: &[Write], next: i64) -> Result<(), WriteError> {
        self.producer.begin_transaction().map_err(before_commit)?;
        let mut sent = Vec::with_capacity(writes.len());
        for (number, (key, value)) in (1..).zip(writes) {
            let part = ChangePart::new(id, number, writes.len());
            let mut record = FutureRecord::to(&self.config.topics.registry)
                .partition(0)
                .key(key.as_str())
                .headers(part.header());
            record.payload = value.as_deref();
            sent.push(self.producer.send_result(record).map_err(|(error, _)| before_commit(error))?);
        }
        for sent in join_all(sent).await {
            let delivery = sent.map_err(|_| before_commit(KafkaError::Canceled))?;
            let delivery = delivery.map_err(|(error, _)| before_commit(error))?;
            if delivery.offset < next {
                return Err(WriteError::ShorterLog);
            }
        }
        Ok(())
    }

    /// Gives up the right to write.
    pub(super) fn release(self) {
        self.close(false);
    }

    /// Closes the producer on a blocking thread. Aborts an open transaction first, so that readers needn't wait for its
    /// timeout.
    fn close(self, has_open_transaction: bool) {
        drop(spawn_blocking(move || {
            if has_open_transaction {
                let aborted = self.producer.abort_transaction(self.config.timeout);
                tracing::debug!(?aborted, "a change of the registry is aborted");
            }
            drop(self);
        }));
    }
}

/// Classifies an error before the commit, when nothing is written for sure.
fn before_commit(error: KafkaError) -> WriteError {
    use RDKafkaErrorCode::{
        AllBrokersDown, BrokerTransportFailure, InvalidMessageSize, MessageBatchTooLarge,
        MessageSizeTooLarge, MessageTimedOut, OperationTimedOut, TopicAuthorizationFailed,
        TransactionalIdAuthorizationFailed, UnknownTopic, UnknownTopicOrPartition,
    };
    match error.rdkafka_error_code() {
        Some(
            AllBrokersDown
            | BrokerTransportFailure
            | InvalidMessageSize
            | MessageBatchTooLarge
            | MessageSizeTooLarge
            | MessageTimedOut
            | OperationTimedOut
            | TopicAuthorizationFailed
            | TransactionalIdAuthorizationFailed
            | UnknownTopic
            | UnknownTopicOrPartition,
        ) => WriteError::Refused(error),
        _ => {
            tracing::debug!(%error, "another server writes the registry");
            WriteError::Fenced
        }
    }
}
