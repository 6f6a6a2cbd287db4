//! Kafka brokers that belong to one test, which may kill them.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::{own_port, services, wait_until};

/// A broker that is killed when it is dropped.
pub(crate) struct Broker {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Broker {
    /// Starts `count` brokers of one cluster. Each is a controller as well.
    pub(crate) fn start(count: usize) -> Vec<Self> {
        let ports: Vec<(u16, u16)> = (0..count).map(|_| (own_port(), own_port())).collect();
        let voters: Vec<String> =
            (1..).zip(&ports).map(|(id, (_, port))| format!("{id}@127.0.0.1:{port}")).collect();
        let voters = voters.join(",");
        let folders: Vec<tempfile::TempDir> = ports.iter().map(|_| tempfile::tempdir().unwrap()).collect();
        for ((id, ports), folder) in (1..).zip(&ports).zip(&folders) {
            format(folder.path(), &settings(id, *ports, &voters, folder.path(), count));
        }
        // A broker answers only once most of the controllers run, so all are started before any is waited for.
        let mut brokers = Vec::new();
        for ((port, _), folder) in ports.into_iter().zip(folders) {
            brokers.push(Self { child: spawn(folder.path()), port, folder });
        }
        brokers.iter().for_each(Self::wait);
        brokers
    }

    /// Returns the address that clients connect to.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Kills the broker with SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts the broker again and waits until it listens.
    pub(crate) fn restart(&mut self) {
        self.child = spawn(self.folder.path());
        self.wait();
    }

    fn wait(&self) {
        wait_until("a broker that listens", || TcpStream::connect(("127.0.0.1", self.port)).is_ok());
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Returns the settings of one of `count` brokers.
fn settings(id: usize, (port, controller): (u16, u16), voters: &str, folder: &Path, count: usize) -> String {
    let replication = count.to_string();
    let in_sync = if count > 2 { "2" } else { "1" };
    let mut settings = String::new();
    for (name, value) in [
        ("process.roles", "broker,controller"),
        ("node.id", &id.to_string()),
        ("controller.quorum.voters", voters),
        ("controller.listener.names", "CONTROLLER"),
        ("listeners", &format!("PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}")),
        ("advertised.listeners", &format!("PLAINTEXT://127.0.0.1:{port}")),
        ("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"),
        ("log.dirs", folder.join("data").to_str().unwrap()),
        ("offsets.topic.replication.factor", &replication),
        ("offsets.topic.num.partitions", "2"),
        ("transaction.state.log.replication.factor", &replication),
        ("transaction.state.log.min.isr", in_sync),
        ("transaction.state.log.num.partitions", "2"),
        ("group.initial.rebalance.delay.ms", "0"),
        ("group.min.session.timeout.ms", "1000"),
        // Many small topics: an index that is allocated in full takes 10 MiB each.
        ("log.index.size.max.bytes", "65536"),
    ] {
        writeln!(settings, "{name}={value}").unwrap();
    }
    settings
}

/// Writes the settings and formats the broker's folder.
fn format(folder: &Path, settings: &str) {
    let file = folder.join("server.properties");
    std::fs::write(&file, settings).unwrap();
    let output = java("WHK_KAFKA_CLASSPATH", "kafka.tools.StorageTool")
        .args(["format", "--cluster-id", "MkU3OEVBNTcwNTJENDM2Qg", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Starts the broker whose settings are in `folder`. It logs there as well.
fn spawn(folder: &Path) -> Child {
    let log = OpenOptions::new().create(true).append(true).open(folder.join("server.log")).unwrap();
    let mut command = java("WHK_KAFKA_CLASSPATH", "kafka.Kafka");
    command.arg(folder.join("server.properties")).stdout(log.try_clone().unwrap()).stderr(log);
    command.spawn().unwrap()
}

/// Returns the command of one of Kafka's own tools.
pub(crate) fn tool(class: &str) -> Command {
    java("WHK_KAFKA_TOOLS", class)
}

/// Returns the command that runs a Java class. `variable` names the file that holds the class path.
fn java(variable: &str, class: &str) -> Command {
    let classpath = std::fs::read_to_string(services::kafka(variable)).unwrap();
    let mut command = Command::new("java");
    command.args(["-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", classpath.trim(), class]);
    command.stdin(Stdio::null());
    command
}
