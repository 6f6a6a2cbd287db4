//! Processes, raw HTTP and badly behaved customers for the tests.

use std::borrow::BorrowMut;
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

/// How long a test waits for what must come: far longer than it takes.
pub(crate) mod kafka;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// `whk` with `arguments`, deaf to the environment's settings.
pub(crate) fn whk(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_whk"));
    command.args(arguments).stdin(Stdio::null());
    for name in [
        "REDIS_URL",
        "SERVER_PORT",
        "SERVER_HOSTNAME",
        "MAX_QUEUE_SIZE",
        "MAX_PAYLOAD_SIZE",
        "MAX_RETRIES",
        "RETRY_DELAYS",
        "KAFKA_BROKERS",
        "KAFKA_USERNAME",
        "KAFKA_PASSWORD",
        "PARTITIONS_CONCURRENCY",
        "SESSION_TIMEOUT",
        "WHK_API_KEY",
        "WHK_DATA_DIR",
        "WHK_SECRET_KEY_FILE",
        "WHK_SERVER",
        "WHK_LOG",
        "WHK_LOG_FORMAT",
    ] {
        command.env_remove(name);
    }
    // Made only by servers that are given no other.
    static FOLDERS: AtomicUsize = AtomicUsize::new(0);
    let folder = format!("data-{}-{}", std::process::id(), FOLDERS.fetch_add(1, Ordering::Relaxed));
    command.env("WHK_DATA_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder));
    command
}

/// Runs `whk` to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    whk(arguments).output().unwrap()
}

/// The output's stderr as text.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Flags for trying out: loopback allowed and quick retries, unless `more` has them otherwise.
fn locally<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let local = ["--allow-net", "127.0.0.0/8", "--retry-delays", "50", "--max-retries", "20"];
    let wanted = local.chunks(2).filter(|pair| !more.contains(&pair[0]));
    wanted.flatten().chain(more).copied().collect()
}

/// A server that runs beside the test and is killed with it.
pub(crate) struct Server {
    child: Child,
    /// Where it keeps its tenants, where the test named no folder.
    data_dir: Option<tempfile::TempDir>,
    pub(crate) port: u16,
    log: Arc<Mutex<Vec<String>>>,
    log_reader: Option<thread::JoinHandle<()>>,
    lines: Receiver<String>,
}

impl Server {
    /// Starts a command that says on stderr where it listens.
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
                // Other lines of whk's log name where a delivery goes; receivers in other languages write as they like.
                let told = if line.starts_with('{') { "\"address\":\"127.0.0.1:" } else { "127.0.0.1:" };
                if let Some((_, after)) = line.split_once(told) {
                    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
                    drop(found.send(digits.parse()));
                }
                written.lock().unwrap().push(line);
            }
        });
        let port = port.recv_timeout(PATIENCE);
        let port = port.unwrap_or_else(|_| panic!("it doesn't listen: {:?}", log.lock().unwrap())).unwrap();
        Self { child, data_dir: None, port, log, log_reader: Some(log_reader), lines }
    }

    /// `whk publish-server` with a data dir of its own and `more`.
    pub(crate) fn publish_to_tenants(more: &[&str]) -> Self {
        let data_dir = tempfile::tempdir().unwrap();
        let mut command = whk(&["publish-server", "--port", "0", "--log-format", "json", "--data-dir"]);
        let mut server = Self::start(command.arg(data_dir.path()).args(more));
        server.data_dir = Some(data_dir);
        server
    }

    /// `whk publish-server` in direct mode with the fixtures' keys and `more`.
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

    /// The same with loopback allowed and quick retries.
    pub(crate) fn publish_locally(more: &[&str]) -> Self {
        Self::publish(&locally(more))
    }

    /// `whk customer` with the fixtures' keys and `more`.
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

    /// The same for tenants.
    pub(crate) fn tenants(more: &[&str]) -> Self {
        Self::publish_to_tenants(&locally(more))
    }

    /// The folder with its tenants.
    pub(crate) fn data_dir(&self) -> &Path {
        self.data_dir.as_ref().expect("a data dir").path()
    }

    /// Bounds what the process may write to a file; beyond it a write fails, as on a full disk.
    pub(crate) fn limit_file_size(&self, bytes: Option<u64>) {
        let bytes = bytes.map_or("unlimited".to_owned(), |bytes| bytes.to_string());
        let limit = format!("--fsize={bytes}:unlimited");
        let status = Command::new("prlimit").args(["--pid", &self.child.id().to_string(), &limit]).status();
        assert!(status.unwrap().success());
    }

    /// Kills it and gives its folder.
    pub(crate) fn keep_data(mut self) -> tempfile::TempDir {
        self.signal("KILL");
        self.wait();
        self.data_dir.take().expect("a data dir")
    }

    /// The API with the provider's key.
    pub(crate) fn api(&self) -> Api {
        let key = std::fs::read_to_string(self.data_dir().join("provider_key.txt")).unwrap();
        Api { port: self.port, key }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The next line on stdout.
    pub(crate) fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no line; its log: {}", self.log()))
    }

    /// The next `count` lines on stdout as JSON.
    pub(crate) fn events(&self, count: usize) -> Vec<serde_json::Value> {
        (0..count).map(|_| serde_json::from_str(&self.line()).unwrap()).collect()
    }

    /// Kills it and gives what else it had printed.
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

    /// One value of `/metrics`.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = get(self.port, "/metrics").body;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    /// Jobs in its queue that aren't settled, at one moment.
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

    /// Waits for its end, and that of its log.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.log_reader.take().into_iter().for_each(|reader| reader.join().unwrap());
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "it doesn't end: {}", self.log());
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

