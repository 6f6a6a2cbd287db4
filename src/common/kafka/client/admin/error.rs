//! Errors of the administration of topics.

use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::common::kafka::{is_not_permitted, without_value};

/// A request about topics failed.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Kafka can't be reached, or didn't answer in time.
    #[error("{doing}: Kafka at {brokers} can't be reached; see --kafka-brokers and --kafka-timeout")]
    Unreachable {
        /// The request.
        doing: &'static str,
        /// Configured brokers.
        brokers: String,
        /// Error of librdkafka.
        source: KafkaError,
    },
    /// Kafka refused the request.
    #[error("{doing} {topic}: {}", advice(*.code))]
    Refused {
        /// The request.
        doing: &'static str,
        /// Topic of the request.
        topic: String,
        /// Error code of Kafka.
        code: RDKafkaErrorCode,
    },
    /// Kafka accepted the request, but didn't complete it in time.
    #[error("{what} isn't done after {waited:?}; run the command again, with a longer --wait if need be")]
    NotReady {
        /// The request.
        what: String,
        /// Time waited.
        waited: Duration,
    },
    /// librdkafka refused the configuration.
    #[error("connect to Kafka; see the --kafka flags")]
    Client(#[source] KafkaError),
}

impl AdminError {
    pub(super) fn client(error: KafkaError) -> Self {
        Self::Client(without_value(error))
    }

    /// Returns whether the user of Kafka lacks a permission.
    #[must_use]
    pub fn is_not_permitted(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if is_not_permitted(*code))
    }
}

fn advice(code: RDKafkaErrorCode) -> String {
    match code {
        RDKafkaErrorCode::InvalidReplicationFactor => {
            "there are fewer brokers than replicas; pass a lower --replication".to_owned()
        }
        RDKafkaErrorCode::TopicDeletionDisabled => {
            "the brokers don't allow it; set their delete.topic.enable".to_owned()
        }
        code if is_not_permitted(code) => {
            "this user of Kafka isn't permitted to; see --kafka-username".to_owned()
        }
        code => format!("Kafka says {code}"),
    }
}
