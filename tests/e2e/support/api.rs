//! The HTTP API as the holder of one key uses it.

use serde_json::json;

use super::{Answer, exchange, fixture};

/// A well-formed message id that no message has.
pub(crate) const UNKNOWN_MESSAGE: &str = "msg_01980000000070008000000000000000";
/// A well-formed endpoint id that no endpoint has.
pub(crate) const UNKNOWN_ENDPOINT: &str = "ep_01980000000070008000000000000000";
/// A well-formed tenant id that no tenant has.
pub(crate) const UNKNOWN_TENANT: &str = "ten_01980000000070008000000000000000";

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

/// The message ids of an answer to a publish.
pub(crate) fn message_ids(answer: &Answer) -> Vec<String> {
    let messages = answer.json()["messages"].as_array().unwrap().clone();
    messages.iter().map(|message| message["id"].as_str().unwrap().to_owned()).collect()
}
