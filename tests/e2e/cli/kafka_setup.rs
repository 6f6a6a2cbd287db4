//! `whk kafka-setup`, with the broker that all tests share.

use std::net::TcpListener;
use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{run, services, stderr};

/// Names of topics that no other test uses. They are deleted when this is dropped.
struct Topics {
    brokers: String,
    events: String,
    registry: String,
}

impl Topics {
    fn new(name: &str) -> Self {
        let brokers = services::kafka("WHK_TEST_KAFKA");
        let since = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos();
        let events = format!("setup-{name}-{}-{since}", std::process::id());
        Self { brokers, registry: format!("{events}.tenants"), events }
    }

    fn setup(&self, more: &[&str]) -> Output {
        let topics = ["--kafka-topic", &self.events, "--kafka-registry-topic", &self.registry];
        let brokers = ["kafka-setup", "--kafka-brokers", &self.brokers];
        run(&[&brokers, &topics[..], more].concat())
    }

    fn json(&self, more: &[&str]) -> Value {
        let output = self.setup(&[&["--output", "json"], more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn refused(&self, more: &[&str]) -> String {
        let output = self.setup(more);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        stderr(&output)
    }
}

impl Drop for Topics {
    fn drop(&mut self) {
        use rdkafka::admin::{AdminClient, AdminOptions};
        use rdkafka::client::DefaultClientContext;
        let admin: AdminClient<DefaultClientContext> =
            rdkafka::ClientConfig::new().set("bootstrap.servers", &self.brokers).create().unwrap();
        let topics = ["", ".retry", ".dlq", ".tenants"].map(|suffix| format!("{}{suffix}", self.events));
        let names = topics.each_ref().map(String::as_str);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        drop(runtime.block_on(admin.delete_topics(&names, &AdminOptions::new())));
    }
}

fn outcomes(report: &Value) -> Vec<(usize, String)> {
    let topics = report["topics"].as_array().unwrap().iter();
    let of = |topic: &Value| {
        let partitions = topic["partitions"].as_array().unwrap();
        for partition in partitions {
            assert!(partition["leader"].is_i64(), "{partition}");
            assert_eq!(partition["in_sync"], partition["replicas"], "{partition}");
        }
        (partitions.len(), topic["outcome"].as_str().unwrap().to_owned())
    };
    topics.map(of).collect()
}

fn all(outcome: &str, partitions: usize) -> Vec<(usize, String)> {
    [partitions, partitions, partitions, 1].map(|count| (count, outcome.to_owned())).to_vec()
}

#[test]
fn topics_are_created_once_and_stay_unchanged() {
    let topics = Topics::new("once");
    let made = topics.setup(&[]);
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    let table = String::from_utf8(made.stdout.clone()).unwrap();
    assert_eq!(table.lines().filter(|line| line.contains(" created")).count(), 19, "{table}");
    assert!(stderr(&made).contains("only one broker stores the records"), "{}", stderr(&made));
    assert_eq!(outcomes(&topics.json(&[])), all("unchanged", 6));
    let again = topics.setup(&[]);
    assert!(String::from_utf8_lossy(&again.stdout).contains("nothing was changed"), "{again:?}");
    // More partitions than requested are accepted with a warning.
    let more = topics.setup(&["--partitions", "3", "--output", "json"]);
    assert!(stderr(&more).contains("6 partitions, more than the 3"), "{}", stderr(&more));
    assert_eq!(more.status.code(), Some(0));
}

#[test]
fn topics_with_unfit_settings_are_refused_until_they_are_recreated() {
    let topics = Topics::new("anew");
    assert_eq!(outcomes(&topics.json(&["--partitions", "2"])), all("created", 2));
    let few = topics.refused(&[]);
    assert!(few.contains("has 2 of the 6 partitions") && few.contains("--recreate"), "{few}");
    let small = topics.refused(&["--partitions", "2", "--max-message-bytes", "5000000"]);
    assert!(small.contains("max.message.bytes=4194304, less than 5000000"), "{small}");
    let nobody_to_ask = topics.setup(&["--recreate"]);
    assert_eq!(nobody_to_ask.status.code(), Some(64), "{}", stderr(&nobody_to_ask));
    assert!(stderr(&nobody_to_ask).contains("pass --yes"), "{}", stderr(&nobody_to_ask));
    assert_eq!(outcomes(&topics.json(&["--partitions", "2"])), all("unchanged", 2));
    assert_eq!(outcomes(&topics.json(&["--recreate", "--yes"])), all("recreated", 6));
}

#[test]
fn more_replicas_than_brokers_are_refused_with_the_flag_to_change() {
    let topics = Topics::new("replicas");
    let refused = topics.refused(&["--replication", "99"]);
    assert!(refused.contains("--replication"), "{refused}");
    assert_eq!(outcomes(&topics.json(&["--partitions", "1"])), all("created", 1));
    let refused = topics.refused(&["--replication", "99", "--recreate", "--yes"]);
    assert!(refused.contains("--replication"), "{refused}");
    assert_eq!(
        outcomes(&topics.json(&["--partitions", "1"])),
        all("unchanged", 1),
        "a refused --recreate must not delete topics"
    );
    let usage = topics.setup(&["--min-insync-replicas", "2"]);
    assert_eq!(usage.status.code(), Some(64), "{}", stderr(&usage));
    assert!(stderr(&usage).contains("--min-insync-replicas: 2 is more"), "{}", stderr(&usage));
}

#[test]
fn without_a_broker_kafka_setup_ends_within_its_timeout() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let brokers = format!("127.0.0.1:{port}");
    let started = Instant::now();
    let output = run(&["kafka-setup", "--kafka-brokers", &brokers, "--kafka-timeout", "1s"]);
    assert_eq!(output.status.code(), Some(69), "{}", stderr(&output));
    let message = stderr(&output);
    assert!(message.contains("--kafka-brokers") && message.contains(&brokers), "{message}");
    // A busy machine may take far longer than the timeout of one second.
    assert!(started.elapsed() < Duration::from_secs(20));
}
