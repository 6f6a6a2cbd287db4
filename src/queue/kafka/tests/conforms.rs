//! The promises of every queue, but for those that Kafka's differs in: what it does there instead is said here.

use std::sync::Arc;

use async_trait::async_trait;

use super::{consume, kafka};
use crate::common::clock::Clock;
use crate::common::id::{EndpointId, MessageId, TenantId};
use crate::common::job::{Job, Lane, Target};
use crate::common::kafka::KafkaConfig;
use crate::queue::conformance::{self, Harness};
use crate::queue::dead::{DeadCursor, DeadFilter, DeadLetters, DeadPage, FullDeadLetter};
use crate::queue::kafka::KafkaQueue;
use crate::queue::memory::MemoryQueue;
use crate::queue::message::{MessageRecord, Messages};
use crate::queue::{Depth, Lease, Queue, QueueConfig, QueueError, Settlement, TenantUsage};

/// A queue whose pushes end when the consumer has read what was pushed, as others' pushes end when it can be claimed; and
/// that has settled a job when that is in the topic where it belongs.
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

impl ReadAtOnce {
    async fn written(&self) {
        let consumer = self.0.consumer.as_ref().unwrap();
        while consumer.writing() > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }

    async fn read(&self) {
        let has_read = async || {
            let lags = self.0.lag.of_logs(&self.0.kafka).await.unwrap();
            let consumer = self.0.consumer.as_ref().unwrap();
            lags.iter().all(|lag| consumer.next(lag.log, lag.partition).is_some_and(|next| next >= lag.end))
        };
        while !has_read().await {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
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
    /// What isn't in events.retry is counted in the consumer's memory: who has the partition next begins anew.
    const KEEPS_COUNT: bool = false;
    /// `dead::messages_tell_where_they_stand` and `dead::history_is_bounded` differ: only the dead are known.
    const KNOWS_MESSAGES: bool = false;

    async fn start(config: QueueConfig) -> Option<Self> {
        // In one partition what was pushed first is read first.
        let (kafka, clock) = (kafka(1).await?, Clock::start());
        let queue = Arc::new(ReadAtOnce(consume(&kafka, config.clone(), clock).await));
        queue.read().await;
        Some(Self { kafka, config, queue, clock })
    }

    fn queue(&self) -> &Arc<dyn Queue> {
        &self.queue
    }

    fn clock(&self) -> Clock {
        self.clock
    }

    async fn reopen(&mut self) {
        self.clock = Clock::start();
        // It goes first: of two, the old one would keep the partition.
        self.queue = Arc::new(MemoryQueue::new(self.config.clone(), self.clock));
        let queue = ReadAtOnce(consume(&self.kafka, self.config.clone(), self.clock).await);
        queue.read().await;
        self.queue = Arc::new(queue);
    }
}

conformance::cases! { promises, super::Kafka:
    claims::a_pushed_job_is_claimed_as_it_was,
    claims::concurrent_claims_never_share_a_job,
    claims::a_lease_that_runs_out_comes_back_and_counts,
    claims::a_dropped_claim_loses_nothing,
    claims::a_waiting_claim_is_woken_by_a_push,
    claims::a_retry_is_hidden_until_due_and_wakes_a_claim,
    claims::attempts_are_counted,
    claims::what_was_not_asked_uses_up_no_retry,
    claims::release_makes_due_at_once,
    claims::settling_twice_is_harmless,
    claims::settling_a_lease_that_ran_out_is_harmless,
    claims::what_is_pushed_survives_or_is_reported,
    claims::close_refuses_pushes,
    order::ordered_lanes_keep_their_order_under_retries,
    order::jobs_ask_for_order_themselves,
    order::only_the_lane_that_fails_waits,
    order::a_lane_that_hangs_delays_no_other,
    order::lanes_take_turns,
    order::a_failing_lane_is_probed,
    order::a_paused_lane_is_left_alone,
    dead::the_dead_are_listed_and_filtered,
    dead::the_dead_are_paged,
    dead::a_dead_letter_has_its_body_and_attempts,
    dead::replay_starts_over_in_order,
    dead::purged_is_gone,
    dead::the_dead_survive,
    limits::a_queued_job_is_not_queued_twice,
    limits::depth_counts_every_state,
    model::agrees_with_a_simple_model,
}

/// `limits::a_full_queue_refuses_all_and_takes_again`, `limits::bytes_are_bounded`,
/// `limits::large_pushes_are_whole` and `dead::replay_has_room_or_changes_nothing` differ: Kafka's own quotas and retention bound what is queued, and a push
/// that Kafka takes is taken.
#[tokio::test]
async fn what_is_queued_is_not_bounded_here() {
    let config = QueueConfig { max_jobs: 1, max_bytes: 1, ..conformance::config() };
    let Some(kafka) = Kafka::start(config).await else { return };
    kafka.queue.push((0..3).map(|_| conformance::job("a")).collect()).await.unwrap();
    let mut claimed = 0;
    while claimed < 3 {
        for lease in conformance::claim(&kafka.queue, 3).await {
            conformance::done(&kafka.queue, lease).await;
            claimed += 1;
        }
    }
}

/// `limits::tenants_are_counted` differs: what a tenant has queued can't be told from a log.
#[tokio::test]
async fn tenants_are_not_counted() {
    let Some(kafka) = Kafka::start(conformance::config()).await else { return };
    let (tenant, endpoint) = (TenantId::new(), EndpointId::new());
    let target = Target::Endpoint(tenant, endpoint);
    let job = Job { lane: target.lane(), tenant: tenant.to_string().into(), target, ..conformance::job("a") };
    kafka.queue.push(vec![job]).await.unwrap();
    assert_eq!(kafka.queue.tenant_usage(&[tenant.to_string()]).await.unwrap(), [TenantUsage::default()]);
}
