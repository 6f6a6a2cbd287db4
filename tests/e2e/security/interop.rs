//! The example receivers under fixtures/receivers, run as a customer would run them.
//!
//! `scripts/interop.sh` installs the libraries that they name.

use std::io::Write as _;
use std::process::{Command, Stdio};

use whk::common::crypto::keys::PublicKey;

use crate::support::services::interop_python;
use crate::support::{Server, fixture, post, publish};

fn receiver(program: &str) -> Command {
    let python = interop_python();
    let file = fixture("receivers").join(program);
    let mut command = Command::new(if program.ends_with(".py") { python } else { "node".into() });
    command.arg(file).env("PORT", "0").env("PRIVATE_KEY", fixture("keys/private_key.pem"));
    let secret = std::fs::read_to_string(fixture("keys/signing_secret.txt")).unwrap();
    command.env("SIGNING_SECRET", secret.trim());
    command
}

/// Asserts that a receiver verifies and decrypts two deliveries with the same content key, and refuses forged ones.
fn assert_receiver_decrypts(program: &str) {
    let command = receiver(program);
    let receiver = Server::start(command);
    let server = Server::publish_locally(&[]);
    for number in 1..=2 {
        let url = receiver.url("/webhook");
        let body = format!(r#"{{"url":"{url}","payload":{{"n":{number},"text":"Grüße"}}}}"#);
        let published = publish(&server, &body).json();
        let event: serde_json::Value = serde_json::from_str(&receiver.line()).unwrap();
        assert_eq!(event["id"], published["event_id"]);
        assert_eq!(event["data"], serde_json::json!({"n": number, "text": "Grüße"}));
    }
    server.wait_for_metric("whk_jobs_delivered_total", 2);
    assert_eq!(server.metric("whk_attempts_total"), 2);
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs().to_string();
    let valid_form = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
    for (signature, body) in [(valid_form, "{}"), ("v1,A", "{}"), ("v1", "{}"), ("", "{}"), (valid_form, "")]
    {
        let forged = [("webhook-id", "msg_1"), ("webhook-timestamp", &now), ("webhook-signature", signature)];
        let answer = post(receiver.port, "/webhook", &forged, body.as_bytes());
        assert_eq!(answer.status, 401, "{signature:?} {body:?}");
    }
}

#[test]
fn the_node_receiver_with_express_and_jose_decrypts() {
    assert_receiver_decrypts("node/server.mjs");
}

#[test]
fn the_python_receiver_with_flask_and_jwcrypto_decrypts() {
    assert_receiver_decrypts("python/flask_jwcrypto.py");
}

#[test]
fn the_python_receiver_with_joserfc_decrypts() {
    assert_receiver_decrypts("python/plain_joserfc.py");
}

/// Asserts that `whk customer` decrypts an envelope that another library made.
fn assert_customer_decrypts(program: &str) {
    let mut command = receiver(program);
    let message = r#"{"id":"msg_1","type":"a","timestamp":"2026-01-02T03:04:05Z","data":{"text":"Grüße"}}"#;
    let key = fixture("keys/public_key.pem");
    command.arg(&key).arg(PublicKey::read(&key).unwrap().kid());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(message.as_bytes()).unwrap();
    let sealed = child.wait_with_output().unwrap();
    assert!(sealed.status.success());
    let customer = Server::customer(&["--allow-unsigned"]);
    assert_eq!(post(customer.port, "/webhook", &[], sealed.stdout.trim_ascii()).status, 200);
    assert_eq!(customer.events(1)[0]["data"]["text"], "Grüße");
}

#[test]
fn the_customer_decrypts_an_envelope_of_jose() {
    assert_customer_decrypts("node/seal.mjs");
}

#[test]
fn the_customer_decrypts_an_envelope_of_jwcrypto() {
    assert_customer_decrypts("python/seal_jwcrypto.py");
}

#[test]
fn the_customer_decrypts_an_envelope_of_joserfc() {
    assert_customer_decrypts("python/seal_joserfc.py");
}
