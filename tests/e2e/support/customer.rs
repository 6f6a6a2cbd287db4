//! Customers whose answers the test controls.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use whk::common::crypto::envelope::{Envelope, Opener};
use whk::common::crypto::keys::PrivateKey;
use whk::common::crypto::signature::{Secret, Verifier};

use super::{PATIENCE, fixture};

/// An answer that accepts the delivery and closes the connection.
pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// An answer that refuses the delivery for now and closes the connection.
pub(crate) const FAILS: &str = "HTTP/1.1 500 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// A URL at which nothing listens.
pub(crate) const NOWHERE: &str = "http://127.0.0.1:9/webhook";

/// A request that a customer received.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) head: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

/// A customer that answers each request with a function of the test's, and keeps the requests.
pub(crate) struct RawCustomer {
    pub(crate) port: u16,
    requests: Receiver<Request>,
}

impl RawCustomer {
    pub(crate) fn start(answer: impl Fn(&mut TcpStream, usize) + Send + Sync + 'static) -> Self {
        Self::start_on(0, answer)
    }

    /// Starts a customer at a port that the test chose; 0 takes a free one.
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

    /// Starts a customer that answers every request with `text` and closes the connection.
    pub(crate) fn answering(text: &'static str) -> Self {
        Self::start(move |stream, _| drop(stream.write_all(text.as_bytes())))
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/webhook", self.port)
    }

    pub(crate) fn request(&self) -> Request {
        self.requests.recv_timeout(PATIENCE).expect("a request")
    }

    /// Returns the next request, if one has arrived.
    pub(crate) fn request_so_far(&self) -> Option<Request> {
        self.requests.try_recv().ok()
    }

    /// Whether no request has arrived. Meaningful only after the last attempt that could have sent one.
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

pub(crate) fn opens_with(key: &str, request: &Request) -> Option<serde_json::Value> {
    let key = PrivateKey::read(&fixture(key), None).unwrap();
    let opened = Opener::new([key]).open(Envelope::parse(request.body.as_bytes()).ok()?).ok()?;
    Some(serde_json::from_slice(&opened).unwrap())
}

pub(crate) fn verifies_with(secret: &str, request: &Request) -> bool {
    let header = |name: &str| request.headers[name].as_str();
    let now = header("webhook-timestamp").parse().unwrap();
    let verifier = Verifier::new(vec![Secret::parse(secret).unwrap()], Verifier::TOLERANCE);
    let signatures = header("webhook-signature");
    verifier
        .verify(header("webhook-id"), header("webhook-timestamp"), signatures, request.body.as_bytes(), now)
        .is_ok()
}
