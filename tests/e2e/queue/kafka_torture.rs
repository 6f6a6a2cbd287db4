//! Consumers and brokers of Kafka are killed under load. No accepted event may be lost.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::kafka::{Kafka, publish_for};
use crate::support::load::{
    FixedRandom, FlakyCustomer, Publishers, assert_in_order, count_repeated, missing, rounds,
};
use crate::support::{OK, RawCustomer, Server, publish, wait_until};

/// Concurrent attempts of one consumer.
const IN_FLIGHT: usize = 16;

/// Maximum number of jobs that a consumer settles before it commits.
const UNCOMMITTED: usize = 500;

/// Runs three consumers. In each round one is killed or leaves the group, and another joins.
fn torture(ordered: bool) {
    let kafka = Kafka::shared(6);
    let (server, customer) = (kafka.server(&[]), FlakyCustomer::start());
    let in_flight = IN_FLIGHT.to_string();
    let flags = ["--retry-delays", "20", "--max-retries", "1000", "--in-flight", &in_flight];
    let flags: Vec<&str> = flags.into_iter().chain(ordered.then_some("--ordered")).collect();
    let mut consumers: Vec<Server> = (0..3).map(|_| kafka.consumer(&flags)).collect();
    let publishers = Publishers::start(customer.port, server.port);
    let mut random = FixedRandom(0xd1ce);
    let (rounds, mut kills) = ((rounds() / 4).max(2), 0);
    for round in 0..rounds {
        thread::sleep(Duration::from_millis(1_000 + random.below(2_000)));
        let which = usize::try_from(random.below(3)).unwrap();
        let mut consumer = consumers.swap_remove(which);
        if round % 3 == 2 {
            consumer.signal("TERM");
            assert_eq!(consumer.wait().code(), Some(0), "{}", consumer.log());
        } else {
            kills += 1;
            consumer.signal("KILL");
            consumer.wait();
        }
        consumers.push(kafka.consumer(&flags));
    }
    let accepted = publishers.stop();
    let total: usize = accepted.values().map(Vec::len).sum();
    assert!(total > rounds, "too few events were published: {total}");
    wait_until("all accepted events", || missing(&accepted, &customer).is_empty());
    wait_until("an empty queue", || server.queued_jobs() == 0);
    assert_eq!(server.metric("whk_queue_jobs{state=\"dead\"}"), 0);
    let taken = customer.taken();
    let twice = count_repeated(&taken);
    eprintln!(
        "ordered {ordered}: {rounds} rounds, {kills} kills, {total} accepted, none lost, {twice} delivered twice"
    );
    assert!(twice <= kills * (IN_FLIGHT + UNCOMMITTED), "{twice} delivered twice after {kills} kills");
    if ordered {
        assert_in_order(&accepted, &taken);
    }
}

#[test]
fn nothing_is_lost_when_consumers_are_killed() {
    torture(false);
}

#[test]
fn order_is_kept_when_consumers_are_killed() {
    torture(true);
}

#[test]
fn nothing_is_lost_when_the_broker_is_killed_under_load() {
    let mut kafka = Kafka::own(3);
    let (server, customer) = (kafka.server(&["--kafka-timeout", "2s"]), FlakyCustomer::start());
    let flags = ["--retry-delays", "20", "--max-retries", "1000", "--kafka-timeout", "2s", "--ordered"];
    let _consumers = [kafka.consumer(&flags), kafka.consumer(&flags)];
    let publishers = Publishers::start(customer.port, server.port);
    for _ in 0..(rounds() / 8).max(1) {
        thread::sleep(Duration::from_secs(2));
        kafka.kill(0);
        let url = format!("http://127.0.0.1:{}/away", customer.port);
        let refused = publish(&server, &json!({"url": url, "payload": 1}).to_string());
        assert_eq!(refused.status, 503, "{refused:?}");
        assert!(refused.headers.contains_key("retry-after"));
        thread::sleep(Duration::from_secs(1));
        kafka.restart(0);
        let restarted = Instant::now();
        wait_until("an accepted event after the restart", || {
            publish(&server, &json!({"url": url, "payload": 1}).to_string()).status == 202
        });
        eprintln!("published again {:.1} s after the broker listened", restarted.elapsed().as_secs_f64());
    }
    let refused = publishers.refused();
    assert_eq!(refused, BTreeSet::from(["503".to_owned()]), "only 202 and 503 were expected");
    let accepted = publishers.stop();
    wait_until("all accepted events", || missing(&accepted, &customer).is_empty());
    wait_until("an empty queue", || server.queued_jobs() == 0);
    let total: usize = accepted.values().map(Vec::len).sum();
    eprintln!("{total} accepted, none lost, {} delivered twice", count_repeated(&customer.taken()));
    assert_in_order(&accepted, &customer.taken());
}

