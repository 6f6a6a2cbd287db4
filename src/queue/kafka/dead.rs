//! Dead letters: what `events.dlq` has a record of, unless a later one without value says that it was replayed or purged.
//!
//! Kafka has no index, so each question reads the topic from its beginning, and keeps an entry of some 64 bytes for each
//! letter while it does; bodies are read a second time, where they are wanted. What is purged at the beginning of a
//! partition is deleted at once, the rest when Kafka compacts the topic.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::{Message, Offset, TopicPartitionList};

use super::KafkaQueue;
use super::record::{self, Death, Past, Record};
use super::scan::Scan;
use super::watermarks::{Ranges, ranges};
use crate::common::id::MessageId;
use crate::common::job::{ContentType, Job};
use crate::common::kafka::{KafkaConfig, KafkaContext, without_value};
use crate::common::retry::CauseKind;
use crate::queue::dead::{
    CauseOfDeath, DeadCursor, DeadFilter, DeadLetter, DeadLetters, DeadPage, FullDeadLetter, MAX_BATCH,
    unknown_target,
};
use crate::queue::message::{MessageRecord, MessageState, Messages};
use crate::queue::{QueueError, record as job_record};

/// Bytes of bodies that are read at a time to be replayed.
const REPLAYED_BYTES: u64 = 64 << 20;

/// Up to so many records the dead are counted whenever there are new ones; of more the count may be `COUNTED_FOR` old.
const QUICKLY_COUNTED: i64 = 10_000;
const COUNTED_FOR: Duration = Duration::from_secs(60);

/// Whose a letter is that doesn't say it.
const UNKNOWN: &str = "unknown";

/// A letter that is there.
#[derive(Debug, Clone, Copy)]
struct Entry {
    died_at: Timestamp,
    partition: i32,
    offset: i64,
    bytes: u64,
    is_meant: bool,
}

/// All letters that are there, and what the topic holds.
struct Index {
    entries: HashMap<MessageId, Entry>,
    ranges: Ranges,
}

/// A letter with what its record holds.
struct Found {
    letter: DeadLetter,
    /// `None` where it is damaged.
    job: Option<Job>,
    past: Past,
    partition: i32,
}

/// How many dead letters there were when that was last counted.
#[derive(Default)]
pub(super) struct Counted(Arc<Mutex<Option<Count>>>);

struct Count {
    at: Instant,
    ranges: Ranges,
    dead: u64,
}

/// The id of a dead letter: its key, or where that isn't one, what its place always gives.
fn id_of(message: &impl Message) -> MessageId {
    let key = message.key().and_then(|key| std::str::from_utf8(key).ok()?.parse().ok());
    key.unwrap_or_else(|| record::id_of_place(&record::place(message)))
}

fn letter_of(message: &impl Message) -> DeadLetter {
    let job = record::job(message, Bytes::new());
    let bytes = u64::try_from(message.payload().map_or(0, <[u8]>::len)).unwrap_or(u64::MAX);
    let death = record::death(message).unwrap_or_else(|| {
        let CauseOfDeath { cause, detail, attempts } = CauseOfDeath::unreadable();
        Death::new(cause, detail, attempts, Timestamp::UNIX_EPOCH)
    });
    let (tenant, target, published_at) = match job {
        Ok(job) => (job.tenant, job.target, job.published_at),
        Err(_) => (UNKNOWN.into(), unknown_target(), Timestamp::UNIX_EPOCH),
    };
    DeadLetter {
        id: id_of(message),
        tenant,
        target,
        cause: death.cause,
        died_at: death.died_at(),
        detail: death.detail,
        attempts: death.attempts,
        published_at,
        bytes,
    }
}

fn found(message: &impl Message) -> Found {
    let body = Bytes::copy_from_slice(message.payload().unwrap_or_default());
    let letter = letter_of(message);
    // Whatever of it can be read: it wasn't whole where it was published.
    let is_whole = letter.cause != CauseKind::Damaged;
    Found {
        letter,
        job: record::job(message, body).ok().filter(|_| is_whole),
        past: record::past(message),
        partition: message.partition(),
    }
}

