//! The partition of a tenant's jobs is the one that Java's own producer chooses for that key.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use serde_json::json;

use crate::support::kafka::Kafka;
use crate::support::publish;

const PARTITIONS: i32 = 6;

/// Keys and their murmur2 hashes, from Kafka's own UtilsTest.
const HASHES: [(&str, i32); 6] = [
    ("21", -973_932_308),
    ("foobar", -790_332_482),
    ("a-little-bit-long-string", -985_981_536),
    ("a-little-bit-longer-string", -1_486_304_829),
    ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
    ("abc", 479_470_107),
];

/// Reads `count` records of `events` and returns the partitions of each key.
fn partitions(kafka: &Kafka, count: usize) -> BTreeMap<String, BTreeSet<i32>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &kafka.brokers)
        .set("group.id", "unused")
        .create()
        .unwrap();
    let mut all = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        all.add_partition_offset(&kafka.topic, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&all).unwrap();
    let mut found = BTreeMap::<String, BTreeSet<i32>>::new();
    let started = Instant::now();
    for _ in 0..count {
        let message = loop {
            assert!(started.elapsed() < Duration::from_secs(60), "{found:?}");
            if let Some(Ok(message)) = consumer.poll(Duration::from_secs(1)) {
                break message;
            }
        };
        let key = String::from_utf8(message.key().unwrap().to_vec()).unwrap();
        found.entry(key).or_default().insert(message.partition());
    }
    found
}

#[test]
fn the_partition_of_a_tenant_is_the_one_that_javas_producer_chooses() {
    let kafka = Kafka::shared(usize::try_from(PARTITIONS).unwrap());
    let server = kafka.server(&[]);
    let tenants: Vec<String> = (0..40).map(|n| format!("ten_{n:032x}")).collect();
    let keys: Vec<&str> =
        HASHES.iter().map(|(key, _)| *key).chain(tenants.iter().map(String::as_str)).collect();
    for key in &keys {
        let body = json!({"url": "http://127.0.0.1:9/", "target": key, "payload": 1});
        assert_eq!(publish(&server, &body.to_string()).status, 202);
    }
    let ours = partitions(&kafka, keys.len());
    for (key, hash) in HASHES {
        let expected = (hash & i32::MAX) % PARTITIONS;
        assert_eq!(ours[key], BTreeSet::from([expected]), "{key}");
    }
    kafka.produce_with_java(&keys);
    // Each key has two records now, still in one partition.
    let both = partitions(&kafka, 2 * keys.len());
    assert_eq!(both, ours);
    let used: BTreeSet<i32> = both.values().flatten().copied().collect();
    assert_eq!(used.len(), 6, "all partitions must be used");
}
