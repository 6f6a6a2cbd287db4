//! Tests with a real broker: the conformance suite with its exceptions, and tests of this queue alone.

mod conforms;
mod moves;

use std::time::Duration;

use super::{GroupConfig, KafkaQueue};
use crate::common::clock::Clock;
use crate::common::kafka::admin::{Admin, Deadline, WantedTopic};
use crate::common::kafka::{KafkaConfig, Topics};
use crate::common::test_services;
use crate::queue::QueueConfig;

/// Creates topics that no other test uses, in the broker that all tests share.
pub(super) async fn kafka(partitions: i32) -> KafkaConfig {
    let brokers = test_services::kafka_brokers();
    let name = format!("test-{}", uuid::Uuid::now_v7().simple());
    let topics = Topics::parse(&name, &format!("{name}.tenants")).unwrap();
    let kafka = KafkaConfig::parse(&brokers, topics, Duration::from_secs(10)).unwrap();
    let wanted =
        |name: &str, settings| WantedTopic { name: name.into(), partitions, replication: 1, settings };
    let Topics { events, retry, dead, .. } = &kafka.topics;
    let compacted = vec![("cleanup.policy", "compact,delete".to_owned())];
    let admin = Admin::open(&kafka).unwrap();
    let topics = [wanted(events, vec![]), wanted(retry, vec![]), wanted(dead, compacted)];
    assert!(admin.create(&topics).await.unwrap().is_empty(), "the topics must be new");
    let names = [events, retry, dead].map(String::as_str);
    admin.wait_until_ready(&names, Deadline::new(Duration::from_secs(20))).await.unwrap();
    kafka
}

pub(super) fn group() -> GroupConfig {
    GroupConfig {
        group: "test".into(),
        instance_id: None,
        session_timeout: Duration::from_secs(6),
        drain: Duration::from_secs(2),
        window_jobs: 1_000,
        window_bytes: 1 << 20,
        partitions_at_once: None,
    }
}

pub(super) async fn consume(kafka: &KafkaConfig, config: QueueConfig, clock: Clock) -> KafkaQueue {
    // Each test has its own group, because a group's offsets are kept for all topics that it has read.
    let group = GroupConfig { group: format!("{}-group", kafka.topics.events), ..group() };
    KafkaQueue::consume(kafka, &group, config, clock).await.unwrap()
}
