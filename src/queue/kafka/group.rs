//! The consumer group: a thread that reads the partitions that Kafka gives this process, commits what is settled, and
//! drains a partition before it goes to another consumer.
//!
//! The group shares out `events` alone. Who has one of its partitions reads the one of `events.retry` with the same number
//! as well, and commits for both.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::util::Timeout;
use rdkafka::{ClientContext, Message as _, Offset, TopicPartitionList};
use tokio::sync::{Notify, mpsc as tokio_mpsc};

use super::held::{Aside, Held, Log, Place};
use super::offsets::Progress;
use super::record::{self, Record};
use crate::common::clock::Clock;
use crate::common::job::Job;
use crate::common::kafka::{KafkaConfig, KafkaContext, Topics};

/// How long the thread waits for records before it looks after windows.
const POLL: Duration = Duration::from_millis(50);

/// Records that are taken in at a time.
const BATCH: usize = 1_024;

/// Progress is committed when so many jobs were settled, or so much time went by.
const COMMIT_JOBS: usize = 100;
const COMMIT_AFTER: Duration = Duration::from_millis(200);

/// How often windows are looked at for lanes that stand still.
const CROWDING: Duration = Duration::from_millis(250);

/// How long a partition has its turn, where not all may be read at once.
const TURN: Duration = Duration::from_millis(500);

/// How long leaving the group may take.
const LEAVING: Duration = Duration::from_secs(10);

/// How this process takes part in the group.
#[derive(Debug, Clone)]
pub struct GroupConfig {
    /// Consumers with the same name share the partitions.
    pub group: String,
    /// Names this one for good: it gets its partitions back when it returns within the session's time.
    pub instance_id: Option<String>,
    /// How long a consumer may be silent before its partitions go to others.
    pub session_timeout: Duration,
    /// How long a partition that goes to another consumer may be drained.
    pub drain: Duration,
    /// Unsettled jobs of a partition that are held.
    pub window_jobs: usize,
    /// Bytes of unsettled jobs that are held, over all partitions.
    pub window_bytes: usize,
    /// Partitions that are read at a time; all of them where it isn't said.
    pub partitions_at_once: Option<usize>,
}

/// What is to be written to another topic, in order, before the places are settled.
pub(super) struct Writing {
    pub(super) records: Vec<Record>,
    pub(super) places: Vec<(Place, Option<Arc<Job>>)>,
}

/// What the thread and those who claim and settle share.
pub(super) struct Shared {
    pub(super) held: Mutex<Held>,
    /// Rung when a claim may find something.
    pub(super) changed: Notify,
    /// Rung when something was settled, for those who drain.
    settled: Condvar,
    pub(super) writing: tokio_mpsc::UnboundedSender<Writing>,
    pub(super) topics: Topics,
    pub(super) clock: Clock,
    /// Nothing is given out any more.
    pub(super) is_closed: AtomicBool,
}

