//! The consuming side: jobs are claimed from what the group's thread has read, and settled there; what can't be settled
//! in memory alone is written to another topic first.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::group::{Group, GroupConfig, Shared, What, Writing};
use super::held::{Held, Log, Rest, Window};
use super::producer::Producer;
use super::record::{self, Death, Record};
use crate::common::clock::Clock;
use crate::common::http::root_cause;
use crate::common::job::Lane;
use crate::common::kafka::KafkaConfig;
use crate::common::retry::Verdict;
use crate::queue::record as job_record;
use crate::queue::{Depth, Lease, QueueConfig, QueueError, Settlement};

/// Jobs of a partition that are put aside in one go.
const BATCH: usize = 1_024;

/// Between attempts to put jobs aside while Kafka is away.
const PAUSE: Duration = Duration::from_millis(500);

const TOO_SMALL: &str = "the topic takes smaller records than that of the events; raise its max.message.bytes, as whk kafka-setup has it";

/// See the module's page.
pub(super) struct Consumer {
    shared: Arc<Shared>,
    group: Arc<Group>,
    _writing: AbortOnDropHandle<()>,
}

impl Consumer {
    /// Joins the group.
    pub(super) fn join(
        kafka: &KafkaConfig,
        group: &GroupConfig,
        config: QueueConfig,
        producer: Producer,
        clock: Clock,
    ) -> Result<Self, KafkaError> {
        let window = Window { jobs: group.window_jobs, bytes: group.window_bytes };
        let (writing, to_write) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared::new(Held::new(config, window), writing, kafka.topics.clone(), clock));
        let writing = tokio::spawn(write(Arc::clone(&shared), producer, to_write));
        Ok(Self {
            group: Arc::new(Group::join(kafka, group, &shared)?),
            shared,
            _writing: AbortOnDropHandle::new(writing),
        })
    }

    pub(super) async fn claim(&self, max: usize) -> Vec<Lease> {
        loop {
            // Registered before looking, so that what comes in between isn't missed.
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.shared.is_closed.load(Ordering::Acquire) {
                return Vec::new();
            }
            let due = {
                let mut held = self.shared.lock();
                let claimed = held.claim(max, self.shared.clock.now());
                if !claimed.is_empty() {
                    return claimed;
                }
                held.next_due()
            };
            match due {
                None => changed.await,
                Some(due) => {
                    drop(tokio::time::timeout_at(self.shared.clock.instant_at(due), changed).await);
                }
            }
        }
    }

    /// What is to be written elsewhere is written after this, however long that takes: its record is held until then.
    pub(super) fn settle(&self, settlements: &[Settlement]) {
        let now = self.shared.clock.now();
        {
            let mut held = self.shared.lock();
            for settlement in settlements {
                if let Some(rest) = held.settle(settlement, now) {
                    self.shared.write(self.writing_of(&rest, settlement));
                }
            }
        }
        self.shared.rang();
    }

    fn writing_of(&self, rest: &Rest, settlement: &Settlement) -> Writing {
        let (entry, past) = match rest {
            Rest::Later(aside) => return self.shared.to_retry(aside),
            Rest::Dead(entry, past) => (entry, past),
        };
        let death = match &settlement.verdict {
            Verdict::Dead { cause } => {
                let (attempts, now) = (settlement.attempts_made(), self.shared.clock.now());
                Some(Death::new(cause.kind(), cause.to_string(), attempts, now))
            }
            _ => None,
        };
        let headers = [(record::JOB, job_record::encode(&entry.job)), (record::PAST, record::json(past))];
        let record = Record {
            topic: self.shared.topics.dead.as_str().into(),
            partition: Some(entry.place.partition),
            key: entry.job.id.to_string().into_bytes(),
            headers: headers
                .into_iter()
                .chain(death.map(|death| (record::DEATH, record::json(&death))))
                .collect(),
            value: Some(entry.job.body.clone()),
        };
        Writing { record, place: entry.place, what: What::Dead }
    }

    pub(super) fn release(&self, lanes: &[Lane]) {
        self.shared.lock().release(lanes, self.shared.clock.now());
        self.shared.changed.notify_waiters();
    }

    /// Gives out no more.
    pub(super) fn close(&self) {
        self.shared.close();
    }

    /// Drains what is being delivered for `within` at most, commits, and leaves the group.
    pub(super) async fn leave(&self, within: Duration) {
        self.close();
        let group = Arc::clone(&self.group);
        // It ends by itself; that it couldn't be waited for changes nothing.
        tokio::task::spawn_blocking(move || group.leave(within)).await.unwrap_or_default();
    }

    /// The offset that a log is read on from, where this consumer has it.
    pub(super) fn next(&self, log: Log, partition: i32) -> Option<i64> {
        self.shared.lock().next(log, partition)
    }

    /// Why Kafka doesn't take it into the group, if it doesn't.
    pub(super) fn refused(&self) -> Option<RDKafkaErrorCode> {
        *self.shared.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The partitions that it has.
    #[cfg(test)]
    pub(super) fn partitions(&self) -> Vec<i32> {
        self.shared.lock().partitions().collect()
    }

    /// How many of its logs aren't read just now.
    #[cfg(test)]
    pub(super) fn paused(&self) -> usize {
        self.shared.lock().paused()
    }

    /// Jobs that are being written to other topics.
    #[cfg(test)]
    pub(super) fn writing(&self) -> usize {
        self.shared.lock().writing()
    }

    /// What is held.
    pub(super) fn depth(&self) -> Depth {
        self.shared.lock().depth(self.shared.clock.now())
    }
}

