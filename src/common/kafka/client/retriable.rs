//! Retriable errors of Kafka, and the retry of blocking calls within a deadline.

use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};

/// Delay before the first retry. Kafka elects a leader within some tenths of a second.
const FIRST_DELAY: Duration = Duration::from_millis(50);

/// Maximum delay between two attempts.
const MAX_DELAY: Duration = Duration::from_millis(500);

/// Whether the same request may succeed a moment later.
///
/// The codes are those that Kafka's protocol marks as retriable, and librdkafka's own for a broken connection, a
/// timeout and a coordinator that isn't known yet. `UnknownTopicOrPartition` is one of them: brokers answer it right
/// after the creation of a topic. A caller that asks whether a topic exists has to look at that code first.
///
/// Source: <https://kafka.apache.org/protocol#protocol_error_codes>.
#[must_use]
pub fn is_retriable(error: &KafkaError) -> bool {
    match error {
        KafkaError::Transaction(error) => error.is_retriable(),
        other => other.rdkafka_error_code().is_some_and(is_retriable_code),
    }
}

/// Whether a request that got this code may succeed a moment later. See [`is_retriable`].
#[must_use]
pub fn is_retriable_code(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    let is_answer_of_broker = matches!(
        code,
        Code::InvalidMessage
            | Code::UnknownTopicOrPartition
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::RequestTimedOut
            // Not in Kafka's list, but sent while a broker starts or stops.
            | Code::BrokerNotAvailable
            | Code::ReplicaNotAvailable
            | Code::NetworkException
            | Code::CoordinatorLoadInProgress
            | Code::CoordinatorNotAvailable
            | Code::NotCoordinator
            | Code::NotEnoughReplicas
            | Code::NotEnoughReplicasAfterAppend
            | Code::NotController
            | Code::ConcurrentTransactions
            | Code::KafkaStorageError
            | Code::FetchSessionIdNotFound
            | Code::InvalidFetchSessionEpoch
            | Code::ListenerNotFound
            | Code::FencedLeaderEpoch
            | Code::UnknownLeaderEpoch
            | Code::OffsetNotAvailable
            | Code::PreferredLeaderNotAvailable
            | Code::EligibleLeadersNotAvailable
            | Code::UnstableOffsetCommit
            | Code::ThrottlingQuotaExceeded
            | Code::UnknownTopicId
    );
    let is_from_librdkafka = matches!(
        code,
        Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::OperationTimedOut
            | Code::TimedOutQueue
            | Code::WaitingForCoordinator
            | Code::WaitCache
            | Code::UnknownTopic
            | Code::UnknownPartition
            | Code::Outdated
            | Code::Retry
    );
    is_answer_of_broker || is_from_librdkafka
}

/// Calls `attempt` until it succeeds, fails with an error that isn't retriable, or `timeout` is over.
///
/// Each attempt is given the time that is left, to be passed on to librdkafka. The first attempt is always made. Blocks
/// the thread for at most `timeout`, as long as `attempt` keeps to its own time.
///
/// # Errors
/// The error of the last attempt. If that attempt ran out of time, the error before it, which tells the cause.
pub fn retry_until<T>(
    timeout: Duration,
    mut attempt: impl FnMut(Duration) -> KafkaResult<T>,
) -> KafkaResult<T> {
    let started = Instant::now();
    let mut delay = FIRST_DELAY;
    let mut cause = None;
    loop {
        let error = match attempt(timeout.saturating_sub(started.elapsed())) {
            Err(error) if is_retriable(&error) => error,
            finished => return finished,
        };
        if timeout.saturating_sub(started.elapsed()) <= delay {
            return Err(if is_timeout(&error) { cause.unwrap_or(error) } else { error });
        }
        tracing::debug!(%error, "Kafka's error is retriable; trying again");
        if !is_timeout(&error) {
            cause = Some(error);
        }
        std::thread::sleep(delay);
        delay = delay.saturating_mul(2).min(MAX_DELAY);
    }
}

