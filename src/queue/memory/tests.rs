use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::common::clock::after;
use crate::common::retry::EndpointState;
use crate::queue::tests::{config, dead, job};

fn queue(ordered: bool) -> (Arc<MemoryQueue>, Clock) {
    let clock = Clock::start();
    (Arc::new(MemoryQueue::new(config(ordered), clock)), clock)
}

async fn settle(queue: &MemoryQueue, lease: Lease, verdict: Verdict) {
    queue.settle(&[Settlement { lease, verdict, attempt: None }]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_waiting_claim_is_woken_by_a_push() {
    let (queue, _) = queue(false);
    let waiting = tokio::spawn({
        let queue = Arc::clone(&queue);
        async move { queue.claim(8).await.unwrap() }
    });
    tokio::task::yield_now().await;
    queue.push(vec![job("a"), job("b")]).await.unwrap();
    assert_eq!(waiting.await.unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_claim_is_woken_when_a_retry_is_due() {
    let (queue, clock) = queue(false);
    queue.push(vec![job("a")]).await.unwrap();
    let lease = queue.claim(1).await.unwrap().remove(0);
    settle(
        &queue,
        lease,
        Verdict::Retry { at: after(clock.now(), Duration::from_secs(10)), endpoint: EndpointState::Failed },
    )
    .await;
    let start = Instant::now();
    assert_eq!(queue.claim(1).await.unwrap()[0].attempt, 2);
    let waited = start.elapsed();
    assert!(waited >= Duration::from_secs(10) && waited < Duration::from_secs(11), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_claim_loses_nothing() {
    let (queue, _) = queue(false);
    for _ in 0..10 {
        let waiting = queue.claim(8);
        assert!(tokio::time::timeout(Duration::from_secs(1), waiting).await.is_err());
    }
    queue.push(vec![job("a")]).await.unwrap();
    assert_eq!(queue.claim(8).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_full_queue_refuses_a_whole_batch() {
    let (queue, _) = queue(false);
    queue.push((0..99).map(|_| job("a")).collect()).await.unwrap();
    let refused = queue.push(vec![job("a"), job("a")]).await;
    assert!(matches!(refused, Err(QueueError::Full)));
    assert_eq!(queue.depth().await.unwrap().ready, 99);
    queue.push(vec![job("a")]).await.unwrap();
    for lease in queue.claim(1).await.unwrap() {
        settle(&queue, lease, Verdict::Done).await;
    }
    queue.push(vec![job("a")]).await.unwrap();
}

#[tokio::test]
async fn a_queue_with_too_many_bytes_refuses_pushes() {
    let (queue, _) = queue(false);
    let large = || Job { body: vec![0; 6_000].into(), ..job("a") };
    queue.push(vec![large()]).await.unwrap();
    assert!(matches!(queue.push(vec![large()]).await, Err(QueueError::Full)));
}

#[tokio::test]
async fn dead_letters_are_counted_and_listed() {
    let (queue, _) = queue(false);
    queue.push(vec![job("a")]).await.unwrap();
    let lease = queue.claim(1).await.unwrap().remove(0);
    let id = lease.job.id;
    settle(&queue, lease, dead()).await;
    assert_eq!(queue.depth().await.unwrap(), Depth { dead: 1, ..Depth::default() });
    let letters = queue.dead_letters(&DeadFilter::default(), None, 9).await.unwrap().letters;
    assert_eq!(letters.iter().map(|letter| letter.id).collect::<Vec<_>>(), [id]);
}

#[tokio::test(start_paused = true)]
async fn a_closed_queue_gives_out_its_jobs_and_then_ends() {
    let (queue, _) = queue(false);
    queue.push(vec![job("a"), job("b")]).await.unwrap();
    queue.close();
    assert!(matches!(queue.push(vec![job("a")]).await, Err(QueueError::Closed)));
    let leases = queue.claim(8).await.unwrap();
    assert_eq!(leases.len(), 2);
    let ending = tokio::spawn({
        let queue = Arc::clone(&queue);
        async move { queue.claim(8).await.unwrap() }
    });
    tokio::task::yield_now().await;
    assert!(!ending.is_finished(), "two leases are still out");
    assert_eq!(queue.abandoned().len(), 2);
    for lease in leases {
        settle(&queue, lease, Verdict::Done).await;
    }
    assert!(ending.await.unwrap().is_empty());
    assert!(queue.abandoned().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_claims_never_share_a_job() {
    let (queue, _) = queue(false);
    queue.push((0..100).map(|lane| job(&lane.to_string())).collect()).await.unwrap();
    queue.close();
    let claimers: Vec<_> = (0..4)
        .map(|_| {
            let queue = Arc::clone(&queue);
            tokio::spawn(async move {
                let mut ids = Vec::new();
                loop {
                    let leases = queue.claim(2).await.unwrap();
                    if leases.is_empty() {
                        return ids;
                    }
                    for lease in leases {
                        ids.push(lease.job.id);
                        settle(&queue, lease, Verdict::Done).await;
                    }
                }
            })
        })
        .collect();
    let mut ids = Vec::new();
    for claimer in claimers {
        ids.extend(claimer.await.unwrap());
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_released_lane_forgets_its_failures_and_is_due_at_once() {
    for ordered in [false, true] {
        let (queue, clock) = queue(ordered);
        queue.push(vec![job("a"), job("a"), job("b")]).await.unwrap();
        // Until the breaker has opened and the whole lane is throttled.
        for _ in 0..8 {
            let Ok(leases) = tokio::time::timeout(Duration::from_millis(1), queue.claim(8)).await else {
                break;
            };
            for lease in leases.unwrap() {
                let verdict = match lease.job.lane == Lane::new("a") {
                    true => Verdict::Retry {
                        at: after(clock.now(), Duration::from_secs(3_600)),
                        endpoint: EndpointState::Failed,
                    },
                    false => Verdict::Done,
                };
                settle(&queue, lease, verdict).await;
            }
        }
        let throttled = tokio::time::timeout(Duration::from_secs(1), queue.claim(8)).await;
        assert!(throttled.is_err(), "ordered {ordered}: {throttled:?}");
        queue.release(&[Lane::new("a"), Lane::new("never seen")]).await.unwrap();
        let mut released = 0;
        while released < 2 {
            for lease in queue.claim(8).await.unwrap() {
                settle(&queue, lease, Verdict::Dropped).await;
                released += 1;
            }
        }
        assert_eq!(queue.depth().await.unwrap(), Depth::default(), "ordered {ordered}");
    }
}

#[tokio::test]
async fn usage_counts_the_unsettled_jobs_of_each_tenant() {
    use crate::common::id::{EndpointId, TenantId};
    use crate::common::job::{Job, Target};
    let (queue, _) = queue(false);
    let target = Target::Endpoint(TenantId::new(), EndpointId::new());
    let of = |tenant: &str| Job { tenant: tenant.into(), target: target.clone(), ..job(tenant) };
    let direct = Job { tenant: "x".into(), ..job("x") };
    queue.push(vec![of("x"), of("x"), of("y"), direct]).await.unwrap();
    let names = ["x", "y", "z"].map(str::to_owned);
    let counts = || async {
        queue.tenant_usage(&names).await.unwrap().into_iter().map(|usage| (usage.jobs, usage.bytes))
    };
    assert!(counts().await.eq([(2, 20), (1, 10), (0, 0)]), "jobs of direct mode count for no tenant");
    let full = queue.push((0..101).map(|_| of("z")).collect()).await;
    assert!(matches!(full, Err(QueueError::TooLarge)));
    let mut verdicts = [Verdict::Done, dead(), Verdict::Dropped, Verdict::Done].into_iter();
    while verdicts.len() > 0 {
        for lease in queue.claim(8).await.unwrap() {
            settle(&queue, lease, verdicts.next().unwrap()).await;
        }
    }
    assert!(counts().await.eq([(0, 0); 3]));
}

#[tokio::test]
async fn a_job_can_ask_for_order_in_an_unordered_queue() {
    let (queue, _) = queue(false);
    let ordered = |lane: &str| crate::common::job::Job { ordered: true, ..job(lane) };
    queue.push(vec![ordered("a"), ordered("a"), job("b"), job("c")]).await.unwrap();
    let first = queue.claim(8).await.unwrap();
    assert_eq!(first.iter().filter(|lease| lease.job.lane == Lane::new("a")).count(), 1);
    let failed = first.into_iter().find(|lease| lease.job.lane == Lane::new("a")).unwrap();
    let id = failed.job.id;
    let at = jiff::Timestamp::UNIX_EPOCH;
    settle(&queue, failed, Verdict::Retry { at, endpoint: EndpointState::Failed }).await;
    let again = queue.claim(8).await.unwrap();
    assert_eq!(
        again.iter().map(|lease| lease.job.id).collect::<Vec<_>>(),
        [id],
        "the failed job comes first"
    );
}

#[tokio::test(start_paused = true)]
async fn a_retry_from_before_a_lane_became_ordered_does_not_make_it_unordered() {
    let (queue, clock) = queue(false);
    let ordered = || crate::common::job::Job { ordered: true, ..job("a") };
    let again = |seconds| Verdict::Retry {
        at: after(clock.now(), Duration::from_secs(seconds)),
        endpoint: EndpointState::Unknown,
    };
    queue.push(vec![job("a")]).await.unwrap();
    let before = queue.claim(8).await.unwrap().remove(0);
    settle(&queue, before, again(1)).await;
    let jobs: Vec<_> = (0..3).map(|_| ordered()).collect();
    let order: Vec<_> = jobs.iter().map(|job| job.id).collect();
    queue.push(jobs).await.unwrap();
    let first = queue.claim(8).await.unwrap().remove(0);
    assert_eq!(first.job.id, order[0]);
    settle(&queue, first, again(5)).await;
    let mut seen = Vec::new();
    while seen.len() < 4 {
        for lease in queue.claim(8).await.unwrap() {
            // The first job fails once more, after the older job is back in the lane.
            if lease.job.id == order[0] && lease.attempt == 2 {
                settle(&queue, lease, again(5)).await;
                continue;
            }
            seen.push(lease.job.id);
            settle(&queue, lease, Verdict::Done).await;
        }
    }
    let of_order: Vec<_> = seen.into_iter().filter(|id| order.contains(id)).collect();
    assert_eq!(of_order, order);
}
