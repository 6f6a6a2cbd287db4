//! The consumer group: a thread that reads the partitions that Kafka gives this process ([`reader`]), and drains one before
//! it goes to another consumer ([`rebalance`]); and a thread that commits what is settled.
//!
//! The group shares out `events` alone. Who has one of its partitions reads the one of `events.retry` with the same number
//! as well, and commits for both.

mod aside;
mod reader;
mod rebalance;
mod shared;

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};

use self::reader::Reader;
use self::rebalance::GroupContext;
use self::shared::ClosesAtLast;
pub(super) use self::shared::{Shared, What, Writing};
use super::held::Held;
use crate::common::kafka::{KafkaConfig, KafkaContext};

/// Progress is committed when so many jobs were settled, or so much time went by.
const COMMIT_JOBS: u64 = 100;
const COMMIT_AFTER: Duration = Duration::from_millis(200);

/// How much longer than a drain the reading thread may be away before Kafka takes it for dead.
const DRAIN_MARGIN: Duration = Duration::from_secs(300);

/// How this process takes part in the group.
#[derive(Debug, Clone)]
pub struct GroupConfig {
    /// Consumers with the same name share the partitions.
    pub group: String,
    /// Names this one for good: it gets its partitions back when it returns before its session is over.
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

/// The threads, until they have left the group.
pub(super) struct Group {
    leave: mpsc::Sender<Duration>,
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
            committing: Mutex::new(()),
        };
        // What librdkafka wants: no shorter than a session.
        let between_polls = config.drain.saturating_add(DRAIN_MARGIN).max(config.session_timeout);
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
        let reader = Reader::new(kafka, Arc::clone(&consumer), asked, config.partitions_at_once);
        let failed = |error: std::io::Error| KafkaError::ClientCreation(error.to_string());
        let named = |name: &str| std::thread::Builder::new().name(name.into());
        let reading = named("kafka-group").spawn(move || reader.run()).map_err(failed)?;
        let closes = ClosesAtLast(Arc::clone(shared));
        let committing = named("kafka-commit").spawn(move || {
            let _closes = closes;
            commit_now_and_then(&consumer, &reading);
            // Who waits for this thread waits for both.
            drop(reading.join());
        });
        let thread = committing.map_err(failed)?;
        Ok(Self { leave, thread: Mutex::new(Some(thread)) })
    }

    /// Drains for `within` at most, commits what there is, and leaves the group. It blocks for as long as that takes.
    pub(super) fn leave(&self, within: Duration) {
        // Where the thread has ended it left.
        self.leave.send(within).unwrap_or_default();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            drop(thread.join());
        }
    }
}

/// Commits now and then, until `reader` has ended: in a thread of its own, since an answer takes as long as hundreds of
/// records take to be read.
fn commit_now_and_then(consumer: &BaseConsumer<GroupContext>, reader: &JoinHandle<()>) {
    let (context, mut committed_at, mut told) = (consumer.context(), Instant::now(), None);
    while !reader.is_finished() {
        {
            let is_little =
                |held: &mut Held| held.settled() < COMMIT_JOBS && committed_at.elapsed() < COMMIT_AFTER;
            let held = context.shared.lock();
            let waited = context.shared.settled.wait_timeout_while(held, COMMIT_AFTER, is_little);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
        committed_at = Instant::now();
        // It is repeated next time.
        if let Err(error) = context.commit(consumer) {
            let code = error.rdkafka_error_code();
            if std::mem::replace(&mut told, code) == code {
                tracing::debug!(%error, "commit offsets");
            } else {
                tracing::warn!(%error, "commit offsets: what is settled meanwhile may be delivered again");
            }
            std::thread::sleep(COMMIT_AFTER);
        }
    }
}
