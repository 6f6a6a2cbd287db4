use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::*;
use crate::common::endpoint_url::EndpointUrl;
use crate::common::id::MessageId;
use crate::common::job::{ContentType, Job, Target, TraceContext};
use crate::common::retry::{Cause, RetryPolicy, Verdict};
use crate::queue::dead::{DeadCursor, DeadPage, FullDeadLetter};
use crate::queue::memory::MemoryQueue;
use crate::queue::{Queue, QueueConfig, Settlement};

const DAY: Duration = Duration::from_secs(86_400);

fn open_queue(clock: Clock) -> Arc<dyn Queue> {
    let config = QueueConfig {
        ordered: false,
        max_jobs: 10,
        max_bytes: 1_000,
        in_flight: 8,
        lane_in_flight: 8,
        lease: Duration::from_secs(60),
        retry: RetryPolicy::default(),
        history: 0,
    };
    Arc::new(MemoryQueue::new(config, clock))
}

/// Pushes `count` jobs and dead-letters them now.
async fn add_dead_letters(queue: &dyn Queue, count: usize) {
    let target = Target::Url(EndpointUrl::parse("https://example.com/").unwrap());
    for _ in 0..count {
        let job = Job {
            id: MessageId::new(),
            tenant: "tenant".into(),
            lane: target.lane(),
            ordered: false,
            target: target.clone(),
            content_type: ContentType::Jose,
            body: Bytes::from_static(b"{}"),
            published_at: Timestamp::UNIX_EPOCH,
            trace: TraceContext::new(),
        };
        queue.push(vec![job]).await.unwrap();
        for lease in queue.claim(1).await.unwrap() {
            let verdict = Verdict::Dead { cause: Cause::Disabled };
            queue.settle(&[Settlement { lease, verdict, attempt: None }]).await.unwrap();
        }
    }
}

async fn count(queue: &dyn Queue) -> u64 {
    queue.depth().await.unwrap().dead
}

fn retention(dead_letters: Arc<dyn DeadLetters>, max_age: Duration, clock: Clock) -> Retention {
    Retention { dead_letters, max_age, metrics: Arc::new(Metrics::new()), clock }
}

#[tokio::test(start_paused = true)]
async fn dead_letters_are_deleted_when_they_reach_the_maximum_age() {
    let clock = Clock::start();
    let queue = open_queue(clock);
    add_dead_letters(&*queue, 3).await;
    tokio::time::sleep(DAY * 20).await;
    add_dead_letters(&*queue, 2).await;
    let stop = CancellationToken::new();
    let retention = retention(Arc::clone(&queue) as _, DAY * 30, clock);
    let metrics = Arc::clone(&retention.metrics);
    let running = tokio::spawn(retention.run(stop.clone()));
    tokio::time::sleep(DAY * 9).await;
    assert_eq!(count(&*queue).await, 5);
    // A pass may come one pause after the age is reached.
    tokio::time::sleep(DAY + MAX_PAUSE).await;
    assert_eq!((count(&*queue).await, metrics.purged.get()), (2, 3));
    tokio::time::sleep(DAY * 20 + MAX_PAUSE).await;
    assert_eq!((count(&*queue).await, metrics.purged.get()), (0, 5));
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_age_beyond_all_time_deletes_nothing_and_an_age_of_zero_everything() {
    let clock = Clock::start();
    let queue = open_queue(clock);
    add_dead_letters(&*queue, 2).await;
    tokio::time::sleep(DAY).await;
    for max_age in [Duration::MAX, DAY * 365 * 9_000] {
        retention(Arc::clone(&queue) as _, max_age, clock).purge().await.unwrap();
        assert_eq!(count(&*queue).await, 2);
    }
    retention(Arc::clone(&queue) as _, Duration::ZERO, clock).purge().await.unwrap();
    assert_eq!(count(&*queue).await, 0);
}

/// Dead letters whose first purge panics, and whose second purge deletes one.
#[derive(Default)]
struct PanickingOnce {
    purges: AtomicU64,
}

#[async_trait]
impl DeadLetters for PanickingOnce {
    async fn dead_letters(
        &self,
        _: &DeadFilter,
        _: Option<DeadCursor>,
        _: usize,
    ) -> Result<DeadPage, QueueError> {
        unreachable!("retention only purges")
    }

    async fn dead_letter(&self, _: MessageId) -> Result<Option<FullDeadLetter>, QueueError> {
        unreachable!("retention only purges")
    }

    async fn count_dead(&self, _: &DeadFilter) -> Result<u64, QueueError> {
        unreachable!("retention only purges")
    }

    async fn replay(&self, _: &DeadFilter, _: usize) -> Result<u64, QueueError> {
        unreachable!("retention only purges")
    }

    async fn purge(&self, _: &DeadFilter, _: usize) -> Result<u64, QueueError> {
        match self.purges.fetch_add(1, Ordering::SeqCst) {
            0 => panic!("on purpose"),
            1 => Ok(1),
            _ => Ok(0),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_pass_that_panics_is_counted_and_the_next_one_runs() {
    let dead_letters = Arc::new(PanickingOnce::default());
    let stop = CancellationToken::new();
    let retention = retention(dead_letters, DAY, Clock::start());
    let metrics = Arc::clone(&retention.metrics);
    let running = tokio::spawn(retention.run(stop.clone()));
    tokio::time::sleep(MAX_PAUSE).await;
    assert_eq!(task::panics_of(RETENTION_TASK), 1);
    assert_eq!(metrics.purged.get(), 1);
    stop.cancel();
    running.await.unwrap();
}
