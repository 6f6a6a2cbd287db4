use std::io::Write as _;

use base64::Engine as _;
use whk::common::crypto::envelope::{KeyReuse, Sealer};
use whk::common::crypto::keys::PublicKey;
use whk::common::crypto::signature::{Secret, Signer, Verifier};

use crate::support::{Answer, RawCustomer, Server, fixture, post};

const MESSAGE: &str =
    r#"{"id":"evt_1","type":"invoice.paid","timestamp":"2026-01-02T03:04:05Z","data":{"a":1}}"#;

fn seal_with(key: &str, message: &str) -> Vec<u8> {
    let key = PublicKey::read(&fixture(key)).unwrap();
    Sealer::new(key, KeyReuse::default()).seal(message.into()).unwrap().to_vec()
}

fn sealed() -> Vec<u8> {
    seal_with("keys/public_key.pem", MESSAGE)
}

fn secrets() -> Vec<Secret> {
    Secret::read_all(&fixture("keys/signing_secret.txt")).unwrap()
}

fn now() -> i64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64
}

fn deliver_at(customer: &Server, id: &str, timestamp: i64, body: &[u8]) -> Answer {
    let signature = Signer::new(secrets()).sign(id, timestamp, body);
    let timestamp = timestamp.to_string();
    let headers = [
        ("content-type", "application/jose+json"),
        ("webhook-id", id),
        ("webhook-timestamp", &timestamp),
        ("webhook-signature", &signature),
    ];
    post(customer.port, "/webhook", &headers, body)
}

fn deliver(customer: &Server, id: &str, body: &[u8]) -> u16 {
    deliver_at(customer, id, now(), body).status
}

#[test]
fn an_event_that_arrives_twice_is_printed_once() {
    let customer = Server::customer(&[]);
    assert_eq!(deliver(&customer, "msg_1", &sealed()), 200);
    assert_eq!(deliver(&customer, "msg_1", &sealed()), 200);
    assert_eq!(
        customer.line(),
        r#"{"id":"msg_1","event_id":"evt_1","type":"invoice.paid","time":"2026-01-02T03:04:05Z","data":{"a":1}}"#
    );
    let second = MESSAGE.replace("evt_1", "evt_2").replace("invoice.paid", r"invoice\/paid");
    assert_eq!(deliver(&customer, "msg_2", &seal_with("keys/public_key.pem", &second)), 200);
    let rest = customer.kill();
    assert_eq!(rest.len(), 1, "{rest:?}");
    assert_eq!((&rest[0]["id"], &rest[0]["type"]), (&"msg_2".into(), &"invoice/paid".into()));
}

#[test]
fn forged_replayed_and_unsigned_deliveries_are_refused() {
    let customer = Server::customer(&[]);
    assert_eq!(deliver_at(&customer, "msg_1", now() - 301, &sealed()).status, 401);
    assert_eq!(deliver_at(&customer, "msg_1", now() + 305, &sealed()).status, 401);
    assert_eq!(post(customer.port, "/webhook", &[], &sealed()).status, 401);
    let body = sealed();
    let signature = Signer::new(secrets()).sign("msg_1", now(), &body);
    let timestamp = now().to_string();
    let headers =
        [("webhook-id", "msg_2"), ("webhook-timestamp", &timestamp), ("webhook-signature", &signature)];
    assert_eq!(post(customer.port, "/webhook", &headers, &body).status, 401, "another id");
    assert_eq!(deliver(&customer, "msg_1", &body), 200, "a refused id must not count as handled");
    assert_eq!(customer.kill().len(), 1);
}

