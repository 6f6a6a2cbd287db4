//! What a job looks like in Kafka: the sealed body is the record's value, all else is in its headers, which no broker
//! has to understand.
//!
//! ```text
//! topic          key                                  headers
//! events         tenant id, or direct mode's target    whk-job
//! events.retry   the same                             whk-job, whk-past
//! events.dlq     message id                           whk-job, whk-past, whk-death; without value: replayed or purged
//! ```
//!
//! The key of `events` says in which partition a job is (murmur2, as Java's producer has it), the other two topics have
//! it in the partition of that number. Each header is a line of JSON with a version `v`:
//!
//! ```json
//! whk-job    as queue/record.rs writes it
//! whk-past   {"v":1,"due":1700000000123456,"failures":2,"first_attempt_at":1700000000000000,"origin":42,"attempts":[…]}
//! whk-death  {"v":1,"cause":"exhausted","detail":"retries exhausted: answered 500","attempts":6,"died_at":1700000000123}
//! ```
//!
//! `due` and `first_attempt_at` are microseconds since 1970, `died_at` milliseconds. `origin` is the offset in `events` of a
//! job that keeps order: where it stands among those of its lane.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use rdkafka::Message;
use rdkafka::message::Headers;
use serde::{Deserialize, Serialize};

use crate::common::attempt::{Attempt, KEPT_ATTEMPTS};
use crate::common::id::MessageId;
use crate::common::job::Job;
use crate::common::retry::{Cause, CauseKind};
use crate::queue::record::{self, RecordError};

/// All of a job but its body.
pub(super) const JOB: &str = "whk-job";
/// What became of it until now.
pub(super) const PAST: &str = "whk-past";
/// Why it was given up.
pub(super) const DEATH: &str = "whk-death";

/// The version that is written.
const VERSION: u32 = 1;

/// A record on its way to Kafka.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) topic: Arc<str>,
    /// Where the key doesn't say it.
    pub(super) partition: Option<i32>,
    pub(super) key: Vec<u8>,
    pub(super) headers: Vec<(&'static str, String)>,
    /// `None` deletes what the topic has of the key, where it is compacted.
    pub(super) value: Option<Bytes>,
}

impl Record {
    /// Takes away all but the key and what is said of its death.
    pub(super) fn shorten(&mut self) {
        self.value = Some(Bytes::new());
        self.headers.retain(|(name, _)| *name == DEATH);
    }
}

/// What became of a job until now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Past {
    v: u32,
    /// Not to be tried before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    due: Option<i64>,
    /// Attempts that have failed.
    pub(super) failures: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first_attempt_at: Option<i64>,
    /// Its offset in `events`, of one that keeps order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) origin: Option<i64>,
    /// The latest.
    #[serde(default)]
    pub(super) attempts: Vec<Attempt>,
}

impl Past {
    /// Of a job that is to be tried again at `due`, if that is known.
    pub(super) fn new(
        due: Option<Timestamp>,
        failures: u32,
        first_attempt_at: Option<Timestamp>,
        attempts: Vec<Attempt>,
    ) -> Self {
        let microseconds = |time: Timestamp| time.as_microsecond();
        Self {
            v: VERSION,
            due: due.map(microseconds),
            failures,
            first_attempt_at: first_attempt_at.map(microseconds),
            origin: None,
            attempts,
        }
    }

    /// The same, of a job that keeps order and stands there among those of its lane.
    pub(super) fn of_origin(self, origin: Option<i64>) -> Self {
        Self { origin: origin.filter(|origin| *origin >= 0), ..self }
    }

    pub(super) fn due(&self) -> Option<Timestamp> {
        Timestamp::from_microsecond(self.due?).ok()
    }

    pub(super) fn first_attempt_at(&self) -> Option<Timestamp> {
        Timestamp::from_microsecond(self.first_attempt_at?).ok()
    }
}