/// Reads all of the topic. Blocks.
fn index(kafka: &KafkaConfig, filter: &DeadFilter) -> KafkaResult<Index> {
    let scan = Scan::open(kafka, &kafka.topics.dead)?;
    let ranges = scan.all()?;
    let mut entries = HashMap::new();
    scan.read(&ranges, |message| {
        let id = id_of(message);
        if message.payload().is_none() {
            entries.remove(&id);
            return ControlFlow::Continue(());
        }
        let letter = letter_of(message);
        let (partition, offset) = (message.partition(), message.offset());
        let is_meant = filter.matches(&letter);
        entries
            .insert(id, Entry { died_at: letter.died_at, partition, offset, bytes: letter.bytes, is_meant });
        ControlFlow::Continue(())
    })?;
    Ok(Index { entries, ranges })
}

impl Index {
    /// Those that are meant after `after`, the longest dead first.
    fn meant(&self, after: Option<DeadCursor>) -> Vec<(DeadCursor, Entry)> {
        let meant = self.entries.iter().filter(|(_, entry)| entry.is_meant);
        let cursor =
            |(id, entry): (&MessageId, &Entry)| (DeadCursor { died_at: entry.died_at, id: *id }, *entry);
        let mut meant: Vec<_> =
            meant.map(cursor).filter(|(cursor, _)| after.is_none_or(|after| *cursor > after)).collect();
        meant.sort_unstable_by_key(|(cursor, _)| *cursor);
        meant
    }

    /// Where each partition's first letter would be if `gone` were gone.
    fn begins_without(&self, gone: &[MessageId]) -> BTreeMap<i32, i64> {
        let gone: BTreeSet<&MessageId> = gone.iter().collect();
        let mut begins: BTreeMap<i32, i64> =
            self.ranges.iter().map(|(partition, range)| (*partition, range.end)).collect();
        for (_, entry) in self.entries.iter().filter(|(id, _)| !gone.contains(id)) {
            if let Some(begin) = begins.get_mut(&entry.partition) {
                *begin = (*begin).min(entry.offset);
            }
        }
        begins
    }
}

fn reading(error: KafkaError) -> QueueError {
    QueueError::Unavailable("read the dead letters in Kafka", error.into())
}

/// Reads those letters, in the order that they are given in. Blocks.
fn read(kafka: &KafkaConfig, wanted: &[(DeadCursor, Entry)]) -> KafkaResult<Vec<Found>> {
    let mut ranges = Ranges::new();
    for (_, Entry { partition, offset, .. }) in wanted {
        let range = ranges.entry(*partition).or_insert(*offset..*offset);
        *range = range.start.min(*offset)..range.end.max(offset.saturating_add(1));
    }
    let places: BTreeSet<(i32, i64)> =
        wanted.iter().map(|(_, entry)| (entry.partition, entry.offset)).collect();
    let mut read = HashMap::new();
    Scan::open(kafka, &kafka.topics.dead)?.read(&ranges, |message| {
        if places.contains(&(message.partition(), message.offset())) {
            let found = found(message);
            read.insert(found.letter.id, found);
        }
        ControlFlow::Continue(())
    })?;
    Ok(wanted.iter().filter_map(|(cursor, _)| read.remove(&cursor.id)).collect())
}

