//! The thread that reads: takes in what Kafka sends, pauses what a window has no room for, and leaves the group at last.

use std::collections::VecDeque;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::util::Timeout;

use super::aside;
use super::rebalance::GroupContext;
use super::shared::{ClosesAtLast, Shared};
use crate::common::kafka::KafkaConfig;
use crate::queue::kafka::held::Flow;

/// How long the thread waits for records before it looks after windows.
const POLL: Duration = Duration::from_millis(50);

/// Records, and bytes of them, that are taken in before it is looked whether windows have room for more.
const BATCH: usize = 1_024;
const BATCH_BYTES: usize = 16 << 20;

/// How long reading waits for Kafka to say where a log ends.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// How long it isn't asked again after Kafka didn't say it.
const ASK_AGAIN: Duration = Duration::from_secs(3);

/// How often windows are looked at for lanes that stand still.
const CROWDING: Duration = Duration::from_millis(250);

/// How long a partition has its turn, where not all may be read at once.
const TURN: Duration = Duration::from_millis(500);

/// How long leaving the group may take.
const LEAVING: Duration = Duration::from_secs(10);

/// What the thread works with.
pub(super) struct Reader {
    kafka: KafkaConfig,
    consumer: Arc<BaseConsumer<GroupContext>>,
    shared: Arc<Shared>,
    _closes: ClosesAtLast,
    asked: mpsc::Receiver<Duration>,
    turns: Option<Turns>,
    looked_at: Instant,
    /// Of which partition it was last asked where its log ends, when, and how soon it may be asked again.
    asked_of: i32,
    asked_at: Instant,
    ask_again: Duration,
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
    /// Reads all partitions that come, `partitions_at_once` of them at a time, until `asked` says within
    /// what time to leave, or nobody is left to ask.
    pub(super) fn new(
        kafka: &KafkaConfig,
        consumer: Arc<BaseConsumer<GroupContext>>,
        asked: mpsc::Receiver<Duration>,
        partitions_at_once: Option<usize>,
    ) -> Self {
        let turns = |most| Turns { most, order: VecDeque::new(), since: Instant::now() };
        let shared = Arc::clone(&consumer.context().shared);
        Self {
            kafka: kafka.clone(),
            consumer,
            _closes: ClosesAtLast(Arc::clone(&shared)),
            shared,
            asked,
            turns: partitions_at_once.map(turns),
            looked_at: Instant::now(),
            asked_of: -1,
            asked_at: Instant::now(),
            ask_again: Duration::ZERO,
            failure: None,
        }
    }

    pub(super) fn run(mut self) {
        let within = loop {
            match self.asked.try_recv() {
                Err(mpsc::TryRecvError::Empty) => {}
                Ok(within) => break within,
                // The queue was dropped: nobody settles any more.
                Err(mpsc::TryRecvError::Disconnected) => break Duration::ZERO,
            }
            self.read();
            self.look_after_windows();
        };
        self.shared.drains_for(within);
        // Gives the partitions back, by way of revoke().
        self.consumer.unsubscribe();
        let by = Instant::now().checked_add(within.saturating_add(LEAVING));
        while self.shared.lock().partitions().next().is_some() && by.is_none_or(|by| Instant::now() < by) {
            // A record that comes now is another consumer's.
            self.consumer.poll(POLL);
        }
    }

    /// Says once what goes on failing.
    fn failed(&mut self, error: &KafkaError) {
        let code = error.rdkafka_error_code();
        if code.is_some_and(is_refusal) {
            self.shared.refuses(code);
        }
        if self.failure != code {
            self.failure = code;
            tracing::warn!(%error, "read from Kafka");
        }
    }

    /// Takes in what has come, waiting a little for it.
    fn read(&mut self) {
        let mut timeout = Timeout::After(POLL);
        let (mut taken, mut bytes) = (0_usize, 0_usize);
        while taken < BATCH && bytes < BATCH_BYTES {
            match self.consumer.poll(timeout) {
                // At once: the next poll may give the partition to another consumer, and later back.
                Some(Ok(message)) => {
                    if self.failure.take().is_some() {
                        self.shared.refuses(None);
                    }
                    self.consumer.context().kafka.broker_answered();
                    bytes = bytes.saturating_add(self.shared.take_in(&message));
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
            self.shared.put_aside(&asides);
            self.ask_for_an_end();
        }
        let Flow { changed, unknown, fetches } = {
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
        unknown.into_iter().for_each(|unknown| aside::search(&self.kafka, &self.shared, unknown));
        fetches.into_iter().for_each(|fetch| aside::fetch(&self.kafka, &self.shared, fetch));
    }

    /// Asks where `events.retry` ends, of one partition that came while Kafka didn't say it.
    fn ask_for_an_end(&mut self) {
        if self.asked_at.elapsed() < self.ask_again {
            return;
        }
        let next = {
            let held = self.shared.lock();
            // In turn: one that nobody answers for mustn't hold up the others.
            let after = held.without_end().find(|partition| *partition > self.asked_of);
            after.or_else(|| held.without_end().next())
        };
        let Some(partition) = next else { return };
        (self.asked_of, self.asked_at, self.ask_again) = (partition, Instant::now(), Duration::ZERO);
        let topic = &self.shared.topics.retry;
        match self.consumer.fetch_watermarks(topic, partition, END_TIMEOUT) {
            Ok((start, end)) => {
                let now = self.shared.clock.now();
                let asides = self.shared.lock().learn_end(partition, start, end, now);
                self.shared.put_aside(&asides);
            }
            Err(error) => {
                tracing::debug!(topic, partition, %error, "ask where the log ends");
                self.ask_again = ASK_AGAIN;
            }
        }
    }
}

/// Whether Kafka doesn't take whoever is told so into a group.
fn is_refusal(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{
        GroupAuthorizationFailed, GroupMaxSizeReached, InconsistentGroupProtocol, InvalidGroupId,
        InvalidSessionTimeout, TopicAuthorizationFailed, UnknownTopicOrPartition,
    };
    matches!(
        code,
        GroupAuthorizationFailed
            | GroupMaxSizeReached
            | InconsistentGroupProtocol
            | InvalidGroupId
            | InvalidSessionTimeout
            | TopicAuthorizationFailed
            | UnknownTopicOrPartition
    )
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
