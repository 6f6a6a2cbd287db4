//! Partitions come and go: where a partition is read on, and how it is drained before it goes to another consumer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use super::shared::Shared;
use crate::common::kafka::KafkaContext;
use crate::queue::kafka::held::{Committed, Log, Start};
use crate::queue::kafka::offsets::Progress;

/// How long Kafka is asked what was committed, and how often. Before that is over it takes a consumer for dead that
/// doesn't go on.
const COMMITTED: Duration = Duration::from_secs(240);
const ONE_ANSWER: Duration = Duration::from_secs(10);
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// How long it is asked where the logs of all partitions that come end: where it doesn't say that, it is asked later.
const ASKING: Duration = Duration::from_secs(20);

/// Called by librdkafka, in the thread, when partitions come and go.
pub(super) struct GroupContext {
    pub(super) kafka: KafkaContext,
    pub(super) shared: Arc<Shared>,
    pub(super) timeout: Duration,
    pub(super) drain: Duration,
    pub(super) committing: Mutex<()>,
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.kafka.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.kafka.error(error, reason);
    }
}

impl ConsumerContext for GroupContext {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        error: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let numbers: Vec<i32> = partitions.elements().iter().map(TopicPartitionListElem::partition).collect();
        let done = match error {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assign(consumer, &numbers),
            _ => self.revoke(consumer, &numbers),
        };
        if let Err(error) = done {
            tracing::error!(%error, "take part in the consumer group");
        }
    }
}

impl GroupContext {
    fn had(&self) -> Vec<i32> {
        self.shared.lock().partitions().collect()
    }

