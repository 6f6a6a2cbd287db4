//! Tests of servers that share a Redis, and of failures of Redis.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::own_server::OwnServer;
use super::{clock, config, open, redis};
use crate::common::redis::{RedisConfig, RedisConnection};
use crate::common::retry::{CauseKind, EndpointState, Verdict};
use crate::queue::conformance::{claim, claim_one, done, job, retry, settle, within};
use crate::queue::dead::DeadFilter;
use crate::queue::{Lease, Queue, QueueConfig, QueueError};

#[tokio::test]
async fn two_servers_share_the_jobs_and_keep_order() {
    let redis = redis();
    let config = QueueConfig { ordered: true, max_jobs: 1_000, ..config() };
    let servers = [open(&redis, config.clone()).await, open(&redis, config).await];
    let jobs: Vec<_> = (0..300).map(|number| job(&format!("lane{}", number % 10))).collect();
    let mut pushed: HashMap<_, Vec<_>> = HashMap::new();
    for job in &jobs {
        pushed.entry(job.lane.clone()).or_default().push(job.id);
    }
    let seen: Arc<Mutex<HashMap<_, Vec<_>>>> = Arc::default();
    let served: Arc<Mutex<HashSet<usize>>> = Arc::default();
    let mut claims = tokio::task::JoinSet::new();
    for (index, queue) in servers.iter().cloned().enumerate() {
        let (seen, served) = (Arc::clone(&seen), Arc::clone(&served));
        claims.spawn(async move {
            loop {
                for lease in queue.claim(3).await.unwrap() {
                    served.lock().unwrap().insert(index);
                    if lease.attempt == 1 {
                        settle(&queue, lease, retry(clock(), Duration::ZERO, EndpointState::Unknown)).await;
                    } else {
                        seen.lock().unwrap().entry(lease.job.lane.clone()).or_default().push(lease.job.id);
                        done(&queue, lease).await;
                    }
                }
            }
        });
    }
    for jobs in jobs.chunks(30) {
        servers[0].push(jobs.to_vec()).await.unwrap();
    }
    within(empty(&servers[1])).await;
    claims.abort_all();
    assert_eq!(*seen.lock().unwrap(), pushed);
    assert_eq!(served.lock().unwrap().len(), 2);
}

