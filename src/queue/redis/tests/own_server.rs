//! A `redis-server` for one test, which may kill, pause or fill it, or join it to a cluster.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::redis::{RedisConfig, RedisConnection};

/// A `redis-server` process. It is killed on drop.
pub(super) struct OwnServer {
    pub(super) port: u16,
    options: Vec<String>,
    child: Option<Child>,
    folder: tempfile::TempDir,
}

impl OwnServer {
    /// Starts a server with `options`. Panics if `redis-server` isn't installed.
    pub(super) async fn start(options: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let options = options.iter().map(|&option| option.to_owned()).collect();
        let mut server = Self { port, options, child: None, folder: tempfile::tempdir().unwrap() };
        server.run().await;
        server
    }

    /// Starts the process with the data of its predecessor, and waits until it answers.
    pub(super) async fn run(&mut self) {
        let child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
            .arg(self.folder.path())
            .args(&self.options)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server starts; `scripts/services.sh start redis` installs it");
        self.child = Some(child);
        let answers =
            async || matches!(self.cli(&["PING"]).as_str(), "PONG" | "NOAUTH Authentication required.");
        while !answers().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Kills the process (SIGKILL).
    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Runs `redis-cli` with `args` and returns its output.
    pub(super) fn cli(&self, args: &[&str]) -> String {
        let output =
            Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(args).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(super) fn config(&self) -> RedisConfig {
        RedisConfig::parse(&self.url(), "test").unwrap()
    }

    pub(super) async fn connection(&self) -> RedisConnection {
        RedisConnection::open(&self.config()).await.unwrap()
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        self.kill();
    }
}