/// Writes what is put aside and given up: each partition's in order, and for none of them another's is waited for.
async fn write(shared: Arc<Shared>, producer: Producer, mut to_write: mpsc::UnboundedReceiver<Writing>) {
    let mut partitions = HashMap::new();
    let mut tasks = JoinSet::new();
    while let Some(writing) = to_write.recv().await {
        let of_partition = partitions.entry(writing.place.partition).or_insert_with(|| {
            let (sender, receiver) = mpsc::unbounded_channel();
            tasks.spawn(write_partition(Arc::clone(&shared), producer.clone(), receiver));
            sender
        });
        // It ends after this.
        drop(of_partition.send(writing));
    }
}

async fn write_partition(
    shared: Arc<Shared>,
    producer: Producer,
    mut to_write: mpsc::UnboundedReceiver<Writing>,
) {
    // What couldn't be written is written again, before what comes next.
    let mut open = Vec::new();
    loop {
        if open.is_empty() {
            if to_write.recv_many(&mut open, BATCH).await == 0 {
                return;
            }
        } else {
            tokio::time::sleep(PAUSE).await;
            while let Ok(next) = to_write.try_recv() {
                open.push(next);
                if open.len() >= BATCH {
                    break;
                }
            }
        }
        open = write_some(&shared, &producer, open).await;
    }
}

/// Writes what Kafka takes; gives back the rest.
async fn write_some(shared: &Shared, producer: &Producer, writings: Vec<Writing>) -> Vec<Writing> {
    let records: Vec<Record> = writings.iter().map(|writing| writing.record.clone()).collect();
    let written = producer.write_each(&records).await;
    let (mut failed, mut told, now) = (Vec::new(), None, shared.clock.now());
    {
        let mut held = shared.lock();
        for (mut writing, written) in writings.into_iter().zip(written) {
            match written {
                Ok(offset) => {
                    let asides = held.written(writing.place, writing.what.in_retry(), offset, now);
                    // Before anybody else puts something aside.
                    shared.put_aside(&asides);
                }
                Err(error) => {
                    if matches!((&error, &writing.what), (QueueError::TooLarge, What::Damaged)) {
                        writing.record.shorten();
                    }
                    failed.push(writing);
                    told.get_or_insert(error);
                }
            }
        }
    }
    shared.rang();
    match told {
        None => {}
        Some(QueueError::TooLarge) => tracing::error!(jobs = failed.len(), "put jobs aside: {TOO_SMALL}"),
        Some(error) => {
            tracing::error!(%error, cause = %root_cause(&error), jobs = failed.len(), "put jobs aside");
        }
    }
    failed
}