#[test]
fn a_body_that_can_not_be_decrypted_is_refused_and_the_next_is_accepted() {
    let customer = Server::customer(&["--max-body", "4096"]);
    let other = seal_with("keys/public_key.pem", "not a message");
    let damaged = String::from_utf8(sealed()).unwrap().replace("\"tag\":\"", "\"tag\":\"AAAA");
    for body in ["", "{}", "null", "\"", "\"aGk=\"", "[1]", damaged.as_str()] {
        assert_eq!(deliver(&customer, "msg_1", body.as_bytes()), 400, "{body}");
    }
    assert_eq!(deliver(&customer, "msg_1", &other), 400, "decrypted, but not a message");
    assert_eq!(deliver(&customer, "msg_1", &vec![b'x'; 5_000]), 413);
    assert_eq!(deliver(&customer, &"m".repeat(300), &sealed()), 400);
    assert_eq!(deliver(&customer, "msg_1", &sealed()), 200);
}

#[test]
fn each_private_key_that_is_given_decrypts() {
    let current = fixture("keys/other_private_key.pem");
    let mut command = crate::support::whk(&["customer", "--port", "0", "--secret-file"]);
    command.arg(fixture("keys/signing_secret.txt"));
    command.arg("--private-key").arg(&current);
    let without = Server::start(command);
    assert_eq!(deliver(&without, "msg_1", &sealed()), 400);
    let with = Server::customer(&["--private-key", current.to_str().unwrap()]);
    assert_eq!(deliver(&with, "msg_1", &sealed()), 200);
}

#[test]
fn deliveries_of_the_scripts_are_decrypted() {
    let customer = Server::customer(&["--allow-unsigned"]);
    let body = std::fs::read(fixture("envelopes/scripts.json")).unwrap();
    assert_eq!(post(customer.port, "/webhook", &[("content-type", "application/json")], &body).status, 200);
    let event = customer.events(1).remove(0);
    assert_eq!(event["data"], serde_json::json!({"hello": "world", "id": "1"}));
    assert_eq!(event["time"], "2023-11-14T22:13:20Z");
}

#[test]
fn fail_rate_answers_with_fail_status() {
    let customer = Server::customer(&["--fail-rate", "1", "--fail-status", "429"]);
    assert_eq!(deliver(&customer, "msg_1", &sealed()), 429);
    assert!(customer.kill().is_empty());
}

#[test]
fn forwarded_messages_are_decrypted_and_signed_again() {
    let application = RawCustomer::start(|stream, number| {
        let status = if number == 0 { 503 } else { 204 };
        drop(write!(stream, "HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"));
    });
    let customer = Server::customer(&["--forward", &application.url()]);
    assert_eq!(deliver(&customer, "msg_1", &sealed()), 503, "the application's own status");
    assert_eq!(deliver(&customer, "msg_1", &sealed()), 200, "a failed forward must not count as handled");
    assert_eq!(
        deliver(&customer, "msg_1", &sealed()),
        200,
        "a repeated delivery is accepted without another forward"
    );
    for _ in 0..2 {
        let request = application.request();
        assert_eq!(request.body, MESSAGE);
        let header = |name: &str| request.headers[name].as_str();
        assert_eq!(header("content-type"), "application/json");
        Verifier::new(secrets(), Verifier::TOLERANCE)
            .verify(
                header("webhook-id"),
                header("webhook-timestamp"),
                header("webhook-signature"),
                MESSAGE.as_bytes(),
                now(),
            )
            .unwrap();
    }
    assert!(application.got_nothing());
    assert!(customer.kill().is_empty(), "forwarded messages must not be printed");
}

#[test]
fn an_unreachable_application_is_answered_with_502() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let customer = Server::customer(&["--forward", &format!("http://{closed}/")]);
    assert_eq!(deliver(&customer, "msg_1", &sealed()), 502);
    customer.wait_for_log("--forward");
}

#[test]
fn no_payload_is_logged() {
    let customer = Server::customer(&["--log", "trace"]);
    deliver(
        &customer,
        "msg_1",
        &seal_with("keys/public_key.pem", &MESSAGE.replace("{\"a\":1}", "\"tiger\"")),
    );
    deliver(&customer, "msg_2", &seal_with("keys/public_key.pem", "tiger"));
    customer.line();
    customer.wait_for_log("rejected");
    assert!(!customer.log().contains("tiger"));
    let secret = base64::engine::general_purpose::STANDARD.encode("tiger");
    assert!(!customer.log().contains(&secret));
}
