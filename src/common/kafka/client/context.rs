//! The context of every client: writes the messages of librdkafka to the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// Time for which [`log_errors`] polls.
const ERROR_POLL_TIME: Duration = Duration::from_millis(400);

/// Maximum time of one poll.
const POLL_TIME: Duration = Duration::from_millis(100);

/// Writes messages of librdkafka to the log. An outage of all brokers is logged once, not at each attempt to connect.
///
/// Clones share the state of the outage.
#[derive(Debug, Clone, Default)]
pub struct KafkaContext {
    is_unreachable: Arc<AtomicBool>,
}

impl KafkaContext {
    /// Notes that a broker has answered. Ends an outage.
    pub fn broker_answered(&self) {
        if self.is_unreachable.swap(false, Ordering::Relaxed) {
            tracing::info!("Kafka can be reached again");
        }
    }
}

/// Lets librdkafka log why a request failed, such as a wrong password. Blocks for 400 ms.
///
/// librdkafka reports such errors only while a consumer is polled.
pub fn log_errors(consumer: &BaseConsumer<KafkaContext>) {
    let started = Instant::now();
    while started.elapsed() < ERROR_POLL_TIME {
        // The context gets the errors.
        consumer.poll(POLL_TIME);
    }
}

impl ClientContext for KafkaContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // At debug level, because an error with the same content follows.
        tracing::debug!(target: "librdkafka", ?level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AllBrokersDown) => {
                if !self.is_unreachable.swap(true, Ordering::Relaxed) {
                    tracing::error!(reason, "no Kafka broker can be reached");
                }
            }
            // The end of a partition isn't an error.
            Some(RDKafkaErrorCode::PartitionEOF) => {}
            // The owner of the client gets a fatal error from its next call, and handles it there.
            Some(RDKafkaErrorCode::Fatal) => tracing::debug!(%error, reason, "Kafka"),
            Some(RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::OperationTimedOut) => {
                tracing::debug!(%error, reason, "Kafka");
            }
            _ => tracing::warn!(%error, reason, "Kafka"),
        }
    }
}

impl ConsumerContext for KafkaContext {}
