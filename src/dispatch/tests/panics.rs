//! Deliveries that panic.

use super::*;
use crate::common::data_dir::DataDir;
use crate::common::endpoint_url::EndpointUrl;
use crate::common::retry::CauseKind;
use crate::common::task::panics_of;
use crate::dispatch::claim::DELIVERY_TASK;
use crate::queue::dead::DeadFilter;
use crate::registry::{self, Limits, RegistryPlace};

/// Number of permits. Deliveries that panic would use up all of them if each kept its permit.
const PERMITS: usize = 2;

/// Dispatcher whose deliveries panic up to attempt number `panics`, and succeed after that.
struct Panicking {
    dispatcher: Dispatcher,
    panics: u32,
    /// Whether judging such a delivery panics as well.
    judge_panics: bool,
}

impl Deliver for Panicking {
    async fn deliver(&self, lease: &Lease) -> (Verdict, Option<Attempt>) {
        // A job that may not be attempted any more reaches no code that panics.
        if !may_attempt(lease.attempt, &self.dispatcher.policy) {
            return self.dispatcher.deliver(lease).await;
        }
        tokio::task::yield_now().await;
        if lease.attempt <= self.panics {
            panic!("on purpose");
        }
        (Verdict::Done, None)
    }

    fn judge_panic(&self, lease: &Lease) -> Verdict {
        assert!(!self.judge_panics, "on purpose");
        self.dispatcher.judge_panic(lease)
    }
}

/// Delivers `jobs` jobs with deliveries that panic up to attempt number `panics`. Returns the queue when all are
/// settled and all permits are back.
async fn deliver_all(jobs: u64, panics: u32, judge_panics: bool) -> Arc<dyn Queue> {
    let folder = tempfile::tempdir().unwrap();
    let dir = DataDir::open(folder.path()).unwrap();
    let limits = Limits { queued_jobs: 10, publishes_per_second: 10, endpoints: 10 };
    let registry = registry::open(&RegistryPlace::DataDir, &dir, None, limits).await.unwrap();
    let policy = RetryPolicy::try_list(vec![Duration::from_millis(1)], None, 0.0).unwrap();
    let dispatcher = dispatcher(registry, policy).await;
    let queue = Arc::clone(&dispatcher.queue);
    for _ in 0..jobs {
        let target = Target::Url(EndpointUrl::parse("https://example.com/").unwrap());
        queue.push(vec![job(target, "tenant", dispatcher.clock)]).await.unwrap();
    }
    let permits = Arc::new(Semaphore::new(PERMITS));
    let (settle, verdicts) = mpsc::channel(PERMITS);
    let deliverer = Arc::new(Panicking { dispatcher, panics, judge_panics });
    let claiming = claim_and_deliver(Arc::clone(&queue), deliverer, Arc::clone(&permits), settle);
    // A closed queue in memory ends when every job is settled.
    queue.close();
    let finished = async { tokio::join!(claiming, settle_verdicts(Arc::clone(&queue), verdicts)) };
    tokio::time::timeout(LEASE.saturating_mul(2), finished).await.expect("every job is settled");
    assert_eq!(permits.available_permits(), PERMITS, "every permit is back");
    assert_eq!(queue.depth().await.unwrap().unsettled(), 0);
    queue
}

#[tokio::test]
async fn jobs_whose_deliveries_panic_are_delivered_later() {
    let before = panics_of(DELIVERY_TASK);
    let queue = deliver_all(4, 1, false).await;
    assert_eq!(queue.depth().await.unwrap().dead, 0);
    assert!(panics_of(DELIVERY_TASK) >= before + 4);
}

#[tokio::test]
async fn a_job_that_always_panics_is_dead_lettered_as_interrupted() {
    let queue = deliver_all(1, u32::MAX, false).await;
    let page = queue.dead_letters(&DeadFilter::default(), None, 10).await.unwrap();
    let letters: Vec<_> = page.letters.iter().map(|letter| (letter.cause, letter.attempts)).collect();
    assert_eq!(letters, [(CauseKind::Interrupted, 7)], "2 attempts of the policy and 5 interrupted ones");
}

#[tokio::test(start_paused = true)]
async fn a_job_is_delivered_after_its_lease_if_even_judging_its_panic_panics() {
    let queue = deliver_all(1, 1, true).await;
    assert_eq!(queue.depth().await.unwrap().dead, 0);
}
