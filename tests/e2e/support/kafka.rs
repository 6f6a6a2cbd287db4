//! Kafka: the broker that all tests share, or one of a test's own, which it may kill.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use super::{Server, fixture, own_port, publish, run, services, stderr, wait_until, whk};

/// Topics of a test's own.
pub(crate) struct Kafka {
    pub(crate) brokers: String,
    pub(crate) topic: String,
    /// How to get in.
    flags: Vec<String>,
    broker: Option<Broker>,
}

/// A broker that is killed with its test.
struct Broker {
    child: Child,
    folder: tempfile::TempDir,
}

impl Kafka {
    /// In the broker that all tests share.
    pub(crate) fn shared(partitions: usize) -> Self {
        Self::at(&services::kafka("WHK_TEST_KAFKA"), partitions, &[])
    }

    /// In a broker of its own.
    pub(crate) fn own(partitions: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (port, controller) = (own_port(), own_port());
        let mut settings = String::new();
        for (name, value) in [
            ("process.roles", "broker,controller"),
            ("node.id", "1"),
            ("controller.quorum.voters", &format!("1@127.0.0.1:{controller}")),
            ("controller.listener.names", "CONTROLLER"),
            ("listeners", &format!("PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}")),
            ("advertised.listeners", &format!("PLAINTEXT://127.0.0.1:{port}")),
            ("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"),
            ("log.dirs", folder.path().join("data").to_str().unwrap()),
            ("offsets.topic.replication.factor", "1"),
            ("offsets.topic.num.partitions", "2"),
            ("transaction.state.log.replication.factor", "1"),
            ("transaction.state.log.min.isr", "1"),
            ("transaction.state.log.num.partitions", "2"),
            ("group.initial.rebalance.delay.ms", "0"),
            ("group.min.session.timeout.ms", "1000"),
            ("log.index.size.max.bytes", "65536"),
        ] {
            writeln!(settings, "{name}={value}").unwrap();
        }
        let file = folder.path().join("server.properties");
        std::fs::write(&file, settings).unwrap();
        let format = broker("kafka.tools.StorageTool")
            .args(["format", "--cluster-id", "MkU3OEVBNTcwNTJENDM2Qg", "--config"])
            .arg(&file)
            .output()
            .unwrap();
        assert!(format.status.success(), "{format:?}");
        let child = Broker::spawn(&file, port);
        let kafka = Self::at(&format!("127.0.0.1:{port}"), partitions, &[]);
        Self { broker: Some(Broker { child, folder }), ..kafka }
    }

    /// At that broker, with flags that say how to get in.
    pub(crate) fn at(brokers: &str, partitions: usize, flags: &[&str]) -> Self {
        let since = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos();
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let topic = format!("e2e-{}-{since}", std::process::id());
        let kafka = Self { brokers: brokers.to_owned(), topic, flags, broker: None };
        let setup = ["kafka-setup", "--kafka-timeout", "20s", "--partitions", &partitions.to_string()];
        let setup = run(&[&setup[..], &strs(&kafka.flags())].concat());
        assert!(setup.status.success(), "{}", stderr(&setup));
        kafka
    }

    /// The flags that say where it is.
    pub(crate) fn flags(&self) -> Vec<String> {
        let registry = format!("{}.tenants", self.topic);
        let flags = ["--kafka-brokers", &self.brokers, "--kafka-topic", &self.topic];
        let flags = flags.into_iter().chain(["--kafka-registry-topic", &registry]).map(str::to_owned);
        flags.chain(self.flags.iter().cloned()).collect()
    }

    /// `whk publish-server --queue kafka`, which takes events of direct mode as well, and `more`.
    pub(crate) fn server(&self, more: &[&str]) -> Server {
        let own = ["--queue", "kafka", "--allow-net", "127.0.0.0/8", "--kafka-group", &self.topic];
        Server::publish(&[&own[..], &secret_key(), &strs(&self.flags()), more].concat())
    }

    /// `whk consume-kafka` and `more`.
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

    /// What Kafka's own tool says of the group: topic, partition, committed offset, end, lag.
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

    /// Lets Kafka's own producer write a record for each of `keys`.
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

    /// Sets one thing about a topic.
    pub(crate) fn configure(&self, topic: &str, name: &str, value: &str) {
        use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
        use rdkafka::client::DefaultClientContext;
        let admin: AdminClient<DefaultClientContext> =
            rdkafka::ClientConfig::new().set("bootstrap.servers", &self.brokers).create().unwrap();
        let config = AlterConfig::new(ResourceSpecifier::Topic(topic)).set(name, value);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let done = runtime.block_on(admin.alter_configs(&[config], &AdminOptions::new())).unwrap();
        done.into_iter().for_each(|done| drop(done.unwrap()));
    }

    /// Kills the broker.
    pub(crate) fn kill(&mut self) {
        let broker = self.broker.as_mut().unwrap();
        broker.child.kill().unwrap();
        broker.child.wait().unwrap();
    }

    /// Starts it again.
    pub(crate) fn restart(&mut self) {
        let broker = self.broker.as_mut().unwrap();
        let port = self.brokers.rsplit_once(':').unwrap().1.parse().unwrap();
        broker.child = Broker::spawn(&broker.folder.path().join("server.properties"), port);
    }
}

impl Broker {
    fn spawn(settings: &Path, port: u16) -> Child {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(settings.with_extension("log"));
        let log = log.unwrap();
        let child =
            broker("kafka.Kafka").arg(settings).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        wait_until("a broker that listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        child
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Publishes an event of `target` in direct mode and returns its message id.
pub(crate) fn publish_for(server: &Server, url: &str, target: &str) -> String {
    let body = json!({"url": url, "target": target, "payload": 1}).to_string();
    let answer = publish(server, &body);
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.json()["messages"][0]["id"].as_str().unwrap().to_owned()
}

/// The secret key that servers and consumers of a test share.
fn secret_key() -> [&'static str; 2] {
    let path: PathBuf = fixture("registry/v1/secret.key");
    ["--secret-key-file", path.to_str().unwrap().to_owned().leak()]
}

fn strs(flags: &[String]) -> Vec<&str> {
    flags.iter().map(String::as_str).collect()
}

/// A class of the broker's.
fn broker(class: &str) -> Command {
    java("WHK_KAFKA_CLASSPATH", class)
}

/// One of Kafka's own tools.
fn tool(class: &str) -> Command {
    java("WHK_KAFKA_TOOLS", class)
}

fn java(variable: &str, class: &str) -> Command {
    let classpath = std::fs::read_to_string(services::kafka(variable)).unwrap();
    let mut command = Command::new("java");
    command.args(["-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", classpath.trim(), class]);
    command.stdin(Stdio::null());
    command
}
