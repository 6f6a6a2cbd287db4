//! A server of this build, on a free port, with an empty data dir.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A running `whk publish-server`. It is killed when dropped.
pub(crate) struct Server {
    process: Child,
    address: SocketAddr,
    /// Its data dir.
    pub(crate) data_dir: PathBuf,
}

impl Server {
    /// Starts a server, and waits until it listens. `name` keeps the data dirs of tests apart.
    pub(crate) fn start(name: &str) -> Self {
        let data_dir =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("docs-{name}-{}", std::process::id()));
        let mut process = Command::new(env!("CARGO_BIN_EXE_whk"))
            .env_clear()
            .args(["--log-format", "json", "--log", "info", "publish-server", "--port", "0", "--data-dir"])
            .arg(&data_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("whk starts");
        let log = BufReader::new(process.stderr.take().expect("stderr is piped"));
        let address = log.lines().map_while(Result::ok).find_map(|line| {
            let line: serde_json::Value = serde_json::from_str(&line).ok()?;
            line.get("address")?.as_str()?.parse().ok()
        });
        let address = address.expect("the server logs the address that it listens on");
        Self { process, address, data_dir }
    }

    /// Returns the body of `GET path`.
    pub(crate) fn get(&self, path: &str) -> String {
        let limit = Duration::from_secs(30);
        let mut stream = TcpStream::connect_timeout(&self.address, limit).expect("the server accepts");
        stream.set_read_timeout(Some(limit)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: docs\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the server answers");
        assert!(answer.starts_with("HTTP/1.1 200"), "GET {path}: {answer}");
        answer.split_once("\r\n\r\n").expect("an answer has a body").1.to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
        drop(std::fs::remove_dir_all(&self.data_dir));
    }
}