/// Waits until the queue has no unsettled jobs.
async fn empty(queue: &Arc<dyn Queue>) {
    while queue.depth().await.unwrap().unsettled() > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_push_wakes_up_a_claim_of_another_server() {
    let redis = redis();
    let (one, other) = (open(&redis, config()).await, open(&redis, config()).await);
    let waiting = tokio::spawn(async move { claim_one(&other).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let pushed = job("a");
    one.push(vec![pushed.clone()]).await.unwrap();
    assert_eq!(waiting.await.unwrap().job.id, pushed.id);
}

#[tokio::test]
async fn a_server_takes_over_the_leases_of_a_dead_one() {
    let redis = redis();
    let config = QueueConfig { lease: Duration::from_millis(300), ..config() };
    let (dead, alive) = (open(&redis, config.clone()).await, open(&redis, config).await);
    dead.push(vec![job("a")]).await.unwrap();
    let lost = claim_one(&dead).await;
    drop(dead);
    let lease = claim_one(&alive).await;
    assert_eq!((lease.job.id, lease.attempt), (lost.job.id, 2));
}

#[tokio::test]
async fn flushed_scripts_are_loaded_again() {
    let redis = redis();
    let queue = open(&redis, config()).await;
    let connection = RedisConnection::open(&redis).await.unwrap();
    for _ in 0..3 {
        let mut flush = ::redis::cmd("SCRIPT");
        connection.query::<()>(flush.arg("FLUSH")).await.unwrap();
        queue.push(vec![job("a")]).await.unwrap();
        connection.query::<()>(&flush).await.unwrap();
        let lease = claim_one(&queue).await;
        connection.query::<()>(&flush).await.unwrap();
        done(&queue, lease).await;
    }
    assert_eq!(queue.depth().await.unwrap().unsettled(), 0);
}

#[tokio::test]
async fn acknowledged_jobs_survive_a_kill_of_redis() {
    let options = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut server = OwnServer::start(&options).await;
    let queue = open(&server.config(), config()).await;
    let (before, during, afterwards) = (job("a"), job("b"), job("c"));
    queue.push(vec![before.clone()]).await.unwrap();
    let waiting = tokio::spawn({
        let queue = Arc::clone(&queue);
        async move {
            let mut seen: Vec<Lease> = Vec::new();
            while seen.len() < 3 {
                match queue.claim(8).await {
                    Ok(leases) => seen.extend(leases),
                    Err(QueueError::Unavailable(..)) => tokio::time::sleep(Duration::from_millis(50)).await,
                    Err(error) => panic!("{error:?}"),
                }
            }
            seen
        }
    });
    while queue.depth().await.unwrap().leased == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.kill();
    let refused = within(queue.push(vec![during.clone()])).await;
    assert!(matches!(refused, Err(QueueError::Unavailable(..))), "{refused:?}");
    server.run().await;
    within(async {
        while queue.push(vec![during.clone()]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    queue.push(vec![afterwards.clone()]).await.unwrap();
    let seen = within(waiting).await.unwrap();
    let ids: Vec<_> = seen.iter().map(|lease| lease.job.id).collect();
    assert_eq!(ids, [before.id, during.id, afterwards.id]);
    for lease in seen {
        done(&queue, lease).await;
    }
    assert_eq!(
        queue.depth().await.unwrap().unsettled(),
        0,
        "the lease made before the kill is settled by its token"
    );
}

#[tokio::test]
async fn a_full_redis_refuses_pushes_but_still_delivers() {
    let server = OwnServer::start(&["--maxmemory-policy", "noeviction"]).await;
    let queue = open(&server.config(), QueueConfig { max_bytes: 1 << 30, ..config() }).await;
    let large = || crate::common::job::Job { body: vec![0; 100_000].into(), ..job("a") };
    queue.push(vec![large(), large()]).await.unwrap();
    server.cli(&["CONFIG", "SET", "maxmemory", "1mb"]);
    let refused = queue.push(vec![large()]).await;
    assert!(
        matches!(refused, Err(QueueError::Unavailable("Redis has no memory left (maxmemory)", _))),
        "{refused:?}"
    );
    let lease = claim_one(&queue).await;
    settle(&queue, lease, crate::queue::tests::dead()).await;
    let lease = claim_one(&queue).await;
    done(&queue, lease).await;
    assert_eq!(queue.purge(&DeadFilter::default(), 10).await.unwrap(), 1);
    server.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    queue.push(vec![large()]).await.unwrap();
}

#[tokio::test]
async fn a_paused_redis_times_out_and_is_used_again() {
    let server = OwnServer::start(&[]).await;
    let queue = open(&server.config(), config()).await;
    // This loads the scripts. A call that Redis receives during the pause is then executed after it.
    queue.push(vec![job("a")]).await.unwrap();
    let lease = claim_one(&queue).await;
    done(&queue, lease).await;
    server.cli(&["CLIENT", "PAUSE", "4500", "ALL"]);
    let (paused, pushed) = (tokio::time::Instant::now(), job("a"));
    let refused = queue.push(vec![pushed.clone()]).await;
    assert!(matches!(refused, Err(QueueError::Unavailable(..))), "{refused:?}");
    assert!(paused.elapsed() < Duration::from_millis(4_400), "{:?}", paused.elapsed());
    // The push was executed after the pause and wakes up the claim, although the publisher stopped waiting.
    let lease = within(async {
        loop {
            match queue.claim(1).await {
                Ok(mut leases) => return leases.remove(0),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    })
    .await;
    assert_eq!(lease.job.id, pushed.id);
    within(async { while queue.push(vec![pushed.clone()]).await.is_err() {} }).await;
    assert_eq!(queue.depth().await.unwrap().unsettled(), 1, "repeating the push adds nothing");
}

#[tokio::test]
async fn passwords_databases_and_prefixes_separate_queues() {
    let server = OwnServer::start(&["--requirepass", "s3cret"]).await;
    let of = |rest: &str, prefix| {
        RedisConfig::parse(&format!("redis://{rest}127.0.0.1:{}/2", server.port), prefix).unwrap()
    };
    let refused = super::RedisQueue::open(&of(":wr0ng@", "test"), config(), clock()).await.err().unwrap();
    let message = format!("{refused} {refused:?}");
    assert!(message.contains("127.0.0.1") && !message.contains("wr0ng"), "{message}");
    let one = open(&of(":s3cret@", "test"), config()).await;
    let other_prefix = open(&of(":s3cret@", "other"), config()).await;
    let url = format!("redis://:s3cret@127.0.0.1:{}/3", server.port);
    let other_database = open(&RedisConfig::parse(&url, "test").unwrap(), config()).await;
    one.push(vec![job("a")]).await.unwrap();
    assert_eq!(one.depth().await.unwrap().ready, 1);
    assert_eq!(other_prefix.depth().await.unwrap().ready, 0);
    assert_eq!(other_database.depth().await.unwrap().ready, 0);
}

#[tokio::test]
async fn large_bodies_come_a_few_at_a_time() {
    let redis = redis();
    let queue = open(&redis, QueueConfig { max_bytes: 1 << 30, ..config() }).await;
    let large = |lane| crate::common::job::Job { body: vec![0; 1 << 20].into(), ..job(lane) };
    let lanes = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
    queue.push(lanes.map(large).to_vec()).await.unwrap();
    let first = claim(&queue, 12).await;
    assert_eq!(first.len(), 8, "an answer holds 8 MiB");
    assert_eq!(claim(&queue, 12).await.len(), 4, "the rest follows without a wake-up");
}

#[tokio::test]
async fn damaged_jobs_are_dead_lettered() {
    let server = OwnServer::start(&[]).await;
    let queue = open(&server.config(), config()).await;
    let (without_body, unreadable, missing, intact) = (job("a"), job("b"), job("c"), job("d"));
    let jobs = [&without_body, &unreadable, &missing, &intact].map(Clone::clone);
    queue.push(jobs.to_vec()).await.unwrap();
    let key = |job: &crate::common::job::Job| format!("{{test:0}}:job:{}", job.id);
    server.cli(&["HDEL", &key(&without_body), "body"]);
    server.cli(&["HSET", &key(&unreadable), "record", "{"]);
    server.cli(&["DEL", &key(&missing)]);
    let lease = claim_one(&queue).await;
    assert_eq!(lease.job.id, intact.id);
    done(&queue, lease).await;
    let damaged = DeadFilter { causes: vec![CauseKind::Damaged], ..DeadFilter::default() };
    let letters = queue.dead_letters(&damaged, None, 10).await.unwrap().letters;
    let mut ids: Vec<_> = letters.iter().map(|letter| letter.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, [without_body.id, unreadable.id]);
    assert!(queue.dead_letter(without_body.id).await.unwrap().unwrap().body.is_none());
    assert_eq!(queue.purge(&damaged, 10).await.unwrap(), 2);
}

#[tokio::test]
async fn a_newer_layout_is_refused_and_any_number_of_shards_is_used() {
    let server = OwnServer::start(&[]).await;
    server.cli(&["SET", "{test}:layout", "2 1"]);
    let refused = super::RedisQueue::open(&server.config(), config(), clock()).await.err().unwrap();
    assert!(refused.to_string().contains("--redis-prefix"), "{refused}");
    server.cli(&["SET", "{test}:layout", "1 4"]);
    let queue = open(&server.config(), config()).await;
    let jobs: Vec<_> = (0..40).map(|number| job(&format!("lane{number}"))).collect();
    queue.push(jobs).await.unwrap();
    let mut left = 40;
    while left > 0 {
        for lease in claim(&queue, 16).await {
            left -= 1;
            settle(&queue, lease, Verdict::Done).await;
        }
    }
    assert_eq!(queue.depth().await.unwrap().unsettled(), 0);
    drop(server.connection().await);
}

#[tokio::test]
async fn tls_certificates_are_verified_against_the_given_roots() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let options = ["--tls-port", &port, "--tls-auth-clients", "no", "--tls-cert-file", certificate];
    let options = [&options[..], &["--tls-key-file", key]].concat();
    let _server = OwnServer::start(&options).await;
    let unchecked = RedisConfig::parse(&format!("rediss://localhost:{port}"), "test").unwrap();
    assert!(
        super::RedisQueue::open(&unchecked, config(), clock()).await.is_err(),
        "the certificate has no trusted issuer"
    );
    let checked = unchecked.with_roots(made.cert.pem().into_bytes()).unwrap();
    let (one, other) = (open(&checked, config()).await, open(&checked, config()).await);
    let waiting = tokio::spawn(async move { claim_one(&other).await });
    let pushed = job("a");
    one.push(vec![pushed.clone()]).await.unwrap();
    assert_eq!(waiting.await.unwrap().job.id, pushed.id);
}
