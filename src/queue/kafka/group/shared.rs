//! What the group's threads and those who claim and settle share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rdkafka::Message as _;
use rdkafka::message::BorrowedMessage;
use tokio::sync::{Notify, mpsc};

use crate::common::clock::Clock;
use crate::common::job::Job;
use crate::common::kafka::Topics;
use crate::queue::kafka::held::{Aside, Held, Log, Place};
use crate::queue::kafka::record::{self, Record};

/// What is to be written to another topic, in order, before the places are settled.
pub(in super::super) struct Writing {
    pub(in super::super) records: Vec<Record>,
    pub(in super::super) places: Vec<(Place, Option<Arc<Job>>)>,
}

/// See the module's page.
pub(in super::super) struct Shared {
    pub(in super::super) held: Mutex<Held>,
    /// Rung when a claim may find something.
    pub(in super::super) changed: Notify,
    /// Rung when something was settled, for those who drain.
    pub(super) settled: Condvar,
    pub(in super::super) writing: mpsc::UnboundedSender<Writing>,
    pub(in super::super) topics: Topics,
    pub(in super::super) clock: Clock,
    /// Nothing is given out any more.
    pub(in super::super) is_closed: AtomicBool,
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
        Self { held, changed, settled, writing, topics, clock, is_closed }
    }

    pub(in super::super) fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives out no more.
    pub(in super::super) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
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
    pub(in super::super) fn retry_record(&self, aside: &Aside) -> Record {
        Record {
            topic: self.topics.retry.as_str().into(),
            partition: Some(aside.entry.place.partition),
            key: record::key_of(&aside.entry.job),
            headers: vec![
                (record::JOB, crate::queue::record::encode(&aside.entry.job)),
                (record::PAST, record::json(&aside.past)),
            ],
            value: Some(aside.entry.job.body.clone()),
        }
    }

    /// Puts jobs aside, all of them in order.
    pub(super) fn put_aside(&self, asides: Vec<Aside>) {
        if asides.is_empty() {
            return;
        }
        let records = asides.iter().map(|aside| self.retry_record(aside)).collect();
        let places =
            asides.iter().map(|aside| (aside.entry.place, Some(Arc::clone(&aside.entry.job)))).collect();
        // Its other end lives as long as this.
        drop(self.writing.send(Writing { records, places }));
    }

    /// Takes in a record.
    pub(super) fn take_in(&self, message: &BorrowedMessage<'_>) {
        let now = self.clock.now();
        let log = if message.topic() == self.topics.events { Log::Events } else { Log::Retry };
        let (partition, offset) = (message.partition(), message.offset());
        let body = Bytes::copy_from_slice(message.payload().unwrap_or_default());
        match record::job(message, body) {
            Ok(job) => {
                let aside = self.lock().read((log, partition, offset), job, record::past(message), now);
                self.put_aside(aside.into_iter().collect());
            }
            Err(error) => {
                let Some(place) = self.lock().read_damaged(log, partition, offset) else { return };
                tracing::error!(topic = message.topic(), partition, offset, %error, "a record that isn't a job goes to the dead letters");
                let record = record::damaged(message, &self.topics.dead, &error, now);
                drop(self.writing.send(Writing { records: vec![record], places: vec![(place, None)] }));
            }
        }
    }
}
