//! Apache Kafka: where it is, what its topics are called, and what its clients have in common.
//!
//! librdkafka does all of the talking: it has consumer groups, the transactions that the registry is written in,
//! idempotent writes and all settings of topics, of which rskafka (0.6) has none. Neither is much faster: 32 records of 1 KiB at a time,
//! acknowledged by all, 5,400/s with librdkafka and 5,000/s with rskafka's batches; a thousand at a time 160,000/s and
//! 140,000/s; of 64 KiB 12,000 to 15,000/s and 17,000 to 18,000/s (one broker on the same two cores, lingering 5 ms). So a
//! second client would only be one more to configure. Its TLS is OpenSSL's, the only place where that is used.

pub mod admin;
mod config;
pub mod retriable;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::BaseConsumer;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

pub use self::config::{KafkaConfig, KafkaConfigError, Sasl, SaslMechanism, Secret, Tls, Topics};

/// How long it is listened to what librdkafka has to say.
const HEARING: Duration = Duration::from_millis(400);
const HEARING_EACH: Duration = Duration::from_millis(100);

/// What librdkafka says goes to our log: that the brokers are away once, not at each attempt to reach them.
/// Clones share what they know.
#[derive(Debug, Clone, Default)]
pub struct KafkaContext {
    is_away: Arc<AtomicBool>,
}

impl KafkaContext {
    /// Whether no broker could be reached when that was last tried.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.is_away.load(Ordering::Relaxed)
    }

    /// A broker has answered.
    pub fn is_back(&self) {
        if self.is_away.swap(false, Ordering::Relaxed) {
            tracing::info!("Kafka answers again");
        }
    }
}

/// Lets librdkafka say why something failed, such as a password that is wrong: it speaks to those who poll alone.
pub fn hear(consumer: &BaseConsumer<KafkaContext>) {
    let began = Instant::now();
    while began.elapsed() < HEARING {
        // It is told to the context.
        consumer.poll(HEARING_EACH);
    }
}

/// Whether a user of Kafka is told that it may not do something.
#[must_use]
pub fn is_not_permitted(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{
        ClusterAuthorizationFailed, GroupAuthorizationFailed, TopicAuthorizationFailed,
        TransactionalIdAuthorizationFailed,
    };
    matches!(
        code,
        ClusterAuthorizationFailed
            | GroupAuthorizationFailed
            | TopicAuthorizationFailed
            | TransactionalIdAuthorizationFailed
    )
}

/// An error without the value of a setting, which may be a secret.
#[must_use]
pub fn without_value(error: KafkaError) -> KafkaError {
    match error {
        KafkaError::ClientConfig(result, description, key, _) => {
            KafkaError::ClientConfig(result, description, key, "…".into())
        }
        other => other,
    }
}

impl ClientContext for KafkaContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // Each of them comes as an error below as well, or is followed by one.
        tracing::debug!(target: "librdkafka", ?level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AllBrokersDown) => {
                if !self.is_away.swap(true, Ordering::Relaxed) {
                    tracing::error!(reason, "no Kafka broker can be reached");
                }
            }
            // Where a log ends is no error.
            Some(RDKafkaErrorCode::PartitionEOF) => {}
            // Whoever has the client finds out at its next call, and knows what it means there.
            Some(RDKafkaErrorCode::Fatal) => tracing::debug!(%error, reason, "Kafka"),
            Some(RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::OperationTimedOut) => {
                tracing::debug!(%error, reason, "Kafka");
            }
            _ => tracing::warn!(%error, reason, "Kafka"),
        }
    }
}

impl ConsumerContext for KafkaContext {}
