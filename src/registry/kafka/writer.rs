//! Writing changes, each as one transaction.

use futures_util::future::join_all;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use tokio::task::spawn_blocking;

use super::log::Part;
use crate::common::kafka::{KafkaConfig, KafkaContext, without_value};
use crate::registry::record::Write;

/// The largest record, in bytes, that is sent: what the topic itself allows is less.
const MOST_RECORD: usize = 64 << 20;

/// The one that may write. Whoever makes another takes that away from this one.
pub(super) struct Writer {
    producer: FutureProducer<KafkaContext>,
    config: KafkaConfig,
}

/// Why a change isn't known to be written.
#[derive(Debug)]
pub(super) enum Unwritten {
    /// It isn't: another server may write now, or something else that a new writer gets over.
    Fenced,
    /// It isn't, and won't be.
    Failed(KafkaError),
    /// It isn't: the log is shorter than what was read of it.
    Foreign,
    /// It may be.
    Unknown(KafkaError),
}

impl Writer {
    /// Takes the right to write, from whoever has it; what they had begun is undone, or done, when this returns. Clients
    /// with one `context` tell once that Kafka is away.
    pub(super) async fn take(config: &KafkaConfig, context: KafkaContext) -> Result<Self, KafkaError> {
        let config = config.clone();
        let taking = spawn_blocking(move || {
            let milliseconds = config.timeout.as_millis();
            let producer: FutureProducer<KafkaContext> = config
                .client()
                .set("transactional.id", format!("whk-registry-{}", config.topics.registry))
                // A server that dies in between holds up its readers for no longer, if nobody writes meanwhile.
                .set("transaction.timeout.ms", milliseconds.saturating_add(1_000).to_string())
                .set("message.timeout.ms", milliseconds.to_string())
                .set("request.timeout.ms", milliseconds.to_string())
                .set("message.max.bytes", MOST_RECORD.to_string())
                .set("linger.ms", "0")
                .create_with_context(context)
                .map_err(without_value)?;
            producer.init_transactions(config.timeout)?;
            Ok(Self { producer, config })
        });
        taking.await.unwrap_or(Err(KafkaError::Canceled))
    }

    /// Writes all of `writes` or none. They must come to stand at `next` or after it.
    pub(super) async fn write(
        self,
        id: &str,
        writes: &[Write],
        next: i64,
    ) -> (Option<Self>, Result<(), Unwritten>) {
        match self.send(id, writes, next).await {
            Ok(()) => {}
            Err(unwritten) => {
                self.give_up(!matches!(unwritten, Unwritten::Fenced));
                return (None, Err(unwritten));
            }
        }
        let committing = spawn_blocking(move || {
            let committed = self.producer.commit_transaction(self.config.timeout);
            (self, committed)
        });
        match committing.await {
            Ok((writer, Ok(()))) => (Some(writer), Ok(())),
            Ok((writer, Err(error))) => {
                writer.give_up(false);
                (None, Err(Unwritten::Unknown(error)))
            }
            Err(_) => (None, Err(Unwritten::Unknown(KafkaError::Canceled))),
        }
    }

    pub(super) async fn send(&self, id: &str, writes: &[Write], next: i64) -> Result<(), Unwritten> {
        self.producer.begin_transaction().map_err(unwritten)?;
        let mut sent = Vec::with_capacity(writes.len());
        for (number, (key, value)) in (1..).zip(writes) {
            let part = Part::new(id, number, writes.len());
            let mut record = FutureRecord::to(&self.config.topics.registry)
                .partition(0)
                .key(key.as_str())
                .headers(part.header());
            record.payload = value.as_deref();
            sent.push(self.producer.send_result(record).map_err(|(error, _)| unwritten(error))?);
        }
        for sent in join_all(sent).await {
            let delivery = sent.map_err(|_| unwritten(KafkaError::Canceled))?;
            let delivery = delivery.map_err(|(error, _)| unwritten(error))?;
            if delivery.offset < next {
                return Err(Unwritten::Foreign);
            }
        }
        Ok(())
    }

    /// Lets go of it.
    pub(super) fn let_go(self) {
        self.give_up(false);
    }

    /// Lets go of it, away from the threads that serve. What was begun is undone, so that readers needn't wait.
    fn give_up(self, has_begun: bool) {
        drop(spawn_blocking(move || {
            if has_begun {
                let undone = self.producer.abort_transaction(self.config.timeout);
                tracing::debug!(?undone, "a change of the registry is undone");
            }
            drop(self);
        }));
    }
}

/// What went wrong before the end, when nothing counts yet.
fn unwritten(error: KafkaError) -> Unwritten {
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
        ) => Unwritten::Failed(error),
        _ => {
            tracing::debug!(%error, "another server writes the registry");
            Unwritten::Fenced
        }
    }
}