/// Why a job was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Death {
    v: u32,
    pub(super) cause: CauseKind,
    pub(super) detail: String,
    /// That were made.
    pub(super) attempts: u32,
    died_at: i64,
}

impl Death {
    pub(super) fn new(cause: CauseKind, detail: String, attempts: u32, died_at: Timestamp) -> Self {
        Self { v: VERSION, cause, detail, attempts, died_at: died_at.as_millisecond() }
    }

    pub(super) fn died_at(&self) -> Timestamp {
        Timestamp::from_millisecond(self.died_at).unwrap_or_default()
    }
}

/// What says in which partition of `events` a job's record is: its tenant, since Kafka keeps order within a partition
/// alone.
pub(super) fn key_of(job: &Job) -> Vec<u8> {
    job.tenant.as_bytes().to_vec()
}

/// Strings, numbers and lists of them: nothing that can't be written.
pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// A header as it is; the last of several. None where one of them has a name that isn't text.
pub(super) fn header<'m>(message: &'m impl Message, name: &str) -> Option<&'m [u8]> {
    let last = || message.headers()?.iter().filter(|header| header.key == name).last()?.value;
    // rdkafka panics at such a name, and anybody who may write to the topic can send one.
    catch_unwind(AssertUnwindSafe(last)).ok().flatten()
}

/// Bytes that a record takes in memory, but for what it is kept in.
pub(super) fn size(message: &impl Message) -> usize {
    let of_headers = || {
        let headers = message.headers().into_iter().flat_map(Headers::iter);
        headers.fold(0_usize, |bytes, header| bytes.saturating_add(header.value.map_or(0, <[u8]>::len)))
    };
    catch_unwind(AssertUnwindSafe(of_headers))
        .unwrap_or(0)
        .saturating_add(message.payload().map_or(0, <[u8]>::len))
}

/// The job of a record, with `body`.
pub(super) fn job(message: &impl Message, body: Bytes) -> Result<Job, RecordError> {
    let missing = RecordError::Damaged("its whk-job header is missing");
    let header = header(message, JOB).ok_or(missing)?;
    let header =
        std::str::from_utf8(header).map_err(|_| RecordError::Damaged("its whk-job header isn't text"))?;
    record::decode(header, body)
}

/// What became of a record's job until now; nothing, where it doesn't say.
pub(super) fn past(message: &impl Message) -> Past {
    let past = header(message, PAST).and_then(|header| serde_json::from_slice(header).ok());
    let mut past: Past = past.unwrap_or_default();
    past.attempts.truncate(KEPT_ATTEMPTS);
    past
}

/// Why a record's job was given up, where it says so.
pub(super) fn death(message: &impl Message) -> Option<Death> {
    serde_json::from_slice(header(message, DEATH)?).ok()
}

/// Where a record stands: topic, partition, offset.
pub(super) fn place(message: &impl Message) -> String {
    format!("{}/{}/{}", message.topic(), message.partition(), message.offset())
}

/// What a record is known by that has no id of its own.
pub(super) fn id_of_place(place: &str) -> MessageId {
    MessageId::derived(&[b"kafka", place.as_bytes()])
}

/// The dead letter of a record that isn't a job, as far as it can be made: what can be read of it stays as it is.
pub(super) fn damaged(message: &impl Message, topic: &str, error: &RecordError, now: Timestamp) -> Record {
    let place = place(message);
    let id = id_of_place(&place);
    let detail = Cause::Damaged(format!("{error} ({place})")).to_string();
    let job = header(message, JOB).map(|job| (JOB, String::from_utf8_lossy(job).into_owned()));
    let death = Death::new(CauseKind::Damaged, detail, 0, now);
    Record {
        topic: topic.into(),
        partition: Some(message.partition()),
        key: id.to_string().into_bytes(),
        headers: job.into_iter().chain([(DEATH, json(&death))]).collect(),
        // Without one it would be no dead letter but the deletion of one.
        value: Some(message.payload().map(Bytes::copy_from_slice).unwrap_or_default()),
    }
}
