//! The promises of every queue, with the exceptions of Kafka's, and tests of what it does instead.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{consume, kafka};
use crate::common::clock::Clock;
use crate::common::id::{EndpointId, MessageId, TenantId};
use crate::common::job::{Job, Lane, Target};
use crate::common::kafka::KafkaConfig;
use crate::queue::conformance::{self, Harness, conformance};
use crate::queue::dead::{DeadCursor, DeadFilter, DeadLetters, DeadPage, FullDeadLetter};
use crate::queue::kafka::KafkaQueue;
use crate::queue::memory::MemoryQueue;
use crate::queue::message::{MessageRecord, Messages};
use crate::queue::{Depth, Lease, Queue, QueueConfig, QueueError, Settlement, TenantUsage};

/// A queue that the conformance suite can test without races.
///
/// A push ends when the consumer has read the jobs, because in other queues a job can be claimed after its push. A
/// settlement ends when its record is in the topic of retries or of dead letters.
struct ReadAtOnce(KafkaQueue);

#[async_trait]
impl Queue for ReadAtOnce {
    async fn push(&self, jobs: Vec<Job>) -> Result<(), QueueError> {
        self.0.push(jobs).await?;
        self.read().await;
        Ok(())
    }

    async fn claim(&self, max: usize) -> Result<Vec<Lease>, QueueError> {
        self.0.claim(max).await
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<(), QueueError> {
        self.0.settle(settlements).await?;
        self.written().await;
        Ok(())
    }

    async fn depth(&self) -> Result<Depth, QueueError> {
        self.0.depth().await
    }

    async fn tenant_usage(&self, tenants: &[String]) -> Result<Vec<TenantUsage>, QueueError> {
        self.0.tenant_usage(tenants).await
    }

    async fn release(&self, lanes: &[Lane]) -> Result<(), QueueError> {
        self.0.release(lanes).await
    }

    fn close(&self) {
        self.0.close();
    }

    fn abandoned(&self) -> Vec<Arc<Job>> {
        self.0.abandoned()
    }
}

#[async_trait]
impl DeadLetters for ReadAtOnce {
    async fn dead_letters(
        &self,
        filter: &DeadFilter,
        after: Option<DeadCursor>,
        limit: usize,
    ) -> Result<DeadPage, QueueError> {
        self.0.dead_letters(filter, after, limit).await
    }

    async fn dead_letter(&self, id: MessageId) -> Result<Option<FullDeadLetter>, QueueError> {
        self.0.dead_letter(id).await
    }

    async fn count_dead(&self, filter: &DeadFilter) -> Result<u64, QueueError> {
        self.0.count_dead(filter).await
    }

    async fn replay(&self, filter: &DeadFilter, limit: usize) -> Result<u64, QueueError> {
        let replayed = self.0.replay(filter, limit).await?;
        self.read().await;
        Ok(replayed)
    }

    async fn purge(&self, filter: &DeadFilter, limit: usize) -> Result<u64, QueueError> {
        self.0.purge(filter, limit).await
    }
}

#[async_trait]
impl Messages for ReadAtOnce {
    async fn message(&self, id: MessageId) -> Result<Option<MessageRecord>, QueueError> {
        self.0.message(id).await
    }
}

/// Deadline of a wait. A group may take some ten seconds to share out its partitions on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Polls until `holds` returns true. Panics after [`PATIENCE`].
async fn until<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    let polled = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, polled).await.unwrap_or_else(|_| panic!("waited in vain for {what}"));
}

impl ReadAtOnce {
    /// Waits until no record is on its way to another topic.
    async fn written(&self) {
        let consumer = self.0.consumer.as_ref().unwrap();
        until("records on their way to another topic", || async { consumer.writing() == 0 }).await;
    }

    /// Waits until the consumer has read both topics to their ends.
    async fn read(&self) {
        let has_read = || async {
            let lags = self.0.lag.of_logs(&self.0.kafka).await.unwrap();
            let consumer = self.0.consumer.as_ref().unwrap();
            lags.iter().all(|lag| consumer.next(lag.log, lag.partition).is_some_and(|next| next >= lag.end))
        };
        until("a consumer that has read all records", has_read).await;
    }
}

struct Kafka {
    kafka: KafkaConfig,
    config: QueueConfig,
    queue: Arc<dyn Queue>,
    clock: Clock,
}

impl Harness for Kafka {
    const DURABLE: bool = true;
    /// The consumer counts attempts in memory until a job goes to `events.retry`; the partition's next consumer starts from zero.
    const KEEPS_COUNT: bool = false;
    /// Only dead letters are found by their ids.
    const KNOWS_MESSAGES: bool = false;

    async fn start(config: QueueConfig) -> Self {
        // In one partition the jobs are read in the order of their pushes.
        let (kafka, clock) = (kafka(1).await, Clock::start());
        let queue = Arc::new(ReadAtOnce(consume(&kafka, config.clone(), clock).await));
        queue.read().await;
        Self { kafka, config, queue, clock }
    }

    fn queue(&self) -> &Arc<dyn Queue> {
        &self.queue
    }

    fn clock(&self) -> Clock {
        self.clock
    }

    async fn reopen(&mut self) {
        self.clock = Clock::start();
        // The old consumer must leave first, or it would keep the partition.
        self.queue = Arc::new(MemoryQueue::new(self.config.clone(), self.clock));
        let queue = ReadAtOnce(consume(&self.kafka, self.config.clone(), self.clock).await);
        queue.read().await;
        self.queue = Arc::new(queue);
    }
}

conformance!(promises, super::Kafka, except
    dead::a_replay_without_room_changes_nothing: "Kafka's quotas and retention bound the topics; the queue has no limit of its own",
    dead::messages_have_a_state_and_attempts: "a topic has no index of its messages by id, but for dead letters",
    dead::history_is_bounded: "a topic has no index of its messages by id, but for dead letters",
    limits::a_full_queue_refuses_whole_pushes_until_there_is_room: "Kafka's quotas and retention bound the topics; the queue has no limit of its own",
    limits::bytes_are_bounded: "Kafka's quotas and retention bound the topics; the queue has no limit of its own",
    limits::large_pushes_are_all_or_nothing: "the case fills the queue up to a limit, and this queue has none",
    limits::usage_is_counted_by_tenant: "a topic doesn't tell how many of its records are one tenant's",
);

/// Kafka's own quotas and retention bound what is queued: every push that Kafka acknowledges is accepted.
#[tokio::test]
async fn a_push_beyond_the_queues_limits_is_accepted() {
    let config = QueueConfig { max_jobs: 1, max_bytes: 1, ..conformance::config() };
    let kafka = Kafka::start(config).await;
    kafka.queue.push((0..3).map(|_| conformance::job("a")).collect()).await.unwrap();
    let mut claimed = 0;
    while claimed < 3 {
        for lease in conformance::claim(&kafka.queue, 3).await {
            conformance::done(&kafka.queue, lease).await;
            claimed += 1;
        }
    }
}

#[tokio::test]
async fn the_count_of_a_tenants_jobs_is_always_zero() {
    let kafka = Kafka::start(conformance::config()).await;
    let (tenant, endpoint) = (TenantId::new(), EndpointId::new());
    let target = Target::Endpoint(tenant, endpoint);
    let job = Job { lane: target.lane(), tenant: tenant.to_string().into(), target, ..conformance::job("a") };
    kafka.queue.push(vec![job]).await.unwrap();
    assert_eq!(kafka.queue.tenant_usage(&[tenant.to_string()]).await.unwrap(), [TenantUsage::default()]);
}
