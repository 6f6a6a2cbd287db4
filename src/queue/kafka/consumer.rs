//! The consuming side: jobs are claimed from what the group's thread has read, and settled there; what can't be settled
//! in memory alone is written to another topic first.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::group::{Group, GroupConfig, Shared, Writing};
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

/// Jobs that are put aside in one go.
const BATCH: usize = 64;

/// Between attempts to put jobs aside while Kafka is away.
const PAUSE: Duration = Duration::from_millis(500);

/// Bytes of a body that every topic takes.
const SURELY_TAKEN: usize = 256 << 10;

const TOO_SMALL: &str = "write to Kafka: the topic takes smaller records than that of the events; raise its max.message.bytes, as whk kafka-setup has it";

/// See the module's page.
pub(super) struct Consumer {
    shared: Arc<Shared>,
    group: Arc<Group>,
    producer: Producer,
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
        let writing = tokio::spawn(write(Arc::clone(&shared), producer.clone(), to_write));
        Ok(Self {
            group: Arc::new(Group::join(kafka, group, &shared)?),
            shared,
            producer,
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

    pub(super) async fn settle(&self, settlements: &[Settlement]) -> Result<(), QueueError> {
        let now = self.shared.clock.now();
        let (mut first, mut records) = (Vec::new(), Vec::new());
        {
            let mut held = self.shared.lock();
            for settlement in settlements {
                match held.rest_of(settlement, now) {
                    None => held.settle(settlement, false, now),
                    Some(rest) => {
                        records.push(self.record_of(&rest, settlement));
                        first.push(settlement);
                    }
                }
            }
        }
        self.shared.rang();
        if !first.is_empty() {
            self.producer.write(&records).await.map_err(|error| match error {
                QueueError::TooLarge => QueueError::Unavailable(TOO_SMALL, Box::new(error)),
                error => error,
            })?;
            let mut held = self.shared.lock();
            first.into_iter().for_each(|settlement| held.settle(settlement, true, now));
            drop(held);
            self.shared.rang();
        }
        Ok(())
    }

    fn record_of(&self, rest: &Rest, settlement: &Settlement) -> Record {
        let (entry, past) = match rest {
            Rest::Later(aside) => return self.shared.retry_record(aside),
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
        Record {
            topic: self.shared.topics.dead.as_str().into(),
            partition: Some(entry.place.partition),
            key: entry.job.id.to_string().into_bytes(),
            headers: headers
                .into_iter()
                .chain(death.map(|death| (record::DEATH, record::json(&death))))
                .collect(),
            value: Some(entry.job.body.clone()),
        }
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

    /// What is held.
    pub(super) fn depth(&self) -> Depth {
        self.shared.lock().depth(self.shared.clock.now())
    }
}

/// Takes their bodies from records that hold no job and are larger than the topic of dead letters takes, since nobody
/// could deliver them. A job stays as it is: it waits until its topic takes it.
async fn shorten_damaged(producer: &Producer, batch: &[Writing], records: &mut [Record]) {
    for (writing, record) in batch.iter().zip(records) {
        let is_too_large = record.value.as_ref().is_some_and(|value| value.len() > SURELY_TAKEN);
        if !is_too_large {
            continue;
        }
        let refused = matches!(producer.write(std::slice::from_ref(record)).await, Err(QueueError::TooLarge));
        match writing.job {
            _ if !refused => {}
            None => {
                tracing::error!(topic = %record.topic, "a record that isn't a job is too large for the dead letters: its body isn't kept");
                record.value = Some(Bytes::new());
            }
            Some(_) => tracing::error!(topic = %record.topic, "put a job aside: {TOO_SMALL}"),
        }
    }
}

/// Writes what is put aside, in order, and again until it is written.
async fn write(shared: Arc<Shared>, producer: Producer, mut to_write: mpsc::UnboundedReceiver<Writing>) {
    let mut batch = Vec::with_capacity(BATCH);
    while to_write.recv_many(&mut batch, BATCH).await > 0 {
        let mut records: Vec<Record> = batch.iter().map(|writing| writing.record.clone()).collect();
        while let Err(error) = producer.write(&records).await {
            match error {
                QueueError::TooLarge => shorten_damaged(&producer, &batch, &mut records).await,
                error => tracing::error!(%error, cause = %root_cause(&error), "put jobs aside"),
            }
            tokio::time::sleep(PAUSE).await;
        }
        let mut held = shared.lock();
        for Writing { place, job, .. } in batch.drain(..) {
            held.written(place, job.as_deref());
        }
        drop(held);
        shared.rang();
    }
}
