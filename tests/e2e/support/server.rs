//! A server that runs beside the test.

use std::borrow::BorrowMut;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::{Api, PATIENCE, fixture, get, wait_until, whk};

/// Returns `more` with flags that allow loopback addresses and make retries quick, unless `more` sets those flags.
fn locally<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let local = ["--allow-net", "127.0.0.0/8", "--retry-delays", "50", "--max-retries", "20"];
    let wanted = local.chunks(2).filter(|pair| !more.contains(&pair[0]));
    wanted.flatten().chain(more).copied().collect()
}

/// A server process, which is killed when this is dropped.
pub(crate) struct Server {
    child: Child,
    /// Data dir of the server; `None` if the test named one itself.
    data_dir: Option<tempfile::TempDir>,
    pub(crate) port: u16,
    log: Arc<Mutex<Vec<String>>>,
    log_reader: Option<thread::JoinHandle<()>>,
    lines: Receiver<String>,
}

impl Server {
    /// Starts a command and waits until its stderr names the address that it listens on.
    pub(crate) fn start(mut command: impl BorrowMut<Command>) -> Self {
        let command = command.borrow_mut();
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (found, port) = mpsc::channel();
        let (line_in, lines) = mpsc::channel();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                drop(line_in.send(line));
            }
        });
        let written = Arc::clone(&log);
        let log_reader = thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                // whk's own lines have an `address`; other lines of its log may name the address of a customer. The
                // example receivers write plain text.
                let marker = if line.starts_with('{') { "\"address\":\"127.0.0.1:" } else { "127.0.0.1:" };
                if let Some((_, after)) = line.split_once(marker) {
                    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
                    drop(found.send(digits.parse()));
                }
                written.lock().unwrap().push(line);
            }
        });
        let port = port.recv_timeout(PATIENCE);
        let port =
            port.unwrap_or_else(|_| panic!("the server doesn't listen: {:?}", log.lock().unwrap())).unwrap();
        Self { child, data_dir: None, port, log, log_reader: Some(log_reader), lines }
    }

    /// Starts `whk publish-server` with its own data dir and the flags in `more`.
    pub(crate) fn publish_to_tenants(more: &[&str]) -> Self {
        let data_dir = tempfile::tempdir().unwrap();
        let mut command = whk(&["publish-server", "--port", "0", "--log-format", "json", "--data-dir"]);
        let mut server = Self::start(command.arg(data_dir.path()).args(more));
        server.data_dir = Some(data_dir);
        server
    }

    /// Starts `whk publish-server` in direct mode, with the fixtures' keys and the flags in `more`.
    pub(crate) fn publish(more: &[&str]) -> Self {
        let data_dir = tempfile::tempdir().unwrap();
        let mut command = whk(&["publish-server", "--port", "0", "--log-format", "json", "--data-dir"]);
        command.arg(data_dir.path());
        if !more.contains(&"--public-key") {
            command.arg("--public-key").arg(fixture("keys/public_key.pem"));
        }
        command.arg("--signing-secret-file").arg(fixture("keys/signing_secret.txt")).args(more);
        let mut server = Self::start(command);
        server.data_dir = Some(data_dir);
        server
    }

    /// Starts `whk publish-server` in direct mode, with loopback addresses allowed and quick retries.
    pub(crate) fn publish_locally(more: &[&str]) -> Self {
        Self::publish(&locally(more))
    }

    /// Starts `whk customer` with the fixtures' keys and the flags in `more`.
    pub(crate) fn customer(more: &[&str]) -> Self {
        let mut command = whk(&["customer", "--log-format", "json", "--private-key"]);
        command.arg(fixture("keys/private_key.pem"));
        if !more.contains(&"--port") {
            command.args(["--port", "0"]);
        }
        if !more.contains(&"--allow-unsigned") {
            command.arg("--secret-file").arg(fixture("keys/signing_secret.txt"));
        }
        command.args(more);
        Self::start(command)
    }

    /// Starts `whk publish-server` for tenants, with loopback addresses allowed and quick retries.
    pub(crate) fn tenants(more: &[&str]) -> Self {
        Self::publish_to_tenants(&locally(more))
    }

    /// Returns the data dir. Panics if the test named one itself.
    pub(crate) fn data_dir(&self) -> &Path {
        self.data_dir.as_ref().expect("a data dir").path()
    }

    /// Limits the size of the files that the process writes. A write beyond it fails, as on a full disk.
    pub(crate) fn limit_file_size(&self, bytes: Option<u64>) {
        let bytes = bytes.map_or("unlimited".to_owned(), |bytes| bytes.to_string());
        let limit = format!("--fsize={bytes}:unlimited");
        let status = Command::new("prlimit").args(["--pid", &self.child.id().to_string(), &limit]).status();
        assert!(status.unwrap().success());
    }

    /// Kills the server and returns its data dir.
    pub(crate) fn keep_data(mut self) -> tempfile::TempDir {
        self.signal("KILL");
        self.wait();
        self.data_dir.take().expect("a data dir")
    }

    /// Returns a client of the API with the provider's key.
    pub(crate) fn api(&self) -> Api {
        let key = std::fs::read_to_string(self.data_dir().join("provider_key.txt")).unwrap();
        Api { port: self.port, key }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Returns the next line of stdout.
    pub(crate) fn line(&self) -> String {
        self.lines
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|_| panic!("no line on stdout; the log: {}", self.log()))
    }

    /// Returns the next `count` lines of stdout as JSON.
    pub(crate) fn events(&self, count: usize) -> Vec<serde_json::Value> {
        (0..count).map(|_| serde_json::from_str(&self.line()).unwrap()).collect()
    }

    /// Kills the server and returns the lines of stdout that weren't read, as JSON.
    pub(crate) fn kill(mut self) -> Vec<serde_json::Value> {
        self.signal("KILL");
        self.wait();
        self.lines.iter().map(|line| serde_json::from_str(&line).unwrap()).collect()
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// Waits until the log holds `text`.
    pub(crate) fn wait_for_log(&self, text: &str) {
        wait_until(&format!("{text:?} in the log"), || self.log().contains(text));
    }

    /// Returns one value of `/metrics`.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = get(self.port, "/metrics").body;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    /// Returns the number of unsettled jobs in the queue, all states read at one moment.
    pub(crate) fn queued_jobs(&self) -> u64 {
        let text = get(self.port, "/metrics").body;
        let of = |state| {
            let name = format!("whk_queue_jobs{{state=\"{state}\"}} ");
            let line = text.lines().find_map(|line| line.strip_prefix(&name));
            line.unwrap_or_else(|| panic!("no {name} in {text}")).parse::<u64>().unwrap()
        };
        of("ready") + of("delayed") + of("leased")
    }

    pub(crate) fn wait_for_metric(&self, name: &str, value: u64) {
        wait_until(&format!("{name} = {value}"), || self.metric(name) == value);
    }

    pub(crate) fn signal(&self, name: &str) {
        let kill = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(kill.unwrap().success());
    }

    /// Waits until the process has ended and its log was read to the end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.log_reader.take().into_iter().for_each(|reader| reader.join().unwrap());
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "the server doesn't end: {}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
