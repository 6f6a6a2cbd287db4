//! What the group's threads and those who claim and settle share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::Message as _;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::BorrowedMessage;
use tokio::sync::{Notify, mpsc};

use crate::common::clock::Clock;
use crate::common::kafka::Topics;
use crate::queue::kafka::held::{Aside, Committed, Entry, Held, Log, Place};
use crate::queue::kafka::record::{self, Record};
use crate::queue::record::RecordError;

/// What is to be written to another topic before its place is settled.
pub(in super::super) struct Writing {
    pub(in super::super) record: Record,
    pub(in super::super) place: Place,
    pub(in super::super) what: What,
}

/// What a record that is to be written is.
pub(in super::super) enum What {
    /// A job that is put aside.
    Aside(Arc<Entry>),
    /// A job that is given up.
    Dead,
    /// No job.
    Damaged,
}

impl What {
    /// What stands in `events.retry` then.
    pub(in super::super) fn in_retry(&self) -> Option<&Entry> {
        match self {
            Self::Aside(entry) => Some(entry),
            Self::Dead | Self::Damaged => None,
        }
    }
}

/// See the module's page.
pub(in super::super) struct Shared {
    pub(in super::super) held: Mutex<Held>,
    /// Rung when a claim may find something.
    pub(in super::super) changed: Notify,
    /// Notified when something was settled: the thread that commits and a partition's drain wait for it.
    pub(super) settled: Condvar,
    pub(in super::super) writing: mpsc::UnboundedSender<Writing>,
    pub(in super::super) topics: Topics,
    pub(in super::super) clock: Clock,
    /// Nothing is given out any more.
    pub(in super::super) is_closed: AtomicBool,
    /// Why Kafka doesn't take this process into the group, if it doesn't.
    pub(in super::super) refused: Mutex<Option<RDKafkaErrorCode>>,
    /// When the last drain is over, once this process leaves the group.
    drained_by: OnceLock<Instant>,
}

impl Shared {
    pub(in super::super) fn new(
        held: Held,
        writing: mpsc::UnboundedSender<Writing>,
        topics: Topics,
        clock: Clock,
    ) -> Self {
        let (changed, settled) = (Notify::new(), Condvar::new());
        let (held, is_closed) = (Mutex::new(held), AtomicBool::new(false));
        let (refused, drained_by) = (Mutex::new(None), OnceLock::new());
        Self { held, changed, settled, writing, topics, clock, is_closed, refused, drained_by }
    }

    pub(in super::super) fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives out no more.
    pub(in super::super) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    pub(super) fn refuses(&self, code: Option<RDKafkaErrorCode>) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = code;
    }

    /// This process leaves: all that it drains is drained `within` that time, or not.
    pub(super) fn drains_for(&self, within: Duration) {
        let now = Instant::now();
        self.drained_by.get_or_init(|| now.checked_add(within).unwrap_or(now));
    }

    /// How long a partition that goes may still be drained, where this process leaves.
    pub(super) fn time_to_drain(&self) -> Duration {
        self.drained_by.get().map_or(Duration::MAX, |by| by.saturating_duration_since(Instant::now()))
    }

    /// What was to be committed is, or isn't.
    pub(super) fn committed(&self, committed: Committed) {
        self.lock().committed(committed);
        self.changed.notify_waiters();
    }

    /// Something was settled.
    pub(in super::super) fn rang(&self) {
        self.changed.notify_waiters();
        self.settled.notify_all();
    }

    pub(super) fn topic(&self, log: Log) -> &str {
        match log {
            Log::Events => &self.topics.events,
            Log::Retry => &self.topics.retry,
        }
    }

    /// The record that a job waits as in `events.retry`.
    pub(in super::super) fn to_retry(&self, aside: &Aside) -> Writing {
        let record = Record {
            topic: self.topics.retry.as_str().into(),
            partition: Some(aside.entry.place.partition),
            key: record::key_of(&aside.entry.job),
            headers: vec![
                (record::JOB, crate::queue::record::encode(&aside.entry.job)),
                (record::PAST, record::json(&aside.past)),
            ],
            value: Some(aside.entry.job.body.clone()),
        };
        Writing { record, place: aside.entry.place, what: What::Aside(Arc::clone(&aside.entry)) }
    }

    /// Puts jobs aside, in order.
    pub(in super::super) fn put_aside(&self, asides: &[Aside]) {
        asides.iter().for_each(|aside| self.write(self.to_retry(aside)));
    }

    pub(in super::super) fn write(&self, writing: Writing) {
        // Its other end lives as long as this.
        drop(self.writing.send(writing));
    }

    /// Takes in a record; says how many bytes it has.
    pub(super) fn take_in(&self, message: &BorrowedMessage<'_>) -> usize {
        let now = self.clock.now();
        let log = if message.topic() == self.topics.events { Log::Events } else { Log::Retry };
        let (partition, offset) = (message.partition(), message.offset());
        let (at, bytes) = ((log, partition, offset), record::size(message));
        let body = message.payload().ok_or(RecordError::Damaged("it has no value"));
        match body.and_then(|body| record::job(message, Bytes::copy_from_slice(body))) {
            Ok(job) => {
                let asides = self.lock().read(at, bytes, job, record::past(message), now);
                self.put_aside(&asides);
            }
            Err(error) => {
                let (place, asides) = self.lock().read_damaged(at, bytes, now);
                self.put_aside(&asides);
                if let Some(place) = place {
                    tracing::error!(topic = message.topic(), partition, offset, %error, "a record that isn't a job goes to the dead letters");
                    let record = record::damaged(message, &self.topics.dead, &error, now);
                    self.write(Writing { record, place, what: What::Damaged });
                }
            }
        }
        bytes
    }
}

/// Gives out no more once it goes, as it does with the thread that has it, however that ends: what can't go on must not
/// look as if it did.
pub(super) struct ClosesAtLast(pub(super) Arc<Shared>);

impl Drop for ClosesAtLast {
    fn drop(&mut self) {
        self.0.close();
    }
}
