//! Tests with a Redis Cluster of three nodes.

use std::process::Command;
use std::time::Duration;

use super::own_server::OwnServer;
use super::{RedisQueue, clock, config, open};
use crate::common::redis::RedisConfig;
use crate::queue::QueueConfig;
use crate::queue::conformance::{claim, done, job, within};

#[tokio::test]
async fn a_cluster_delivers_from_all_of_its_shards() {
    let mut nodes = Vec::new();
    for _ in 0..3 {
        let options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"];
        let node = OwnServer::start(&options).await;
        nodes.push(node);
    }
    let addresses = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port));
    let made = Command::new("redis-cli")
        .args(["--cluster", "create", "--cluster-yes"])
        .args(addresses)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
    within(async {
        while !nodes.iter().all(|node| node.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok")) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;

    let alone = RedisQueue::open(&nodes[0].config(), config(), clock()).await.err().unwrap();
    assert!(alone.to_string().contains("is a cluster"), "{alone}");
    let urls: Vec<_> = nodes.iter().map(OwnServer::url).collect();
    let redis = RedisConfig::parse(&urls.join(","), "test").unwrap();
    let queue = open(&redis, QueueConfig { max_jobs: 1_000, ..config() }).await;
    let jobs: Vec<_> = (0..200).map(|number| job(&format!("lane{}", number % 80))).collect();
    let mut pushed: Vec<_> = jobs.iter().map(|job| job.id).collect();
    let last = jobs[199].id;
    queue.push(jobs).await.unwrap();
    assert_eq!(queue.depth().await.unwrap().ready, 200);
    assert!(queue.message(last).await.unwrap().is_some());
    let mut seen = Vec::new();
    while seen.len() < 200 {
        for lease in claim(&queue, 32).await {
            seen.push(lease.job.id);
            done(&queue, lease).await;
        }
    }
    seen.sort_unstable();
    pushed.sort_unstable();
    assert_eq!(seen, pushed);
    assert_eq!(queue.depth().await.unwrap().unsettled(), 0);
    // A push of another server wakes up a waiting claim, whichever node has the shard.
    let other = open(&redis, config()).await;
    let waiting = tokio::spawn(async move { claim(&queue, 1).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let woken = job("woken");
    other.push(vec![woken.clone()]).await.unwrap();
    assert_eq!(within(waiting).await.unwrap()[0].job.id, woken.id);
    let by_node = nodes.iter().filter(|node| node.cli(&["DBSIZE"]) != "0").count();
    assert_eq!(by_node, 3, "every node has keys");
}
