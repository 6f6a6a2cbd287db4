//! Partitions that move to another consumer and come back.

use std::collections::HashSet;
use std::time::Duration;

use super::{group, kafka};
use crate::common::clock::Clock;
use crate::common::job::Job;
use crate::common::kafka::KafkaConfig;
use crate::common::retry::Verdict;
use crate::queue::conformance;
use crate::queue::kafka::{GroupConfig, KafkaQueue};
use crate::queue::{Lease, Queue as _, Settlement};

/// Maximum number of jobs of one topic in memory.
const WINDOW: usize = 10;

async fn consume(kafka: &KafkaConfig) -> KafkaQueue {
    let group =
        GroupConfig { group: format!("{}-group", kafka.topics.events), window_jobs: WINDOW, ..group() };
    KafkaQueue::consume(kafka, &group, conformance::config(), Clock::start()).await.unwrap()
}

fn partitions(queue: &KafkaQueue) -> Vec<i32> {
    queue.consumer.as_ref().unwrap().partitions()
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let waited = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waited).await.expect(what);
}

/// librdkafka keeps a partition paused that was revoked while it was paused.
#[tokio::test]
async fn a_partition_that_was_revoked_while_paused_is_read_after_its_return() {
    let kafka = kafka(2).await;
    let one = consume(&kafka).await;
    until("both partitions", || partitions(&one).len() == 2).await;
    let jobs: Vec<Job> = (0..60)
        .map(|n| Job { tenant: format!("tenant-{n}").into(), ..conformance::job(&format!("lane-{n}")) })
        .collect();
    let ids: HashSet<_> = jobs.iter().map(|job| job.id).collect();
    one.push(jobs).await.unwrap();
    until("full windows", || one.consumer.as_ref().unwrap().paused() == 2).await;
    let other = consume(&kafka).await;
    until("one partition for each consumer", || partitions(&one).len() == 1 && partitions(&other).len() == 1)
        .await;
    other.leave(Duration::ZERO).await;
    until("both partitions again", || partitions(&one).len() == 2).await;
    let mut delivered = HashSet::new();
    while delivered.len() < ids.len() {
        let claimed = tokio::time::timeout(Duration::from_secs(30), one.claim(16)).await;
        for lease in claimed.expect("a claim must get jobs: the partition must be read").unwrap() {
            delivered.insert(lease.job.id);
            done(&one, lease).await;
        }
    }
    assert_eq!(delivered, ids);
    one.leave(Duration::from_secs(2)).await;
}

async fn done(queue: &KafkaQueue, lease: Lease) {
    queue.settle(&[Settlement { lease, verdict: Verdict::Done, attempt: None }]).await.unwrap();
}
