//! Exit codes of Kafka's errors.

use rdkafka::error::KafkaError;

use super::{FAILED, NOT_PERMITTED, UNAVAILABLE, USAGE};
use crate::common::kafka::admin::AdminError;
use crate::common::kafka::is_not_permitted;
use crate::queue::kafka::OpenKafkaError;
use crate::registry::{OpenError, StoreError};

/// Returns the exit code of an error about Kafka. `None` if the error is about something else.
pub(super) fn code_of(cause: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if let Some(OpenError::Store(StoreError::Kafka { source, .. })) = cause.downcast_ref() {
        return source.downcast_ref().map(of_client);
    }
    if let Some(error) = cause.downcast_ref::<AdminError>() {
        return Some(of_admin(error));
    }
    cause.downcast_ref::<OpenKafkaError>().map(|error| match error {
        OpenKafkaError::Unreachable { source, .. } => of_client(source),
        OpenKafkaError::Missing(_) => UNAVAILABLE,
        OpenKafkaError::Settings(_) => USAGE,
        OpenKafkaError::Unequal { .. } => FAILED,
    })
}

fn of_admin(error: &AdminError) -> u8 {
    match error {
        AdminError::Unreachable { .. } | AdminError::NotReady { .. } => UNAVAILABLE,
        AdminError::Client(_) => USAGE,
        error if error.is_not_permitted() => NOT_PERMITTED,
        AdminError::Refused { .. } => FAILED,
    }
}

fn of_client(error: &KafkaError) -> u8 {
    match error {
        KafkaError::ClientConfig(..) => USAGE,
        error if error.rdkafka_error_code().is_some_and(is_not_permitted) => NOT_PERMITTED,
        _ => UNAVAILABLE,
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::error::RDKafkaErrorCode;

    use super::*;
    use crate::exit;
    use crate::queue::open::OpenQueueError;

    #[test]
    fn errors_of_kafka_have_their_documented_codes() {
        let registry = |source: KafkaError| {
            let error = StoreError::Kafka { doing: "read the registry", source: source.into() };
            exit::code_of(&anyhow::Error::from(OpenError::Store(error)).context("open"))
        };
        let failure = KafkaError::MetadataFetch;
        assert_eq!(registry(failure(RDKafkaErrorCode::BrokerTransportFailure)), UNAVAILABLE);
        assert_eq!(registry(failure(RDKafkaErrorCode::TopicAuthorizationFailed)), NOT_PERMITTED);

        let queue = |error: OpenKafkaError| {
            exit::code_of(&anyhow::Error::from(OpenQueueError::from(error)).context("--queue"))
        };
        let unreachable = |code| OpenKafkaError::Unreachable { brokers: "a:1".into(), source: failure(code) };
        assert_eq!(queue(unreachable(RDKafkaErrorCode::AllBrokersDown)), UNAVAILABLE);
        assert_eq!(queue(unreachable(RDKafkaErrorCode::GroupAuthorizationFailed)), NOT_PERMITTED);
        assert_eq!(queue(OpenKafkaError::Missing("events".into())), UNAVAILABLE);
        assert_eq!(queue(OpenKafkaError::Settings("odd".into())), USAGE);

        let refused = |code| AdminError::Refused { doing: "create", topic: "events".into(), code };
        assert_eq!(
            exit::code_of(&refused(RDKafkaErrorCode::ClusterAuthorizationFailed).into()),
            NOT_PERMITTED
        );
        assert_eq!(exit::code_of(&refused(RDKafkaErrorCode::InvalidReplicationFactor).into()), FAILED);
    }
}
