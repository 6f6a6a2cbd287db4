//! The example receivers under fixtures/receivers, run as a customer would run them, with the libraries they name.
//!
//! `scripts/test.sh` installs those and says so in WHK_INTEROP; without it these tests tell that they were passed
//! over, and fail where CI is set.

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

/// What we seal and sign is verified and opened, twice under one content key; a forgery isn't.
fn opens_what_we_seal(program: &str) {
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
fn node_with_express_jose_and_standardwebhooks() {
    opens_what_we_seal("node/server.mjs");
}

#[test]
fn python_with_flask_jwcrypto_and_standardwebhooks() {
    opens_what_we_seal("python/flask_jwcrypto.py");
}

#[test]
fn python_with_joserfc_and_standardwebhooks() {
    opens_what_we_seal("python/plain_joserfc.py");
}

/// What another library seals, the customer opens.
fn is_opened_by_us(program: &str) {
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
fn what_jose_seals() {
    is_opened_by_us("node/seal.mjs");
}

#[test]
fn what_jwcrypto_seals() {
    is_opened_by_us("python/seal_jwcrypto.py");
}

#[test]
fn what_joserfc_seals() {
    is_opened_by_us("python/seal_joserfc.py");
}