/// A Redis of the test's own, which writes down each command before it answers.
pub(crate) struct Redis {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Redis {
    /// `None` where it isn't installed, which is said aloud.
    pub(crate) fn start() -> Option<Self> {
        if Command::new("redis-server").arg("--version").output().is_err() {
            assert!(std::env::var_os("CI").is_none(), "redis-server is missing; scripts/test.sh installs it");
            eprintln!("passed over: redis-server isn't installed");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Some(Self { child: Self::spawn(folder.path(), port), port, folder })
    }

    fn spawn(folder: &Path, port: u16) -> Child {
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
        command.args(["--appendonly", "yes", "--appendfsync", "always", "--dir"]).arg(folder);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_until("Redis to listen", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        child
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Sends a command and waits for its answer.
    pub(crate) fn say(&self, command: &str) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
        let mut answer = [0];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, *b"+", "{command}");
    }

    pub(crate) fn kill_and_restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = Self::spawn(self.folder.path(), self.port);
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Waits for a state of another process, which no event of this one tells.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    /// The detail of a problem (RFC 9457), whose form is checked on the way.
    pub(crate) fn problem(&self) -> String {
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        problem["detail"].as_str().unwrap().to_owned()
    }
}

/// Sends `head` and `body` as they stand and reads the answer to its end.
pub(crate) fn exchange(port: u16, head: &str, body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    // A server that refuses early may close before it has read all.
    drop(stream.write_all(body));
    read_answer(&mut stream)
}

/// Reads one answer up to the end of the connection.
pub(crate) fn read_answer(stream: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    let mut chunk = [0; 65_536];
    while let Ok(read) = stream.read(&mut chunk) {
        if read == 0 {
            break;
        }
        bytes.extend(&chunk[..read]);
    }
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers =
        lines.filter_map(|line| line.split_once(": ")).map(|(k, v)| (k.to_lowercase(), v.to_owned()));
    Answer { status, headers: headers.collect(), body: body.to_owned() }
}

pub(crate) fn get(port: u16, path: &str) -> Answer {
    exchange(port, &format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"), b"")
}

/// POSTs with those headers.
pub(crate) fn post(port: u16, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut head = format!("POST {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    exchange(port, &format!("{head}content-length: {}\r\n\r\n", body.len()), body)
}

/// POSTs JSON to `/publish`.
pub(crate) fn publish(server: &Server, body: &str) -> Answer {
    post(server.port, "/publish", &[("content-type", "application/json")], body.as_bytes())
}

/// Publishes one event to `url` and gives its message id.
pub(crate) fn publish_to(server: &Server, url: &str, payload: &str) -> String {
    let answer = publish(server, &format!(r#"{{"url":"{url}","payload":{payload}}}"#));
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.json()["messages"][0]["id"].as_str().unwrap().to_owned()
}

/// The HTTP API as one key's holder sees it.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) port: u16,
    pub(crate) key: String,
}

impl Api {
    pub(crate) fn with_key(&self, key: &str) -> Self {
        Self { port: self.port, key: key.to_owned() }
    }

    /// Sends a request with `headers` beside the key; a body of `null` is none.
    pub(crate) fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &serde_json::Value,
    ) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n");
        head += &format!("authorization: Bearer {}\r\n", self.key);
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        let body = if body.is_null() { String::new() } else { body.to_string() };
        if !body.is_empty() && !headers.iter().any(|(name, _)| *name == "content-type") {
            head += "content-type: application/json\r\n";
        }
        exchange(self.port, &format!("{head}content-length: {}\r\n\r\n", body.len()), body.as_bytes())
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.call("GET", path, &[], &serde_json::Value::Null)
    }

    pub(crate) fn post(&self, path: &str, body: serde_json::Value) -> Answer {
        self.call("POST", path, &[], &body)
    }

    pub(crate) fn patch(&self, path: &str, body: serde_json::Value) -> Answer {
        self.call("PATCH", path, &[], &body)
    }

    pub(crate) fn delete(&self, path: &str) -> Answer {
        self.call("DELETE", path, &[], &serde_json::Value::Null)
    }

    /// What a successful POST made.
    pub(crate) fn make(&self, path: &str, body: serde_json::Value) -> serde_json::Value {
        let answer = self.post(path, body);
        assert!((200..300).contains(&answer.status), "{path}: {answer:?}");
        answer.json()
    }

    /// A tenant with the fixtures' public key, subscribed to `events` at `url`.
    pub(crate) fn subscribe(&self, name: &str, url: &str, events: &[&str]) -> Tenant {
        self.subscribe_with(name, "keys/public_key.pem", url, events)
    }

    /// The same with another public key.
    pub(crate) fn subscribe_with(&self, name: &str, key: &str, url: &str, events: &[&str]) -> Tenant {
        let text = |value: &serde_json::Value, member: &str| value[member].as_str().unwrap().to_owned();
        let id = text(&self.make("/tenants", json!({"name": name})), "id");
        let path = format!("/tenants/{id}");
        let public_key = std::fs::read_to_string(fixture(key)).unwrap();
        self.make(&format!("{path}/public-keys"), json!({"public_key": public_key}));
        let secret = std::fs::read_to_string(fixture("keys/signing_secret.txt")).unwrap();
        let new = json!({"url": url, "events": events, "secret": secret.trim()});
        let endpoint = text(&self.make(&format!("{path}/endpoints"), new), "id");
        let key = text(&self.make(&format!("{path}/api-keys"), json!({})), "key");
        Tenant { id, api: self.with_key(&key), endpoint }
    }

    /// Publishes an event and gives the answer.
    pub(crate) fn publish(&self, kind: &str, payload: serde_json::Value) -> Answer {
        self.post("/publish", json!({"type": kind, "payload": payload}))
    }

    /// Publishes an event and gives the ids of its messages.
    pub(crate) fn published(&self, kind: &str, payload: serde_json::Value) -> Vec<String> {
        let answer = self.publish(kind, payload);
        assert_eq!(answer.status, 202, "{answer:?}");
        message_ids(&answer)
    }
}

/// The message ids of an answer to a publish.
pub(crate) fn message_ids(answer: &Answer) -> Vec<String> {
    let messages = answer.json()["messages"].as_array().unwrap().clone();
    messages.iter().map(|message| message["id"].as_str().unwrap().to_owned()).collect()
}

/// A subscribed tenant.
pub(crate) struct Tenant {
    pub(crate) id: String,
    /// With its own key.
    pub(crate) api: Api,
    pub(crate) endpoint: String,
}

impl Tenant {
    /// The path of its endpoint.
    pub(crate) fn endpoint_path(&self) -> String {
        format!("/tenants/{}/endpoints/{}", self.id, self.endpoint)
    }
}

/// A request that a customer got.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) head: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

/// A customer that does with each connection what `answer` says, and tells what it got.
pub(crate) struct RawCustomer {
    pub(crate) port: u16,
    requests: Receiver<Request>,
}

impl RawCustomer {
    pub(crate) fn start(answer: impl Fn(&mut TcpStream, usize) + Send + Sync + 'static) -> Self {
        Self::start_on(0, answer)
    }

    /// One at a port that is known before; 0 takes a free one.
    pub(crate) fn start_on(
        port: u16,
        answer: impl Fn(&mut TcpStream, usize) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (got, requests) = mpsc::channel();
        let answer = Arc::new(answer);
        thread::spawn(move || {
            for (number, stream) in listener.incoming().map_while(Result::ok).enumerate() {
                let (got, answer) = (got.clone(), Arc::clone(&answer));
                thread::spawn(move || {
                    let mut stream = stream;
                    if let Some(request) = read_request(&mut stream) {
                        drop(got.send(request));
                        answer(&mut stream, number);
                    }
                });
            }
        });
        Self { port, requests }
    }

    /// One that answers every request with `text` and closes.
    pub(crate) fn answering(text: &'static str) -> Self {
        Self::start(move |stream, _| drop(stream.write_all(text.as_bytes())))
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/webhook", self.port)
    }

    pub(crate) fn request(&self) -> Request {
        self.requests.recv_timeout(PATIENCE).expect("a request")
    }

    /// The next request, if one has come.
    pub(crate) fn request_so_far(&self) -> Option<Request> {
        self.requests.try_recv().ok()
    }

    /// Whether no request came: ask once whoever might have sent one is done.
    pub(crate) fn got_nothing(&self) -> bool {
        self.request_so_far().is_none()
    }
}

fn read_request(stream: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 65_536];
    loop {
        let read = stream.read(&mut chunk).ok().filter(|read| *read > 0)?;
        bytes.extend(&chunk[..read]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let (first, rest) = head.split_once("\r\n")?;
        let headers = rest.lines().filter_map(|line| line.split_once(": "));
        let headers: BTreeMap<String, String> =
            headers.map(|(k, v)| (k.to_lowercase(), v.to_owned())).collect();
        if body.len() >= headers.get("content-length")?.parse::<usize>().ok()? {
            return Some(Request { head: first.to_owned(), headers, body: body.to_owned() });
        }
    }
}
