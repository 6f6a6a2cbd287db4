//! Partitions come and go: where a partition is read on, and how it is drained before it goes to another consumer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use super::shared::Shared;
use crate::common::kafka::KafkaContext;
use crate::queue::kafka::held::Log;
use crate::queue::kafka::offsets::Progress;

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
        let committed = consumer.committed_offsets(self.both_logs(numbers), self.timeout);
        let committed = committed.inspect_err(|error| {
            tracing::warn!(%error, "what was committed isn't known: what was settled beyond it may be delivered again");
        });
        let mut from = TopicPartitionList::new();
        for number in numbers {
            let at = |log| self.begin(consumer, committed.as_ref().ok(), log, *number);
            let ((events, _), (retry, retry_end)) = (at(Log::Events), at(Log::Retry));
            for (log, progress) in [(Log::Events, &events), (Log::Retry, &retry)] {
                let offset =
                    progress.as_ref().map_or(Offset::Stored, |progress| Offset::Offset(progress.offset));
                from.add_partition_offset(self.shared.topic(log), *number, offset)?;
            }
            self.shared.lock().assign(*number, events.as_ref(), retry.as_ref(), retry_end);
        }
        consumer.incremental_assign(&from)?;
        if !numbers.is_empty() {
            tracing::info!(partitions = ?numbers, now = ?self.had(), "partitions came");
        }
        Ok(())
    }

    /// Where a log is to be read on, and where it ends; nothing where Kafka doesn't say.
    fn begin(
        &self,
        consumer: &BaseConsumer<Self>,
        committed: Option<&TopicPartitionList>,
        log: Log,
        number: i32,
    ) -> (Option<Progress>, i64) {
        let topic = self.shared.topic(log);
        let found = committed.and_then(|list| list.find_partition(topic, number));
        let progress = found.and_then(|found| match found.offset() {
            Offset::Offset(offset) => Some(Progress { offset, metadata: found.metadata().to_owned() }),
            _ => None,
        });
        match consumer.fetch_watermarks(topic, number, self.timeout) {
            // A topic that was made anew begins at 0, whatever was committed for the old one.
            Ok((start, end)) => {
                let progress = progress.filter(|progress| (start..=end).contains(&progress.offset));
                (Some(progress.unwrap_or(Progress { offset: start, metadata: String::new() })), end)
            }
            Err(error) => {
                tracing::warn!(topic, partition = number, %error, "where the log ends isn't known: jobs that were put aside before may come late");
                (progress, 0)
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
            return Ok(());
        }
        let mut offsets = TopicPartitionList::new();
        for (partition, log, Progress { offset, metadata }) in progress {
            let mut element = offsets.add_partition(self.shared.topic(log), partition);
            element.set_offset(Offset::Offset(offset))?;
            element.set_metadata(&metadata);
        }
        consumer.commit(&offsets, CommitMode::Sync).inspect_err(|_| self.shared.lock().nothing_committed())
    }
}
