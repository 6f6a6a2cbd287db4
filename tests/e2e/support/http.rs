//! Raw HTTP requests, so that a test can send malformed ones.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use super::{PATIENCE, Server};

/// An HTTP response.
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

    /// Returns the detail of a problem document (RFC 9457), after a check of its content type and status.
    pub(crate) fn problem(&self) -> String {
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        problem["detail"].as_str().unwrap().to_owned()
    }
}

/// Sends `head` and `body` unchanged and reads the whole response.
pub(crate) fn exchange(port: u16, head: &str, body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    // A server that refuses early may close the connection before it has read the body.
    drop(stream.write_all(body));
    read_answer(&mut stream)
}

/// Reads one response, until the server closes the connection.
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
    let (head, body) =
        text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("not an HTTP response: {text:?}"));
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers =
        lines.filter_map(|line| line.split_once(": ")).map(|(k, v)| (k.to_lowercase(), v.to_owned()));
    Answer { status, headers: headers.collect(), body: body.to_owned() }
}

pub(crate) fn get(port: u16, path: &str) -> Answer {
    exchange(port, &format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"), b"")
}

/// Sends a POST request with those headers.
pub(crate) fn post(port: u16, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut head = format!("POST {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    exchange(port, &format!("{head}content-length: {}\r\n\r\n", body.len()), body)
}

/// Sends a POST request with JSON to `/publish`.
pub(crate) fn publish(server: &Server, body: &str) -> Answer {
    post(server.port, "/publish", &[("content-type", "application/json")], body.as_bytes())
}

/// Publishes one event to `url` in direct mode and returns its message id.
pub(crate) fn publish_to(server: &Server, url: &str, payload: &str) -> String {
    let answer = publish(server, &format!(r#"{{"url":"{url}","payload":{payload}}}"#));
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.json()["messages"][0]["id"].as_str().unwrap().to_owned()
}
