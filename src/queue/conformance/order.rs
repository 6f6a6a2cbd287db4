//! Conformance: order within a lane, fairness between lanes, and throttling of failing lanes.

use std::collections::{HashMap, HashSet};

use super::*;

/// Pushes jobs of ordered lanes, retries each once, and checks that each lane is delivered in order.
async fn assert_order(harness: &impl Harness, jobs: Vec<Job>) {
    let queue = harness.queue();
    let mut order: HashMap<_, Vec<_>> = HashMap::new();
    for job in &jobs {
        order.entry(job.lane.clone()).or_default().push(job.id);
    }
    let count = jobs.len();
    for chunk in jobs.chunks(2) {
        queue.push(chunk.to_vec()).await.unwrap();
    }
    let mut seen: HashMap<_, Vec<_>> = HashMap::new();
    while seen.values().map(Vec::len).sum::<usize>() < count {
        let leases = claim(queue, 8).await;
        let lanes: HashSet<_> = leases.iter().map(|lease| lease.job.lane.clone()).collect();
        assert_eq!(lanes.len(), leases.len(), "one lease per lane");
        for lease in leases {
            assert!(lease.ordered);
            if lease.attempt == 1 {
                settle(queue, lease, retry(harness.clock(), milliseconds(3), EndpointState::Unknown)).await;
            } else {
                seen.entry(lease.job.lane.clone()).or_default().push(lease.job.id);
                done(queue, lease).await;
            }
        }
    }
    assert_eq!(seen, order);
}

pub(in crate::queue) async fn ordered_lanes_keep_their_order_under_retries<H: Harness>() {
    let harness = H::start(ordered()).await;
    assert_order(&harness, (0..18).map(|number| job(["a", "b", "c"][number % 3])).collect()).await;
}

pub(in crate::queue) async fn jobs_can_ask_for_order<H: Harness>() {
    let harness = H::start(config()).await;
    let jobs = (0..8).map(|number| Job { ordered: true, ..job(["a", "b"][number % 2]) });
    assert_order(&harness, jobs.collect()).await;
}

pub(in crate::queue) async fn only_the_lane_that_fails_waits<H: Harness>() {
    let harness = H::start(ordered()).await;
    let queue = harness.queue();
    let blocked = vec![job("blocked"), job("blocked")];
    let first = blocked[0].id;
    queue.push(blocked).await.unwrap();
    let lease = claim_one(queue).await;
    assert_eq!(lease.job.id, first);
    settle(queue, lease, retry(harness.clock(), Duration::from_secs(3600), EndpointState::Failed)).await;
    for _ in 0..5 {
        let other = job("other");
        queue.push(vec![other.clone()]).await.unwrap();
        let lease = claim_one(queue).await;
        assert_eq!(lease.job.id, other.id);
        done(queue, lease).await;
    }
    assert!(claim_now(queue, 8).await.is_empty());
}

pub(in crate::queue) async fn a_lane_that_hangs_delays_no_other<H: Harness>() {
    let harness = H::start(config()).await;
    let queue = harness.queue();
    queue.push((0..50).map(|_| job("hangs")).collect()).await.unwrap();
    let hanging = claim_now(queue, 32).await;
    assert_eq!(hanging.len(), 1, "a new lane gets one lease");
    for _ in 0..10 {
        let other = job("other");
        queue.push(vec![other.clone()]).await.unwrap();
        let lease = claim_one(queue).await;
        assert_eq!(lease.job.id, other.id);
        done(queue, lease).await;
    }
}

pub(in crate::queue) async fn lanes_take_turns<H: Harness>() {
    let harness = H::start(config()).await;
    let queue = harness.queue();
    queue.push((0..60).map(|_| job("busy")).collect()).await.unwrap();
    queue.push(vec![job("small")]).await.unwrap();
    let mut served = 0;
    loop {
        let lease = claim_one(queue).await;
        let is_small = lease.job.lane == job("small").lane;
        done(queue, lease).await;
        if is_small {
            break;
        }
        served += 1;
    }
    assert!(served <= 4, "{served} jobs of the busy lane came before the only job of the other lane");
}

pub(in crate::queue) async fn a_failing_lane_is_probed<H: Harness>() {
    let harness = H::start(config()).await;
    let queue = harness.queue();
    queue.push((0..20).map(|_| job("down")).collect()).await.unwrap();
    let hour = Duration::from_secs(3600);
    let mut last_failure = tokio::time::Instant::now();
    for _ in 0..5 {
        let lease = claim_one(queue).await;
        // Before the failure is settled, because the breaker's delay begins while it is.
        last_failure = tokio::time::Instant::now();
        settle(queue, lease, retry(harness.clock(), hour, EndpointState::Failed)).await;
    }
    // The policy's delay between probes is 200 ms, and there is one at a time.
    for _ in 0..2 {
        let leases = claim(queue, 8).await;
        assert_eq!(leases.len(), 1);
        for lease in leases {
            settle(queue, lease, retry(harness.clock(), hour, EndpointState::Failed)).await;
        }
    }
    assert!(last_failure.elapsed() >= milliseconds(380), "{:?}", last_failure.elapsed());
    // After a successful probe slow start begins again, with two leases.
    let probe = claim_one(queue).await;
    done(queue, probe).await;
    assert_eq!(claim_now(queue, 8).await.len(), 2);
}

pub(in crate::queue) async fn a_paused_lane_is_sent_nothing<H: Harness>() {
    let harness = H::start(config()).await;
    let queue = harness.queue();
    queue.push(vec![job("a"), job("a")]).await.unwrap();
    let lease = claim_one(queue).await;
    let paused = tokio::time::Instant::now();
    settle(queue, lease, retry(harness.clock(), milliseconds(300), EndpointState::Paused)).await;
    let next = claim_one(queue).await;
    assert!(paused.elapsed() >= milliseconds(280), "{:?}", paused.elapsed());
    done(queue, next).await;
}