fn is_timeout(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::OperationTimedOut)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: RDKafkaErrorCode) -> KafkaError {
        KafkaError::MetadataFetch(code)
    }

    #[test]
    fn elections_and_broken_connections_are_retriable_and_refusals_are_not() {
        for code in [
            RDKafkaErrorCode::NotLeaderForPartition,
            RDKafkaErrorCode::LeaderNotAvailable,
            RDKafkaErrorCode::UnknownTopicOrPartition,
            RDKafkaErrorCode::CoordinatorLoadInProgress,
            RDKafkaErrorCode::BrokerTransportFailure,
            RDKafkaErrorCode::OperationTimedOut,
        ] {
            assert!(is_retriable(&failure(code)), "{code}");
        }
        for code in [
            RDKafkaErrorCode::TopicAuthorizationFailed,
            RDKafkaErrorCode::SaslAuthenticationFailed,
            RDKafkaErrorCode::OffsetOutOfRange,
            RDKafkaErrorCode::InvalidTopic,
            RDKafkaErrorCode::Fatal,
            RDKafkaErrorCode::Unknown,
        ] {
            assert!(!is_retriable(&failure(code)), "{code}");
        }
        assert!(!is_retriable(&KafkaError::Canceled));
    }

    #[test]
    fn a_retriable_error_is_retried_until_the_call_succeeds() {
        let mut attempts = 0;
        let answer = retry_until(Duration::from_secs(30), |left| {
            assert!(left <= Duration::from_secs(30));
            attempts += 1;
            if attempts < 3 { Err(failure(RDKafkaErrorCode::NotLeaderForPartition)) } else { Ok(attempts) }
        });
        assert_eq!(answer.unwrap(), 3);
    }

    #[test]
    fn a_final_error_is_returned_at_once() {
        let mut attempts = 0;
        let answer: KafkaResult<()> = retry_until(Duration::from_secs(30), |_| {
            attempts += 1;
            Err(failure(RDKafkaErrorCode::TopicAuthorizationFailed))
        });
        assert_eq!(answer, Err(failure(RDKafkaErrorCode::TopicAuthorizationFailed)));
        assert_eq!(attempts, 1);
    }

    #[test]
    fn the_deadline_ends_the_retries_with_the_last_error() {
        let (started, timeout) = (Instant::now(), Duration::from_millis(200));
        let mut attempts = 0;
        let answer: KafkaResult<()> = retry_until(timeout, |_| {
            attempts += 1;
            Err(failure(RDKafkaErrorCode::LeaderNotAvailable))
        });
        assert_eq!(answer, Err(failure(RDKafkaErrorCode::LeaderNotAvailable)));
        assert!((1..=3).contains(&attempts), "at 0, 50 and 150 ms, fewer on a busy machine: {attempts}");
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_last_attempt_that_times_out_does_not_hide_the_cause() {
        let timeout = Duration::from_millis(100);
        let mut attempts = 0;
        let answer: KafkaResult<()> = retry_until(timeout, |left| {
            attempts += 1;
            if attempts == 1 {
                return Err(failure(RDKafkaErrorCode::BrokerTransportFailure));
            }
            std::thread::sleep(left);
            Err(failure(RDKafkaErrorCode::OperationTimedOut))
        });
        assert_eq!(answer, Err(failure(RDKafkaErrorCode::BrokerTransportFailure)));

        let answer: KafkaResult<()> =
            retry_until(timeout, |_| Err(failure(RDKafkaErrorCode::OperationTimedOut)));
        assert_eq!(answer, Err(failure(RDKafkaErrorCode::OperationTimedOut)));
    }

    #[test]
    fn the_first_attempt_is_made_without_any_time_left() {
        assert_eq!(retry_until(Duration::ZERO, Ok), Ok(Duration::ZERO));
    }
}