/// Each of three brokers is killed and started again while events are published and delivered.
#[test]
#[ignore = "it takes minutes: scripts/test.sh --full runs it"]
fn nothing_is_lost_when_three_brokers_are_killed_in_turn() {
    let mut kafka = Kafka::cluster(3, 6);
    let (server, customer) = (kafka.server(&[]), FlakyCustomer::start());
    let flags = ["--retry-delays", "20", "--max-retries", "1000", "--ordered"];
    let _consumers = [kafka.consumer(&flags), kafka.consumer(&flags)];
    let publishers = Publishers::start(customer.port, server.port);
    let url = format!("http://127.0.0.1:{}/away", customer.port);
    for broker in (0..3).cycle().take(3 * (rounds() / 20).max(1)) {
        thread::sleep(Duration::from_secs(2));
        kafka.kill(broker);
        wait_until("an accepted event with two brokers", || {
            publish(&server, &json!({"url": url, "payload": 1}).to_string()).status == 202
        });
        thread::sleep(Duration::from_secs(3));
        kafka.restart(broker);
        // Two replicas must have each record, so the next broker is killed only when all three have them.
        kafka.wait_until_in_sync();
    }
    let refused = publishers.refused();
    assert!(refused.iter().all(|status| status == "503"), "only 202 and 503 were expected: {refused:?}");
    let accepted = publishers.stop();
    wait_until("all accepted events", || missing(&accepted, &customer).is_empty());
    wait_until("an empty queue", || server.queued_jobs() == 0);
    let total: usize = accepted.values().map(Vec::len).sum();
    eprintln!("{total} accepted, none lost, {} delivered twice", count_repeated(&customer.taken()));
    assert_in_order(&accepted, &customer.taken());
}

/// Publishes more jobs to a hanging endpoint than the window holds, then measures deliveries of another tenant in the same
/// partition.
fn deliver_beside_a_hanging_endpoint(ordered: bool) {
    let kafka = Kafka::shared(1);
    let server = kafka.server(&[]);
    let (hangs, well) =
        (RawCustomer::start(|_, _| thread::sleep(Duration::from_secs(3_600))), RawCustomer::answering(OK));
    let flags = ["--window", "40", "--delivery-timeout", "60s", "--drain-timeout", "1s"];
    let flags: Vec<&str> = flags.into_iter().chain(ordered.then_some("--ordered")).collect();
    let consumer = kafka.consumer(&flags);
    for _ in 0..200 {
        publish_for(&server, &hangs.url(), "one tenant");
    }
    let mut slowest = Duration::ZERO;
    for round in 0..30 {
        let published = Instant::now();
        let id = publish_for(&server, &well.url(), "another");
        assert_eq!(well.request().headers["webhook-id"], id);
        // The first delivery waits until the jobs that fill the window have moved to the retry topic.
        if round > 0 {
            slowest = slowest.max(published.elapsed());
        }
    }
    eprintln!("ordered {ordered}: slowest delivery beside a hanging endpoint {slowest:?}");
    assert_eq!(consumer.metric("whk_jobs_delivered_total"), 30);
    wait_until("200 unsettled jobs", || server.queued_jobs() == 200);
}

#[test]
fn a_hanging_endpoint_does_not_delay_its_partition() {
    deliver_beside_a_hanging_endpoint(false);
}

#[test]
fn a_hanging_ordered_endpoint_does_not_delay_its_partition() {
    deliver_beside_a_hanging_endpoint(true);
}