impl Shared {
    pub(super) fn new(
        held: Held,
        writing: tokio_mpsc::UnboundedSender<Writing>,
        topics: Topics,
        clock: Clock,
    ) -> Self {
        let (changed, settled) = (Notify::new(), Condvar::new());
        let (held, is_closed) = (Mutex::new(held), AtomicBool::new(false));
        Self { held, changed, settled, writing, topics, clock, is_closed }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives out no more.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    /// Something was settled.
    pub(super) fn rang(&self) {
        self.changed.notify_waiters();
        self.settled.notify_all();
    }

    fn topic(&self, log: Log) -> &str {
        match log {
            Log::Events => &self.topics.events,
            Log::Retry => &self.topics.retry,
        }
    }

    /// The record that a job waits as in `events.retry`.
    pub(super) fn retry_record(&self, aside: &Aside) -> Record {
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
    fn put_aside(&self, asides: Vec<Aside>) {
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
    fn take_in(&self, message: &BorrowedMessage<'_>) {
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

/// Called by librdkafka, in the thread, when partitions come and go.
struct GroupContext {
    kafka: KafkaContext,
    shared: Arc<Shared>,
    timeout: Duration,
    drain: Duration,
    is_dropped: AtomicBool,
    committing: Mutex<()>,
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
            // Nobody settles any more where the queue was dropped.
            let drain = if self.is_dropped.load(Ordering::Relaxed) { Duration::ZERO } else { self.drain };
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
    fn commit(&self, consumer: &BaseConsumer<Self>) -> KafkaResult<()> {
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

/// The threads, until they have left the group.
pub(super) struct Group {
    leave: mpsc::Sender<()>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Group {
    /// Joins the group.
    pub(super) fn join(kafka: &KafkaConfig, config: &GroupConfig, shared: &Arc<Shared>) -> KafkaResult<Self> {
        let context = GroupContext {
            kafka: KafkaContext::default(),
            shared: Arc::clone(shared),
            timeout: kafka.timeout,
            drain: config.drain,
            is_dropped: AtomicBool::new(false),
            committing: Mutex::new(()),
        };
        let between_polls = config.drain.saturating_add(Duration::from_secs(300));
        let heartbeats = config.session_timeout.div_f64(10.0).min(Duration::from_secs(3));
        let mut settings = kafka.client();
        settings
            .set("group.id", &config.group)
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", config.session_timeout.as_millis().to_string())
            .set("heartbeat.interval.ms", heartbeats.as_millis().max(1).to_string())
            .set("max.poll.interval.ms", between_polls.as_millis().to_string())
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            .set("queued.min.messages", "2000")
            .set("queued.max.messages.kbytes", "16384")
            // Once so many wait to be taken in, it asks for more after this; they are taken in within milliseconds.
            .set("fetch.queue.backoff.ms", "10")
            // A partition that is read again after a pause waits for the question that is out.
            .set("fetch.wait.max.ms", "100");
        if let Some(id) = &config.instance_id {
            settings.set("group.instance.id", id);
        }
        let consumer: BaseConsumer<GroupContext> = settings.create_with_context(context)?;
        consumer.subscribe(&[&shared.topics.events])?;
        let (leave, asked) = mpsc::channel();
        let consumer = Arc::new(consumer);
        let reader = Reader {
            consumer: Arc::clone(&consumer),
            shared: Arc::clone(shared),
            asked,
            turns: config.partitions_at_once.map(|most| Turns {
                most,
                order: VecDeque::new(),
                since: Instant::now(),
            }),
            looked_at: Instant::now(),
            failure: None,
        };
        let failed = |error: std::io::Error| KafkaError::ClientCreation(error.to_string());
        let named = |name: &str| std::thread::Builder::new().name(name.into());
        let reading = named("kafka-group").spawn(move || reader.run()).map_err(failed)?;
        let committing = named("kafka-commit").spawn(move || {
            commit_now_and_then(&consumer, &reading);
            // Who waits for this thread waits for both.
            drop(reading.join());
        });
        let thread = committing.map_err(failed)?;
        Ok(Self { leave, thread: Mutex::new(Some(thread)) })
    }

    /// Drains and commits what there is, and leaves the group. It blocks for as long as that takes.
    pub(super) fn leave(&self) {
        // Where the thread has ended it left.
        self.leave.send(()).unwrap_or_default();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            drop(thread.join());
        }
    }
}

/// What the thread works with.
struct Reader {
    consumer: Arc<BaseConsumer<GroupContext>>,
    shared: Arc<Shared>,
    asked: mpsc::Receiver<()>,
    turns: Option<Turns>,
    looked_at: Instant,
    /// What reading failed with, since a record was read.
    failure: Option<RDKafkaErrorCode>,
}

/// Which partitions are read, where not all are at once.
struct Turns {
    most: usize,
    /// Those in front have their turn.
    order: VecDeque<i32>,
    since: Instant,
}

impl Reader {
    fn run(mut self) {
        loop {
            match self.asked.try_recv() {
                Err(mpsc::TryRecvError::Empty) => {}
                Ok(()) => break,
                Err(mpsc::TryRecvError::Disconnected) => {
                    self.consumer.context().is_dropped.store(true, Ordering::Relaxed);
                    break;
                }
            }
            self.read();
            self.look_after_windows();
        }
        // Gives the partitions back, by way of revoke().
        self.consumer.unsubscribe();
        let by = Instant::now().checked_add(self.consumer.context().drain.saturating_add(LEAVING));
        while self.shared.lock().partitions().next().is_some() && by.is_none_or(|by| Instant::now() < by) {
            // A record that comes now is another consumer's.
            self.consumer.poll(POLL);
        }
    }

    /// Says once what goes on failing.
    fn failed(&mut self, error: &KafkaError) {
        let code = error.rdkafka_error_code();
        if self.failure != code {
            self.failure = code;
            tracing::warn!(%error, "read from Kafka");
        }
    }

    /// Takes in what has come, waiting a little for it.
    fn read(&mut self) {
        let mut timeout = Timeout::After(POLL);
        let mut taken = 0_usize;
        while taken < BATCH {
            match self.consumer.poll(timeout) {
                // At once: the next poll may give the partition to another consumer, and later back.
                Some(Ok(message)) => {
                    self.failure = None;
                    self.consumer.context().kafka.is_back();
                    self.shared.take_in(&message);
                }
                Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => {
                    tracing::error!(%error, "Kafka has let go of this consumer for good; is its --instance-id another's as well?");
                    self.shared.close();
                    break;
                }
                Some(Err(error)) => self.failed(&error),
                None => break,
            }
            taken = taken.saturating_add(1);
            timeout = Timeout::After(Duration::ZERO);
        }
        if taken > 0 {
            self.shared.changed.notify_waiters();
        }
    }

    fn look_after_windows(&mut self) {
        if self.looked_at.elapsed() >= CROWDING {
            self.looked_at = Instant::now();
            let asides = self.shared.lock().crowding(self.shared.clock.now());
            if !asides.is_empty() {
                tracing::debug!(
                    jobs = asides.len(),
                    "put aside to the retry topic, since their endpoints stand still"
                );
            }
            self.shared.put_aside(asides);
        }
        let changed = {
            let mut held = self.shared.lock();
            let may_read = self.turns.as_mut().map(|turns| turns.take(held.partitions().collect()));
            held.flow(|partition| may_read.as_ref().is_none_or(|open| open.contains(&partition)))
        };
        for (partition, log, pause) in changed {
            let mut list = TopicPartitionList::new();
            list.add_partition(self.shared.topic(log), partition);
            let done = if pause { self.consumer.pause(&list) } else { self.consumer.resume(&list) };
            if let Err(error) = done {
                tracing::warn!(partition, %error, pause, "pause or resume a partition");
            }
        }
    }
}

/// Commits now and then, until `reader` has ended: in a thread of its own, since an answer takes as long as hundreds of
/// records take to be read.
fn commit_now_and_then(consumer: &BaseConsumer<GroupContext>, reader: &JoinHandle<()>) {
    let (context, mut committed_at) = (consumer.context(), Instant::now());
    while !reader.is_finished() {
        {
            let is_little =
                |held: &mut Held| held.settled() < COMMIT_JOBS && committed_at.elapsed() < COMMIT_AFTER;
            let held = context.shared.lock();
            let waited = context.shared.settled.wait_timeout_while(held, COMMIT_AFTER, is_little);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
        committed_at = Instant::now();
        // As while partitions are shared out anew: it is repeated next time.
        if let Err(error) = context.commit(consumer) {
            tracing::debug!(%error, "commit offsets");
            std::thread::sleep(COMMIT_AFTER);
        }
    }
}

impl Turns {
    /// Those of `partitions` that may be read now.
    fn take(&mut self, partitions: Vec<i32>) -> Vec<i32> {
        self.order.retain(|partition| partitions.contains(partition));
        for partition in partitions {
            if !self.order.contains(&partition) {
                self.order.push_back(partition);
            }
        }
        if self.since.elapsed() >= TURN && !self.order.is_empty() {
            self.since = Instant::now();
            let many = self.most.checked_rem(self.order.len()).unwrap_or(0);
            self.order.rotate_left(many);
        }
        self.order.iter().take(self.most).copied().collect()
    }
}
