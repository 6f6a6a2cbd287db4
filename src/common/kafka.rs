//! Apache Kafka: configuration, topics, and the parts that all of its clients share.
//!
//! All clients use librdkafka. It has consumer groups, idempotent producers, all settings of topics, and the transactions
//! that the registry needs; rskafka (0.6) has none of these. Neither library is much faster. The measurements, with records
//! acknowledged by all replicas, 5 ms of lingering, and one broker on the same two cores:
//!
//! | records | librdkafka | rskafka |
//! |---|---|---|
//! | 1 KiB, 32 at a time | 5,400/s | 5,000/s |
//! | 1 KiB, 1,000 at a time | 160,000/s | 140,000/s |
//! | 64 KiB | 12,000 to 15,000/s | 17,000 to 18,000/s |
//!
//! A second library would therefore only be one more to configure. librdkafka's TLS uses OpenSSL; nothing else here does.

pub mod admin;
mod config;
mod context;
pub mod retriable;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

pub use self::config::{KafkaConfig, KafkaConfigError, Sasl, SaslMechanism, Secret, Tls, Topics};
pub use self::context::{KafkaContext, log_errors};

/// Returns whether Kafka refused a request because its user lacks a permission.
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

/// Removes the value of a setting from an error, because it may be a secret.
#[must_use]
pub fn without_value(error: KafkaError) -> KafkaError {
    match error {
        KafkaError::ClientConfig(result, description, key, _) => {
            KafkaError::ClientConfig(result, description, key, "…".into())
        }
        other => other,
    }
}