    fn both_logs(&self, numbers: &[i32]) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for number in numbers {
            for log in [Log::Events, Log::Retry] {
                list.add_partition(self.shared.topic(log), *number);
            }
        }
        list
    }

    /// Goes on where those who had them before stopped.
    fn assign(&self, consumer: &BaseConsumer<Self>, numbers: &[i32]) -> KafkaResult<()> {
        self.shared.refuses(None);
        let committed = self.committed(consumer, numbers);
        let (mut from, mut paused) = (TopicPartitionList::new(), TopicPartitionList::new());
        let asked = Instant::now();
        for number in numbers {
            let [events, retry] = [Log::Events, Log::Retry].map(|log| {
                let has_time = asked.elapsed() < ASKING;
                self.start(consumer, committed.as_ref(), log, *number, has_time)
            });
            for (log, start) in [(Log::Events, &events), (Log::Retry, &retry)] {
                let at = start.from.as_ref().map(|progress| progress.offset);
                // What isn't known here librdkafka asks for until it is told.
                let offset = at.filter(|at| *at >= 0).map_or(Offset::Stored, Offset::Offset);
                from.add_partition_offset(self.shared.topic(log), *number, offset)?;
            }
            if self.shared.lock().assign(*number, &events, &retry) {
                paused.add_partition(self.shared.topic(Log::Events), *number);
            }
        }
        consumer.incremental_assign(&from)?;
        consumer.pause(&paused)?;
        if !numbers.is_empty() {
            tracing::info!(partitions = ?numbers, now = ?self.had(), "partitions came");
        }
        Ok(())
    }

    /// What was committed of both logs, asked for until Kafka says it: to begin anew would deliver all again, and to commit
    /// that would forget what was settled. Nothing where the partitions are lost meanwhile, or this process is.
    fn committed(&self, consumer: &BaseConsumer<Self>, numbers: &[i32]) -> Option<TopicPartitionList> {
        let (mut is_told, asked) = (false, Instant::now());
        loop {
            let committed = consumer.committed_offsets(self.both_logs(numbers), self.timeout.min(ONE_ANSWER));
            let committed = committed.and_then(|list| {
                list.elements().iter().try_for_each(TopicPartitionListElem::error).map(|()| list)
            });
            let error = match committed {
                Ok(list) => return Some(list),
                Err(error) => error,
            };
            if consumer.assignment_lost() {
                return None;
            }
            if asked.elapsed() >= COMMITTED {
                tracing::error!(%error, "Kafka doesn't say what was committed");
                self.shared.close();
                return None;
            }
            if !std::mem::replace(&mut is_told, true) {
                tracing::warn!(%error, "Kafka doesn't say yet what was committed; it is asked again");
            }
            std::thread::sleep(ASK_AGAIN);
        }
    }

    /// Where a log is to be read on, and where it ends; nothing where Kafka doesn't say.
    fn start(
        &self,
        consumer: &BaseConsumer<Self>,
        committed: Option<&TopicPartitionList>,
        log: Log,
        number: i32,
        has_time: bool,
    ) -> Start {
        let topic = self.shared.topic(log);
        let found = committed.and_then(|list| list.find_partition(topic, number));
        let progress = found.as_ref().and_then(|found| match found.offset() {
            Offset::Offset(offset) => Some(Progress { offset, metadata: metadata_of(found) }),
            _ => None,
        });
        let asked = has_time.then(|| consumer.fetch_watermarks(topic, number, self.timeout.min(ONE_ANSWER)));
        match asked {
            Some(Ok((start, end))) => {
                // A topic that was made anew begins at 0, whatever was committed for the old one.
                let progress = progress.filter(|progress| (start..=end).contains(&progress.offset));
                let beginning = || Progress { offset: start, metadata: String::new() };
                let from = found.is_some().then(|| progress.unwrap_or_else(beginning));
                Start { from, end: Some(end) }
            }
            unknown => {
                let error = unknown.and_then(Result::err);
                tracing::warn!(topic, partition = number, ?error, "Kafka doesn't say yet where the log ends");
                Start { from: progress, end: None }
            }
        }
    }

    /// Lets what is being delivered of them end, within the drain's time, and commits.
    fn revoke(&self, consumer: &BaseConsumer<Self>, numbers: &[i32]) -> KafkaResult<()> {
        let shared = &self.shared;
        if consumer.assignment_lost() {
            tracing::warn!(partitions = ?numbers, "partitions were lost: what is being delivered of them is delivered again by others");
        } else {
            let mut held = shared.lock();
            held.leave(numbers, shared.clock.now());
            let drain = self.drain.min(shared.time_to_drain());
            let waited = shared.settled.wait_timeout_while(held, drain, |held| held.busy(numbers) > 0);
            held = waited.unwrap_or_else(PoisonError::into_inner).0;
            let left = held.busy(numbers);
            drop(held);
            if left > 0 {
                tracing::warn!(partitions = ?numbers, jobs = left, "partitions go before all that is being delivered of them was; it is delivered again");
            }
            if let Err(error) = self.commit(consumer) {
                tracing::warn!(%error, "commit offsets of partitions that go: what was settled since the last time is delivered again");
            }
        }
        shared.lock().forget(numbers, shared.clock.now());
        shared.changed.notify_waiters();
        // librdkafka remembers what is paused, also for when it comes back.
        consumer.resume(&self.both_logs(numbers))?;
        consumer.incremental_unassign(&self.both_logs(numbers))?;
        tracing::info!(partitions = ?numbers, now = ?self.had(), "partitions went");
        Ok(())
    }

    /// Commits what is settled, as far as that has changed, one caller at a time. It waits for the answer: of commits that
    /// aren't waited for librdkafka doesn't tell whether they failed.
    pub(super) fn commit(&self, consumer: &BaseConsumer<Self>) -> KafkaResult<()> {
        let _turn = self.committing.lock().unwrap_or_else(PoisonError::into_inner);
        let progress = self.shared.lock().progress();
        if progress.is_empty() {
            self.shared.committed(Committed::Yes);
            return Ok(());
        }
        let mut offsets = TopicPartitionList::new();
        for (partition, log, Progress { offset, metadata }) in progress {
            let mut element = offsets.add_partition(self.shared.topic(log), partition);
            element.set_offset(Offset::Offset(offset))?;
            element.set_metadata(&metadata);
        }
        let committed = consumer.commit(&offsets, CommitMode::Sync);
        self.shared.committed(match &committed {
            Ok(()) => Committed::Yes,
            Err(error) if error.rdkafka_error_code().is_some_and(passes) => Committed::NotYet,
            Err(_) => Committed::Refused,
        });
        committed
    }
}

/// Whether a commit may be taken later that is refused so.
fn passes(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{
        AllBrokersDown, AssignmentLost, BrokerTransportFailure, CoordinatorLoadInProgress,
        CoordinatorNotAvailable, IllegalGeneration, NotCoordinator, OperationTimedOut, RebalanceInProgress,
        RequestTimedOut, UnknownMemberId, WaitingForCoordinator,
    };
    matches!(
        code,
        AllBrokersDown
            | AssignmentLost
            | BrokerTransportFailure
            | CoordinatorLoadInProgress
            | CoordinatorNotAvailable
            | IllegalGeneration
            | NotCoordinator
            | OperationTimedOut
            | RebalanceInProgress
            | RequestTimedOut
            | UnknownMemberId
            | WaitingForCoordinator
    )
}

/// What is settled beyond an offset, as whoever committed it wrote it.
fn metadata_of(committed: &TopicPartitionListElem<'_>) -> String {
    // rdkafka panics where it isn't text.
    catch_unwind(AssertUnwindSafe(|| committed.metadata().to_owned())).unwrap_or_default()
}
