//! The HTTP API as the tests call it, and the tenants that they create through it.

use serde_json::json;

use super::{Answer, exchange, fixture};

/// A well-formed message id that no message has.
pub(crate) const UNKNOWN_MESSAGE: &str = "msg_01980000000070008000000000000000";
/// A well-formed endpoint id that no endpoint has.
pub(crate) const UNKNOWN_ENDPOINT: &str = "ep_01980000000070008000000000000000";
/// A well-formed tenant id that no tenant has.
pub(crate) const UNKNOWN_TENANT: &str = "ten_01980000000070008000000000000000";

/// A client of the HTTP API with one API key.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) port: u16,
    pub(crate) key: String,
}

impl Api {
    pub(crate) fn with_key(&self, key: &str) -> Self {
        Self { port: self.port, key: key.to_owned() }
    }

    /// Sends a request with `headers` and the API key. A body of `null` sends no body.
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

    /// Sends a POST request, which must succeed, and returns the response as JSON.
    pub(crate) fn make(&self, path: &str, body: serde_json::Value) -> serde_json::Value {
        let answer = self.post(path, body);
        assert!((200..300).contains(&answer.status), "{path}: {answer:?}");
        answer.json()
    }

    /// Creates a tenant with the fixtures' public key and an endpoint at `url` that subscribes to `events`.
    pub(crate) fn subscribe(&self, name: &str, url: &str, events: &[&str]) -> Tenant {
        self.subscribe_with(name, "keys/public_key.pem", url, events)
    }

    /// Creates a tenant with the public key in fixture `key` and an endpoint at `url` that subscribes to `events`.
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

    /// Publishes an event and returns the response.
    pub(crate) fn publish(&self, kind: &str, payload: serde_json::Value) -> Answer {
        self.post("/publish", json!({"type": kind, "payload": payload}))
    }

    /// Publishes an event, which must be accepted, and returns the ids of its messages.
    pub(crate) fn published(&self, kind: &str, payload: serde_json::Value) -> Vec<String> {
        let answer = self.publish(kind, payload);
        assert_eq!(answer.status, 202, "{answer:?}");
        message_ids(&answer)
    }
}

/// A tenant with one endpoint.
pub(crate) struct Tenant {
    pub(crate) id: String,
    /// Client of the API with the tenant's own key.
    pub(crate) api: Api,
    pub(crate) endpoint: String,
}

impl Tenant {
    /// Returns the path of the tenant's endpoint.
    pub(crate) fn endpoint_path(&self) -> String {
        format!("/tenants/{}/endpoints/{}", self.id, self.endpoint)
    }
}

/// Returns the message ids in the response to a publish.
pub(crate) fn message_ids(answer: &Answer) -> Vec<String> {
    let messages = answer.json()["messages"].as_array().unwrap().clone();
    messages.iter().map(|message| message["id"].as_str().unwrap().to_owned()).collect()
}
