//! Conformance: push, claim, settle and close.

use std::sync::Mutex;

use super::*;
use crate::common::job::{ContentType, TraceContext};
use crate::queue::QueueError;

pub(in crate::queue) async fn a_claimed_job_equals_the_pushed_one<H: Harness>() {
    let harness = H::start(config()).await;
    let queue = harness.queue();
    let of_endpoint = Job {
        ordered: true,
        content_type: ContentType::Json,
        body: body(10_000),
        published_at: Timestamp::from_microsecond(1_700_000_000_123_456).unwrap(),
        trace: TraceContext::new(),
        ..job_of(TenantId::new(), EndpointId::new())
    };
    let direct = Job { tenant: "\"odd\"\r\nÄ".into(), body: Bytes::new(), ..job("a") };
    for pushed in [of_endpoint, direct] {
        queue.push(vec![pushed.clone()]).await.unwrap();
        let lease = claim_one(queue).await;
        let job = &*lease.job;
        assert_eq!((job.id, &job.tenant, &job.lane), (pushed.id, &pushed.tenant, &pushed.lane));
        assert_eq!((&job.target, job.ordered, job.trace), (&pushed.target, pushed.ordered, pushed.trace));
        assert_eq!((job.content_type, job.published_at), (pushed.content_type, pushed.published_at));
        assert_eq!(job.body, pushed.body);
        assert_eq!((lease.attempt, lease.ordered), (1, pushed.ordered));
        done(queue, lease).await;
    }
    assert_eq!(queue.depth().await.unwrap().unsettled(), 0);
}

pub(in crate::queue) async fn concurrent_claims_never_share_a_job<H: Harness>() {
    let harness = H::start(QueueConfig { max_jobs: 1_000, ..config() }).await;
    let queue = harness.queue();
    let jobs: Vec<_> = (0..200).map(|number| job(&format!("lane{}", number % 50))).collect();
    let mut pushed = ids(&jobs);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut claims = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (queue, seen) = (Arc::clone(queue), Arc::clone(&seen));
        claims.spawn(async move {
            loop {
                for lease in queue.claim(3).await.unwrap() {
                    seen.lock().unwrap().push(lease.job.id);
                    done(&queue, lease).await;
                }
            }
        });
    }
    queue.push(jobs).await.unwrap();
    within(async {
        while queue.depth().await.unwrap().unsettled() > 0 {
            tokio::time::sleep(milliseconds(10)).await;
        }
    })
    .await;
    claims.abort_all();
    let mut seen = seen.lock().unwrap().clone();
    seen.sort_unstable();
    pushed.sort_unstable();
    assert_eq!(seen, pushed);
}

pub(in crate::queue) async fn an_expired_lease_is_leased_again_as_the_next_attempt<H: Harness>() {
    let harness = H::start(QueueConfig { lease: milliseconds(150), ..config() }).await;
    let queue = harness.queue();
    queue.push(vec![job("a")]).await.unwrap();
    let first = claim_one(queue).await;
    let again = claim_one(queue).await;
    assert_eq!((again.job.id, again.attempt), (first.job.id, 2));
    assert_eq!(again.first_attempt_at, first.first_attempt_at);
}

pub(in crate::queue) async fn a_dropped_claim_loses_nothing<H: Harness>() {
    let harness = H::start(config()).await;
    let queue = harness.queue();
    for round in 0..30_u64 {
        queue.push(vec![job("a")]).await.unwrap();
        // Cancelled at a different point each round.
        let taken = tokio::time::timeout(Duration::from_micros(round * 50), queue.claim(8)).await;
        let lease = match taken {
            Ok(claimed) => claimed.unwrap().remove(0),
            Err(_) => claim_one(queue).await,
        };
        assert_eq!(lease.attempt, 1, "a cancelled claim is no attempt");
        done(queue, lease).await;
    }
}

pub(in crate::queue) async fn a_waiting_claim_is_woken_by_a_push<H: Harness>() {
    let harness = H::start(config()).await;
    let queue = harness.queue();
    for _ in 0..5 {
        let waiting = tokio::spawn({
            let queue = Arc::clone(queue);
            async move { claim_one(&queue).await }
        });
        tokio::time::sleep(milliseconds(5)).await;
        let pushed = job("a");
        queue.push(vec![pushed.clone()]).await.unwrap();
        let lease = waiting.await.unwrap();
        assert_eq!(lease.job.id, pushed.id);
        done(queue, lease).await;
    }
}

pub(in crate::queue) async fn a_retry_is_hidden_until_due_and_wakes_a_claim<H: Harness>() {
    let harness = H::start(config()).await;
    let queue = harness.queue();
    queue.push(vec![job("a")]).await.unwrap();
    let first = claim_one(queue).await;
    let (id, at) = (first.job.id, after(harness.clock().now(), milliseconds(300)));
    settle(queue, first, Verdict::Retry { at, endpoint: EndpointState::Failed }).await;
    let again = claim_one(queue).await;
    assert_eq!((again.job.id, again.attempt), (id, 2));
    // The clocks of two processes may differ a little.
    assert!(harness.clock().now() >= after(at, milliseconds(0)) - jiff::SignedDuration::from_millis(20));
}

pub(in crate::queue) async fn attempts_are_counted<H: Harness>() {
    let harness = H::start(config()).await;
    let queue = harness.queue();
    queue.push(vec![job("a")]).await.unwrap();
    for expected in 1..=5 {
        let lease = claim_one(queue).await;
        assert_eq!(lease.attempt, expected);
        settle(queue, lease, retry(harness.clock(), milliseconds(1), EndpointState::Unknown)).await;
    }
}

