//! Topics of one test: in the Kafka that all tests share, or in brokers that belong to the test.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use serde_json::json;

use super::broker::{Broker, tool};
use super::{Server, fixture, publish, run, services, stderr, wait_until, whk};

/// Topics of one test.
pub(crate) struct Kafka {
    pub(crate) brokers: String,
    pub(crate) topic: String,
    /// Flags of whk for TLS and authentication.
    flags: Vec<String>,
    /// Brokers that belong to the test. Empty if it uses the shared one.
    own: Vec<Broker>,
}

impl Kafka {
    /// Creates topics in the broker that all tests share.
    pub(crate) fn shared(partitions: usize) -> Self {
        Self::at(&services::kafka("WHK_TEST_KAFKA"), partitions, &[])
    }

    /// Creates topics in a broker of the test's own.
    pub(crate) fn own(partitions: usize) -> Self {
        Self::cluster(1, partitions)
    }

    /// Creates topics with a replica on each of `count` brokers of the test's own.
    pub(crate) fn cluster(count: usize, partitions: usize) -> Self {
        let own = Broker::start(count);
        let brokers: Vec<String> = own.iter().map(Broker::address).collect();
        let kafka = Self::with_replicas(&brokers.join(","), partitions, count, &[]);
        Self { own, ..kafka }
    }

    /// Creates topics in the brokers at those addresses. `flags` are whk's for TLS and authentication.
    pub(crate) fn at(brokers: &str, partitions: usize, flags: &[&str]) -> Self {
        Self::with_replicas(brokers, partitions, 1, flags)
    }

    fn with_replicas(brokers: &str, partitions: usize, replicas: usize, flags: &[&str]) -> Self {
        let since = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos();
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let topic = format!("e2e-{}-{since}", std::process::id());
        let kafka = Self { brokers: brokers.to_owned(), topic, flags, own: Vec::new() };
        let (partitions, replicas) = (partitions.to_string(), replicas.to_string());
        let setup = [
            "kafka-setup",
            "--kafka-timeout",
            "20s",
            "--partitions",
            &partitions,
            "--replication",
            &replicas,
        ];
        let setup = run(&[&setup[..], &strs(&kafka.flags())].concat());
        assert!(setup.status.success(), "{}", stderr(&setup));
        kafka
    }

    /// Returns the flags that name the brokers and topics.
    pub(crate) fn flags(&self) -> Vec<String> {
        let registry = format!("{}.tenants", self.topic);
        let flags = ["--kafka-brokers", &self.brokers, "--kafka-topic", &self.topic];
        let flags = flags.into_iter().chain(["--kafka-registry-topic", &registry]).map(str::to_owned);
        flags.chain(self.flags.iter().cloned()).collect()
    }

    /// Starts `whk publish-server --queue kafka` in direct mode, with the flags in `more`.
    pub(crate) fn server(&self, more: &[&str]) -> Server {
        let own = ["--queue", "kafka", "--allow-net", "127.0.0.0/8", "--kafka-group", &self.topic];
        Server::publish(&[&own[..], &secret_key(), &strs(&self.flags()), more].concat())
    }

    /// Starts `whk consume-kafka` with the flags in `more`, and quick retries unless `more` sets them.
    pub(crate) fn consumer(&self, more: &[&str]) -> Server {
        let mut command = whk(&["consume-kafka", "--log-format", "json", "--port", "0"]);
        command.args(secret_key()).args(self.flags());
        command.args(["--group", &self.topic, "--allow-net", "127.0.0.0/8"]);
        for (flag, value) in [
            ("--retry-delays", "50"),
            ("--max-retries", "20"),
            ("--session-timeout", "3s"),
            ("--delivery-timeout", "2s"),
        ] {
            if !more.contains(&flag) {
                command.args([flag, value]);
            }
        }
        Server::start(command.args(more))
    }

    /// Returns what Kafka's own tool prints of the group: topic, partition, committed offset, end, lag.
    pub(crate) fn describe_group(&self) -> Vec<Vec<String>> {
        let mut command = tool("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand");
        let output = command
            .args(["--bootstrap-server", &self.brokers, "--describe", "--group", &self.topic])
            .output();
        let output = String::from_utf8(output.unwrap().stdout).unwrap();
        let rows =
            output.lines().filter(|line| line.contains(&self.topic) && !line.contains("Consumer group"));
        rows.map(|row| row.split_whitespace().skip(1).take(5).map(str::to_owned).collect()).collect()
    }

    /// Writes a record for each of `keys` with Kafka's own producer.
    pub(crate) fn produce_with_java(&self, keys: &[&str]) {
        let mut command = tool("org.apache.kafka.tools.ConsoleProducer");
        command.args(["--bootstrap-server", &self.brokers, "--topic", &self.topic]);
        command.args(["--reader-property", "parse.key=true", "--reader-property", "key.separator=:"]);
        let mut producer = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut stdin = producer.stdin.take().unwrap();
        keys.iter().for_each(|key| writeln!(stdin, "{key}:by Java").unwrap());
        drop(stdin);
        assert!(producer.wait().unwrap().success());
    }

    /// Changes one setting of a topic.
    pub(crate) fn configure(&self, topic: &str, name: &str, value: &str) {
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", &self.brokers).create().unwrap();
        let config = AlterConfig::new(ResourceSpecifier::Topic(topic)).set(name, value);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let done = runtime.block_on(admin.alter_configs(&[config], &AdminOptions::new())).unwrap();
        done.into_iter().for_each(|done| drop(done.unwrap()));
    }

    /// Kills one of the test's own brokers.
    pub(crate) fn kill(&mut self, broker: usize) {
        self.own[broker].kill();
    }

    /// Starts a killed broker again.
    pub(crate) fn restart(&mut self, broker: usize) {
        self.own[broker].restart();
    }

    /// Waits until each of the test's own brokers has all records of the topic of events.
    pub(crate) fn wait_until_in_sync(&self) {
        let consumer: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", &self.brokers).create().unwrap();
        wait_until("brokers in sync", || {
            let metadata = consumer.fetch_metadata(Some(&self.topic), Duration::from_secs(5));
            metadata.is_ok_and(|metadata| {
                let mut partitions = metadata.topics()[0].partitions().iter();
                partitions.all(|partition| partition.isr().len() == self.own.len())
            })
        });
    }
}

/// Publishes an event of `target` in direct mode and returns its message id.
pub(crate) fn publish_for(server: &Server, url: &str, target: &str) -> String {
    let body = json!({"url": url, "target": target, "payload": 1}).to_string();
    let answer = publish(server, &body);
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.json()["messages"][0]["id"].as_str().unwrap().to_owned()
}

/// Returns the flag of the secret key that a test's servers and consumers share.
fn secret_key() -> [&'static str; 2] {
    let path: PathBuf = fixture("registry/v1/secret.key");
    ["--secret-key-file", path.to_str().unwrap().to_owned().leak()]
}

fn strs(flags: &[String]) -> Vec<&str> {
    flags.iter().map(String::as_str).collect()
}
