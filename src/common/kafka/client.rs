//! Clients of Kafka: settings, topics, errors and their retry. Only builds with the `kafka` feature have them.
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
mod context;
pub mod retriable;

use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

pub use self::context::{KafkaContext, log_errors};
use super::KafkaConfig;

impl KafkaConfig {
    /// Returns the settings that all clients of librdkafka have in common.
    ///
    /// `Debug` of the result shows the private key, so it must not be logged.
    #[must_use]
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        let timeout = self.timeout.as_millis().to_string();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "whk")
            .set("security.protocol", self.protocol())
            .set("socket.timeout.ms", &timeout)
            .set("socket.nagle.disable", "true")
            .set("socket.keepalive.enable", "true")
            .set("topic.metadata.refresh.interval.ms", "30000")
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000");
        if let Some(tls) = &self.tls {
            match &tls.roots {
                Some(pem) => config.set("ssl.ca.pem", pem),
                None => config.set("ssl.ca.location", "probe"),
            };
            if let Some((certificates, key)) = &tls.own {
                config.set("ssl.certificate.pem", certificates).set("ssl.key.pem", key.reveal());
            }
        }
        if let Some(sasl) = &self.sasl {
            config
                .set("sasl.mechanisms", sasl.mechanism.as_str())
                .set("sasl.username", &sasl.username)
                .set("sasl.password", sasl.password.reveal());
        }
        config
    }

    fn protocol(&self) -> &'static str {
        match (&self.tls, &self.sasl) {
            (None, None) => "plaintext",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        }
    }
}

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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::common::kafka::{Sasl, SaslMechanism, Secret, Tls, Topics};

    #[test]
    fn tls_and_sasl_choose_the_protocol() {
        let topics = Topics::parse("events", "whk.tenants").unwrap();
        let mut config = KafkaConfig::parse("a:1", topics, Duration::from_secs(1)).unwrap();
        assert_eq!(config.client().get("security.protocol"), Some("plaintext"));
        let password = Secret::new("hunter2".into());
        config.sasl = Some(Sasl { mechanism: SaslMechanism::Plain, username: "u".into(), password });
        config.tls = Some(Tls::default());
        assert_eq!(config.client().get("security.protocol"), Some("sasl_ssl"));
        assert_eq!(config.client().get("sasl.password"), Some("hunter2"));
    }
}
