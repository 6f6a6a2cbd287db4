//! Dead letters go when they are old: their retention.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::common::clock::Clock;
use crate::common::http::root_cause;
use crate::common::metrics::Metrics;
use crate::queue::dead::{DeadFilter, MAX_BATCH};
use crate::queue::{Queue, QueueError};

/// How far apart it looks, at least and at most. Between them it is a hundredth of the retention.
const LEAST_PAUSE: Duration = Duration::from_secs(1);
const MOST_PAUSE: Duration = Duration::from_secs(3600);

/// Deletes what has been dead for longer than it is kept.
pub struct Retention {
    /// Where dead letters are.
    pub queue: Arc<dyn Queue>,
    /// How long they are kept.
    pub kept: Duration,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Says how old they are.
    pub clock: Clock,
}

impl Retention {
    /// Deletes at once, and then again and again until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let pause = Duration::from_secs(self.kept.as_secs() / 100).clamp(LEAST_PAUSE, MOST_PAUSE);
        let mut fails = false;
        loop {
            let Some((purged, ended)) = stop.run_until_cancelled(self.purge()).await else { return };
            if purged > 0 {
                tracing::info!(purged, "dead letters deleted for their age; see --dead-letter-retention");
            }
            if let Err(error) = &ended
                && !fails
            {
                // Once, however long the queue can't be reached: whoever else asks it says so too.
                tracing::warn!(error = %root_cause(error), "dead letters that are too old can't be deleted; trying again");
            }
            fails = ended.is_err();
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// Deletes what is too old by now, batch by batch, and says how many that were.
    async fn purge(&self) -> (u64, Result<(), QueueError>) {
        let mut all = 0_u64;
        let Some(until) = self.too_old() else { return (all, Ok(())) };
        let filter = DeadFilter { until: Some(until), ..DeadFilter::default() };
        loop {
            match self.queue.purge(&filter, MAX_BATCH).await {
                Err(error) => return (all, Err(error)),
                Ok(0) => return (all, Ok(())),
                Ok(purged) => {
                    all = all.saturating_add(purged);
                    self.metrics.purged.inc_by(purged);
                }
            }
        }
    }

    /// What died before then is too old; nothing is where that is before time itself.
    fn too_old(&self) -> Option<Timestamp> {
        let kept = SignedDuration::try_from(self.kept).ok()?;
        self.clock.now().checked_sub(kept).ok()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::common::endpoint_url::EndpointUrl;
    use crate::common::id::MessageId;
    use crate::common::job::{ContentType, Job, Target, TraceContext};
    use crate::common::retry::{Cause, RetryPolicy, Verdict};
    use crate::queue::memory::MemoryQueue;
    use crate::queue::{QueueConfig, Settlement};

    const DAY: Duration = Duration::from_secs(86_400);

    fn open(clock: Clock) -> Arc<dyn Queue> {
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

    async fn bury(queue: &dyn Queue, count: usize) {
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

    async fn dead_letters(queue: &dyn Queue) -> u64 {
        queue.depth().await.unwrap().dead
    }

    #[tokio::test(start_paused = true)]
    async fn the_old_go_and_the_young_stay_until_they_are_old() {
        let clock = Clock::start();
        let queue = open(clock);
        bury(&*queue, 3).await;
        tokio::time::sleep(DAY * 20).await;
        bury(&*queue, 2).await;
        let metrics = Arc::new(Metrics::new());
        let stop = CancellationToken::new();
        let retention =
            Retention { queue: Arc::clone(&queue), kept: DAY * 30, metrics: Arc::clone(&metrics), clock };
        let running = tokio::spawn(retention.run(stop.clone()));
        tokio::time::sleep(DAY * 9).await;
        assert_eq!(dead_letters(&*queue).await, 5);
        // Within an hour of their time they are gone.
        tokio::time::sleep(DAY + MOST_PAUSE).await;
        assert_eq!((dead_letters(&*queue).await, metrics.purged.get()), (2, 3));
        tokio::time::sleep(DAY * 20 + MOST_PAUSE).await;
        assert_eq!((dead_letters(&*queue).await, metrics.purged.get()), (0, 5));
        stop.cancel();
        running.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn for_ever_deletes_nothing_and_not_at_all_everything() {
        let clock = Clock::start();
        let queue = open(clock);
        bury(&*queue, 2).await;
        tokio::time::sleep(DAY).await;
        let metrics = Arc::new(Metrics::new());
        let retention =
            |kept| Retention { queue: Arc::clone(&queue), kept, metrics: Arc::clone(&metrics), clock };
        assert_eq!(retention(Duration::MAX).purge().await.0, 0);
        assert_eq!(retention(DAY * 365 * 9_000).purge().await.0, 0);
        assert_eq!(retention(Duration::ZERO).purge().await.0, 2);
        assert_eq!(dead_letters(&*queue).await, 0);
    }
}
