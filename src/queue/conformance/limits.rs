//! Conformance: limits of the queue, and its counts.

use super::*;
use crate::queue::{Depth, QueueError, TenantUsage};

pub(in crate::queue) async fn a_full_queue_refuses_whole_pushes_until_there_is_room<H: Harness>() {
    let harness = H::start(QueueConfig { max_jobs: 3, ..config() }).await;
    let queue = harness.queue();
    let too_large = (0..4).map(|_| job("a")).collect();
    assert!(matches!(queue.push(too_large).await, Err(QueueError::TooLarge)));
    queue.push(vec![job("a"), job("b")]).await.unwrap();
    assert!(matches!(queue.push(vec![job("c"), job("d")]).await, Err(QueueError::Full)));
    assert_eq!(queue.depth().await.unwrap().unsettled(), 2, "a refused push queues nothing");
    let lease = claim_one(queue).await;
    assert!(
        matches!(queue.push(vec![job("c"), job("d")]).await, Err(QueueError::Full)),
        "a leased job still counts"
    );
    done(queue, lease).await;
    queue.push(vec![job("c"), job("d")]).await.unwrap();
}

pub(in crate::queue) async fn bytes_are_bounded<H: Harness>() {
    let harness = H::start(QueueConfig { max_bytes: 1_000, ..config() }).await;
    let queue = harness.queue();
    let of_size = |size| Job { body: body(size), ..job("a") };
    assert!(matches!(queue.push(vec![of_size(1_001)]).await, Err(QueueError::TooLarge)));
    queue.push(vec![of_size(600)]).await.unwrap();
    assert!(matches!(queue.push(vec![of_size(401)]).await, Err(QueueError::Full)));
    queue.push(vec![of_size(400)]).await.unwrap();
    let lease = claim_one(queue).await;
    settle(queue, lease, crate::queue::tests::dead()).await;
    queue.push(vec![of_size(600)]).await.unwrap();
}

pub(in crate::queue) async fn a_queued_job_is_not_queued_twice<H: Harness>() {
    let harness = H::start(config()).await;
    let queue = harness.queue();
    let (first, second) = (job("a"), job("a"));
    queue.push(vec![first.clone()]).await.unwrap();
    queue.push(vec![first.clone(), second.clone()]).await.unwrap();
    let lease = claim_one(queue).await;
    queue.push(vec![first.clone()]).await.unwrap();
    assert_eq!(queue.depth().await.unwrap().unsettled(), 2);
    done(queue, lease).await;
    let lease = claim_one(queue).await;
    assert_eq!(lease.job.id, second.id);
    done(queue, lease).await;
    assert_eq!(queue.depth().await.unwrap(), Depth::default());
}

pub(in crate::queue) async fn usage_is_counted_by_tenant<H: Harness>() {
    let harness = H::start(config()).await;
    let queue = harness.queue();
    let (one, other) = (TenantId::new(), TenantId::new());
    let tenants = [one.to_string(), other.to_string(), "tenant".to_owned(), TenantId::new().to_string()];
    let endpoint = EndpointId::new();
    queue.push(vec![job_of(one, endpoint), job_of(one, EndpointId::new()), job("a")]).await.unwrap();
    queue.push(vec![job_of(other, EndpointId::new())]).await.unwrap();
    let none = TenantUsage::default();
    let expected = [TenantUsage { jobs: 2, bytes: 20 }, TenantUsage { jobs: 1, bytes: 10 }, none, none];
    assert_eq!(
        queue.tenant_usage(&tenants).await.unwrap(),
        expected,
        "jobs of direct mode count for no tenant"
    );
    while queue.depth().await.unwrap().unsettled() > 0 {
        let lease = claim_one(queue).await;
        let is_first = lease.job.target == Target::Endpoint(one, endpoint);
        settle(queue, lease, if is_first { crate::queue::tests::dead() } else { Verdict::Done }).await;
    }
    assert_eq!(queue.tenant_usage(&tenants).await.unwrap(), [none; 4]);
    queue.replay(&all_dead(), 10).await.unwrap();
    assert_eq!(queue.tenant_usage(&tenants[..1]).await.unwrap(), [TenantUsage { jobs: 1, bytes: 10 }]);
    assert_eq!(queue.tenant_usage(&[]).await.unwrap(), []);
}

pub(in crate::queue) async fn depth_counts_every_state<H: Harness>() {
    let harness = H::start(config()).await;
    let queue = harness.queue();
    bury(queue, vec![job("dead")]).await;
    queue.push(vec![job("a")]).await.unwrap();
    let lease = claim_one(queue).await;
    settle(queue, lease, retry(harness.clock(), Duration::from_secs(3600), EndpointState::Unknown)).await;
    queue.push(vec![job("b")]).await.unwrap();
    let _leased = claim_one(queue).await;
    queue.push(vec![job("c"), job("c")]).await.unwrap();
    assert_eq!(queue.depth().await.unwrap(), Depth { ready: 2, delayed: 1, leased: 1, dead: 1 });
}

pub(in crate::queue) async fn large_pushes_are_all_or_nothing<H: Harness>() {
    let harness = H::start(QueueConfig { max_jobs: 3_000, ..config() }).await;
    let queue = harness.queue();
    let jobs: Vec<_> = (0..2_500).map(|number| job(&format!("lane{}", number % 500))).collect();
    within(queue.push(jobs.clone())).await.unwrap();
    assert_eq!(queue.depth().await.unwrap().ready, 2_500);
    assert!(matches!(within(queue.push(jobs[..501].to_vec())).await, Err(QueueError::Full)));
    assert_eq!(queue.depth().await.unwrap().ready, 2_500);
}