impl KafkaQueue {
    /// Does what waits for Kafka on a thread that may wait.
    async fn asked<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&KafkaConfig) -> KafkaResult<T> + Send + 'static,
    ) -> Result<T, QueueError> {
        let kafka = self.kafka.clone();
        let asked = tokio::task::spawn_blocking(move || ask(&kafka)).await;
        asked.unwrap_or(Err(KafkaError::Canceled)).map_err(reading)
    }

    async fn index(&self, filter: &DeadFilter) -> Result<Index, QueueError> {
        let filter = filter.clone();
        self.asked(move |kafka| index(kafka, &filter)).await
    }

    async fn read_letters(&self, wanted: Vec<(DeadCursor, Entry)>) -> Result<Vec<Found>, QueueError> {
        self.asked(move |kafka| read(kafka, &wanted)).await
    }

    async fn find(&self, id: MessageId) -> Result<Option<Found>, QueueError> {
        let filter = DeadFilter { id: Some(id), ..DeadFilter::default() };
        let wanted = self.index(&filter).await?.meant(None);
        if wanted.is_empty() {
            return Ok(None);
        }
        Ok(self.read_letters(wanted).await?.pop())
    }

    /// How many dead letters there are.
    pub(super) async fn dead_count(&self) -> Result<u64, QueueError> {
        let counted = Arc::clone(&self.counted.0);
        let (topic, timeout) = (self.kafka.topics.dead.clone(), self.kafka.timeout);
        let ranges = self.lag.ask(move |consumer| ranges(consumer, &topic, timeout)).await;
        let ranges = ranges.map_err(reading)?;
        self.asked(move |kafka| {
            let records = ranges
                .values()
                .fold(0_i64, |sum, range| sum.saturating_add(range.end.saturating_sub(range.start)));
            let mut last = counted.lock().unwrap_or_else(PoisonError::into_inner);
            let is_known = last.as_ref().is_some_and(|count| {
                count.ranges == ranges || (records > QUICKLY_COUNTED && count.at.elapsed() < COUNTED_FOR)
            });
            if !is_known {
                let index = index(kafka, &DeadFilter::default())?;
                let dead = u64::try_from(index.entries.len()).unwrap_or(u64::MAX);
                *last = Some(Count { at: Instant::now(), ranges: index.ranges, dead });
            }
            Ok(last.as_ref().map_or(0, |count| count.dead))
        })
        .await
    }

    /// Deletes letters for good.
    async fn bury(&self, gone: &[(MessageId, i32)], index: &Index) -> Result<(), QueueError> {
        let topic: Arc<str> = self.kafka.topics.dead.as_str().into();
        let tombstone = |(id, partition): &(MessageId, i32)| Record {
            topic: Arc::clone(&topic),
            partition: Some(*partition),
            key: id.to_string().into_bytes(),
            headers: Vec::new(),
            value: None,
        };
        let tombstones: Vec<Record> = gone.iter().map(tombstone).collect();
        self.producer.write(&tombstones).await?;
        let ids: Vec<MessageId> = gone.iter().map(|(id, _)| *id).collect();
        if let Err(error) = self.trim(index, index.begins_without(&ids)).await {
            tracing::debug!(%error, "free the room of dead letters: it is when Kafka compacts the topic");
        }
        Ok(())
    }

    /// Deletes what stands before the first letter of each partition.
    async fn trim(&self, index: &Index, begins: BTreeMap<i32, i64>) -> KafkaResult<()> {
        let mut before = TopicPartitionList::new();
        for (partition, begin) in begins {
            if index.ranges.get(&partition).is_some_and(|range| begin > range.start) {
                before.add_partition_offset(&self.kafka.topics.dead, partition, Offset::Offset(begin))?;
            }
        }
        if before.count() == 0 {
            return Ok(());
        }
        let admin: AdminClient<KafkaContext> =
            self.kafka.client().create_with_context(KafkaContext::default()).map_err(without_value)?;
        let options = AdminOptions::new().request_timeout(Some(self.kafka.timeout));
        admin.delete_records(&before, &options).await.map(drop)
    }
}

#[async_trait]
impl DeadLetters for KafkaQueue {
    async fn dead_letters(
        &self,
        filter: &DeadFilter,
        after: Option<DeadCursor>,
        limit: usize,
    ) -> Result<DeadPage, QueueError> {
        let mut meant = self.index(filter).await?.meant(after);
        let more = meant.len() > limit;
        meant.truncate(limit);
        if meant.is_empty() {
            return Ok(DeadPage { letters: Vec::new(), more });
        }
        let letters = self.asked(move |kafka| letters(kafka, &meant)).await?;
        Ok(DeadPage { letters, more })
    }