pub(in crate::queue) async fn an_attempt_that_was_not_sent_uses_up_no_retry<H: Harness>() {
    let harness = H::start(config()).await;
    let queue = harness.queue();
    queue.push(vec![job("a")]).await.unwrap();
    for (endpoint, next) in
        [(EndpointState::NotContacted, 1), (EndpointState::Unknown, 2), (EndpointState::NotContacted, 2)]
    {
        let lease = claim_one(queue).await;
        let lane = lease.job.lane.clone();
        // An hour, so that a busy machine can't make the job due before the depth is read.
        settle(queue, lease, retry(harness.clock(), Duration::from_secs(3600), endpoint)).await;
        let depth = queue.depth().await.unwrap();
        assert_eq!((depth.ready, depth.delayed), (0, 1), "the job waits for its retry");
        queue.release(std::slice::from_ref(&lane)).await.unwrap();
        let lease = claim_one(queue).await;
        assert_eq!(lease.attempt, next, "after {endpoint:?}");
        settle(queue, lease, retry(harness.clock(), milliseconds(1), EndpointState::NotContacted)).await;
    }
}

pub(in crate::queue) async fn released_jobs_are_due_at_once<H: Harness>() {
    for config in [config(), ordered()] {
        let harness = H::start(config).await;
        let queue = harness.queue();
        queue.push(vec![job("a")]).await.unwrap();
        let lease = claim_one(queue).await;
        let lane = lease.job.lane.clone();
        settle(queue, lease, retry(harness.clock(), Duration::from_secs(3600), EndpointState::Paused)).await;
        assert!(claim_now(queue, 1).await.is_empty());
        let waiting = tokio::spawn({
            let queue = Arc::clone(queue);
            async move { claim_one(&queue).await }
        });
        queue.release(std::slice::from_ref(&lane)).await.unwrap();
        let lease = waiting.await.unwrap();
        assert_eq!(lease.attempt, 2);
        done(queue, lease).await;
    }
}

pub(in crate::queue) async fn settling_twice_is_harmless<H: Harness>() {
    let harness = H::start(config()).await;
    let queue = harness.queue();
    queue.push(vec![job("a")]).await.unwrap();
    let lease = claim_one(queue).await;
    let settlement = [Settlement {
        lease,
        verdict: retry(harness.clock(), milliseconds(0), EndpointState::Unknown),
        attempt: Some(attempt(500)),
    }];
    queue.settle(&settlement).await.unwrap();
    let again = claim_one(queue).await;
    queue.settle(&settlement).await.unwrap();
    assert_eq!((again.attempt, queue.depth().await.unwrap().leased), (2, 1));
    if H::KNOWS_MESSAGES {
        let record = queue.message(again.job.id).await.unwrap().unwrap();
        assert_eq!(record.attempts.len(), 1);
    }
    done(queue, again).await;
    assert_eq!(queue.depth().await.unwrap().unsettled(), 0);
}

pub(in crate::queue) async fn settling_an_expired_lease_is_harmless<H: Harness>() {
    let harness = H::start(QueueConfig { lease: milliseconds(400), ..config() }).await;
    let queue = harness.queue();
    queue.push(vec![job("a")]).await.unwrap();
    let expired = claim_one(queue).await;
    let again = claim_one(queue).await;
    let id = again.job.id;
    settle(queue, expired, Verdict::Done).await;
    assert_eq!(queue.depth().await.unwrap().leased, 1, "the new lease is still out");
    settle(queue, again, Verdict::Done).await;
    assert_eq!(queue.depth().await.unwrap().unsettled(), 0);
    assert_eq!(queue.message(id).await.unwrap().is_some(), H::KNOWS_MESSAGES);
}

pub(in crate::queue) async fn unsettled_jobs_survive_or_are_reported<H: Harness>() {
    let mut harness = H::start(QueueConfig { lease: milliseconds(300), ..config() }).await;
    let jobs = vec![job("a"), job("b"), job("c")];
    let mut pushed = ids(&jobs);
    harness.queue().push(jobs).await.unwrap();
    let leased = claim_one(harness.queue()).await;
    let retried = claim_one(harness.queue()).await;
    settle(harness.queue(), retried, retry(harness.clock(), milliseconds(100), EndpointState::Unknown)).await;
    pushed.sort_unstable();
    if !H::DURABLE {
        harness.queue().close();
        let mut left: Vec<_> = harness.queue().abandoned().iter().map(|job| job.id).collect();
        left.sort_unstable();
        assert_eq!(left, pushed);
        done(harness.queue(), leased).await;
        while !harness.queue().abandoned().is_empty() {
            for lease in claim(harness.queue(), 8).await {
                done(harness.queue(), lease).await;
            }
        }
        assert!(claim(harness.queue(), 8).await.is_empty(), "a closed queue without jobs ends the claim");
        return;
    }
    harness.queue().close();
    assert!(claim(harness.queue(), 8).await.is_empty(), "a closed durable queue gives out no more jobs");
    assert!(harness.queue().abandoned().is_empty());
    harness.reopen().await;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        for lease in claim(harness.queue(), 8).await {
            seen.push(lease.job.id);
            done(harness.queue(), lease).await;
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, pushed);
    assert_eq!(harness.queue().depth().await.unwrap().unsettled(), 0);
}

pub(in crate::queue) async fn a_closed_queue_refuses_pushes<H: Harness>() {
    let harness = H::start(config()).await;
    let queue = harness.queue();
    let waiting = tokio::spawn({
        let queue = Arc::clone(queue);
        async move { claim(&queue, 1).await }
    });
    tokio::time::sleep(milliseconds(5)).await;
    queue.close();
    assert!(matches!(queue.push(vec![job("a")]).await, Err(QueueError::Closed)));
    assert!(waiting.await.unwrap().is_empty());
}