    async fn dead_letter(&self, id: MessageId) -> Result<Option<FullDeadLetter>, QueueError> {
        let body = |Found { letter, job, past, .. }| FullDeadLetter {
            letter,
            content_type: job.as_ref().map_or(ContentType::default(), |job: &Job| job.content_type),
            body: job.map(|job| job.body),
            attempts: past.attempts,
        };
        Ok(self.find(id).await?.map(body))
    }

    async fn count_dead(&self, filter: &DeadFilter) -> Result<u64, QueueError> {
        let index = self.index(filter).await?;
        let meant = index.entries.values().filter(|entry| entry.is_meant).count();
        Ok(u64::try_from(meant).unwrap_or(u64::MAX))
    }

    /// Those whose job can't be read are left out.
    async fn replay(&self, filter: &DeadFilter, limit: usize) -> Result<u64, QueueError> {
        if self.is_closed() {
            return Err(QueueError::Closed);
        }
        let index = self.index(filter).await?;
        let mut wanted = index.meant(None);
        wanted.truncate(limit.min(MAX_BATCH));
        let mut replayed = Vec::new();
        let topic: Arc<str> = self.kafka.topics.events.as_str().into();
        let mut wanted = wanted.into_iter().peekable();
        while wanted.peek().is_some() {
            let mut bytes = 0_u64;
            let mut some = Vec::new();
            while let Some(next) = wanted.next_if(|(_, entry)| {
                bytes = bytes.saturating_add(entry.bytes);
                some.is_empty() || bytes <= REPLAYED_BYTES
            }) {
                some.push(next);
            }
            let read = self.read_letters(some).await?.into_iter();
            let (ids, records): (Vec<_>, Vec<Record>) = read
                .filter_map(|found| {
                    let job = found.job?;
                    let past = Past::new(None, 0, None, found.past.attempts);
                    let record = Record {
                        topic: Arc::clone(&topic),
                        partition: None,
                        key: record::key_of(&job),
                        headers: vec![
                            (record::JOB, job_record::encode(&job)),
                            (record::PAST, record::json(&past)),
                        ],
                        value: Some(job.body),
                    };
                    Some(((found.letter.id, found.partition), record))
                })
                .unzip();
            self.producer.write(&records).await?;
            replayed.extend(ids);
        }
        self.bury(&replayed, &index).await?;
        Ok(u64::try_from(replayed.len()).unwrap_or(u64::MAX))
    }

    async fn purge(&self, filter: &DeadFilter, limit: usize) -> Result<u64, QueueError> {
        let index = self.index(filter).await?;
        let mut gone: Vec<(MessageId, i32)> =
            index.meant(None).into_iter().map(|(cursor, entry)| (cursor.id, entry.partition)).collect();
        gone.truncate(limit.min(MAX_BATCH));
        self.bury(&gone, &index).await?;
        Ok(u64::try_from(gone.len()).unwrap_or(u64::MAX))
    }
}

/// Reads those letters without their bodies. Blocks.
fn letters(kafka: &KafkaConfig, wanted: &[(DeadCursor, Entry)]) -> KafkaResult<Vec<DeadLetter>> {
    Ok(read(kafka, wanted)?.into_iter().map(|found| found.letter).collect())
}

#[async_trait]
impl Messages for KafkaQueue {
    /// A log doesn't tell what became of a message: only the dead are known.
    async fn message(&self, id: MessageId) -> Result<Option<MessageRecord>, QueueError> {
        let Some(Found { letter, past, .. }) = self.find(id).await? else { return Ok(None) };
        Ok(Some(MessageRecord {
            id,
            tenant: letter.tenant,
            target: letter.target,
            published_at: letter.published_at,
            state: MessageState::Dead(letter.cause),
            attempts: past.attempts,
        }))
    }
}
