//! `POST /publish`: accepted and refused requests.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use crate::support::{FAILS, RawCustomer, Server, fixture, get, post, publish, publish_to, wait_until, whk};

const MIB: usize = 1 << 20;

fn text_of(bytes: usize) -> String {
    format!("\"{}\"", "x".repeat(bytes - 2))
}

#[test]
fn an_invalid_event_is_refused_with_the_reason() {
    let server = Server::publish_locally(&[]);
    for (body, expected) in [
        ("", "isn't JSON"),
        ("{", "isn't JSON"),
        ("{\"url\":\"http://127.0.0.1/\",\"payload\":{}", "isn't JSON"),
        ("[]", "JSON object"),
        (r#"["http://127.0.0.1/",{},null,null]"#, "JSON object"),
        ("null", "JSON object"),
        ("7", "JSON object"),
        (r#"{"url":1,"payload":{}}"#, "'url' must be text"),
        (r#"{"url":"http://127.0.0.1/","payload":{},"target":7}"#, "'target'"),
        (r#"{"url":"http://127.0.0.1/","payload":{},"payload":{}}"#, "'payload' appears twice"),
        (r#"{"url":"http://127.0.0.1/"}"#, "'payload' is required"),
        (r#"{"url":"http://127.0.0.1/","payload":{},"target":""}"#, "'target'"),
        (r#"{"url":"http://127.0.0.1/","payload":{},"target":"a\nb"}"#, "'target'"),
        (r#"{"url":"http://127.0.0.1/","payload":{},"type":"a\u0000"}"#, "'type'"),
        (r#"{"url":"","payload":{}}"#, "absolute URL"),
        (r#"{"url":"/webhook","payload":{}}"#, "absolute URL"),
        (r#"{"url":"ftp://127.0.0.1/","payload":{}}"#, "http or https"),
        (r#"{"url":"http://user:pw@127.0.0.1/","payload":{}}"#, "credentials"),
    ] {
        let answer = publish(&server, body);
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        assert!(answer.problem().contains(expected), "{body}: {}", answer.problem());
    }
    let nested = |depth: usize| {
        let payload = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        publish(&server, &format!(r#"{{"url":"http://127.0.0.1:1/","payload":{payload}}}"#))
    };
    assert!(nested(129).problem().contains("128"), "{:?}", nested(129));
    assert_eq!(nested(500_000).status, 400);
    assert_eq!(server.metric("whk_jobs_published_total"), 0);
    assert_eq!(nested(128).status, 202);
}

#[test]
fn other_content_types_routes_and_methods_are_refused() {
    let server = Server::publish_locally(&[]);
    let body = br#"{"url":"http://127.0.0.1/","payload":{}}"#;
    for headers in [vec![], vec![("content-type", "text/plain")], vec![("content-type", "application/xml")]] {
        let answer = post(server.port, "/publish", &headers, body);
        assert_eq!(answer.status, 415, "{headers:?}");
        answer.problem();
    }
    let unknown = post(server.port, "/nowhere", &[], b"");
    assert_eq!((unknown.status, unknown.problem().contains("/publish")), (404, true));
    let wrong_method = get(server.port, "/publish");
    assert_eq!(wrong_method.status, 405);
    wrong_method.problem();
    assert_eq!(get(server.port, "/healthz").json()["status"], "ok");
    assert_eq!(get(server.port, "/readyz").json()["status"], "ready");
}

#[test]
fn a_payload_of_a_mebibyte_is_accepted_and_one_byte_more_is_refused() {
    let customer = Server::customer(&[]);
    let server = Server::publish_locally(&[]);
    let event = |payload: &str| format!(r#"{{"url":"{}","payload":{payload}}}"#, customer.url("/webhook"));
    let over = publish(&server, &event(&text_of(MIB + 1)));
    assert_eq!(over.status, 413);
    assert!(over.problem().contains("1048577"), "{}", over.problem());
    let far_over = publish(&server, &event(&text_of(4 * MIB)));
    assert_eq!(far_over.status, 413);
    assert_eq!(publish(&server, &event(&text_of(MIB))).status, 202);
    assert_eq!(customer.events(1)[0]["data"].as_str().unwrap().len(), MIB - 2);
}

#[test]
fn stray_bytes_after_a_request_do_not_delay_its_response() {
    let server = Server::publish_locally(&["--idle-timeout", "600s"]);
    let body = r#"{"url":"http://127.0.0.1:1/","payload":{}}"#;
    let length = body.len();
    let head = format!(
        "POST /publish HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    stream.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    stream.write_all(format!("{head}{body}\r\nPOST /pub").as_bytes()).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 202");
}

#[test]
fn a_full_queue_answers_503_with_retry_after() {
    let hanging = RawCustomer::start(|_, _| std::thread::sleep(Duration::from_secs(600)));
    let server = Server::publish_locally(&["--max-queue-size", "3"]);
    for _ in 0..3 {
        publish_to(&server, &hanging.url(), "{}");
    }
    let refused = publish(&server, &format!(r#"{{"url":"{}","payload":{{}}}}"#, hanging.url()));
    assert_eq!(refused.status, 503);
    assert_eq!(refused.headers["retry-after"], "1");
    assert!(refused.problem().contains("full"), "{}", refused.problem());
}

#[test]
fn the_body_and_environment_of_the_scripts_are_accepted() {
    let customer = Server::customer(&["--allow-unsigned"]);
    let failing = RawCustomer::answering(FAILS);
    let mut command = whk(&["publish-server", "--allow-net", "127.0.0.0/8", "--public-key"]);
    command.arg(fixture("keys/public_key.scripts.pem")).args(["--envelope", "rsa-oaep"]);
    command.env("SERVER_PORT", "0").env("SERVER_HOSTNAME", "127.0.0.2").env("MAX_QUEUE_SIZE", "1");
    command.env("RETRY_DELAYS", "300, 3600000").env("MAX_RETRIES", "2").env("MAX_PAYLOAD_SIZE", "50");
    let refused = command.env("SERVER_HOSTNAME", "no such host").output().unwrap();
    assert!(!refused.status.success(), "SERVER_HOSTNAME");
    let server = Server::start(command.env("SERVER_HOSTNAME", "127.0.0.1"));
    assert_ne!(server.port, 4242, "SERVER_PORT");
    let body = format!(
        r#"{{"url":"{}","payload":{{"hello":"world","id":"1"}},"target":"customer-1"}}"#,
        customer.url("/webhook")
    );
    assert_eq!(publish(&server, &body).status, 202);
    let event = customer.events(1).remove(0);
    assert_eq!(event["data"], serde_json::json!({"hello": "world", "id": "1"}));
    server.wait_for_metric("whk_jobs_delivered_total", 1);
    // The counter rises before the job is settled, and the queue has room for one.
    wait_until("an empty queue", || server.queued_jobs() == 0);
    let over = publish(&server, &format!(r#"{{"url":"http://127.0.0.1/","payload":{}}}"#, text_of(51)));
    assert_eq!(over.status, 413, "MAX_PAYLOAD_SIZE");
    publish_to(&server, &failing.url(), "{}");
    assert_eq!(publish(&server, &body).status, 503, "MAX_QUEUE_SIZE");
    server.wait_for_metric("whk_retries_total", 2);
    assert_eq!(server.metric("whk_jobs_dead_total"), 0, "RETRY_DELAYS: an hour to the third attempt");
}

#[test]
fn max_retries_limits_the_attempts() {
    let failing = RawCustomer::answering(FAILS);
    let mut command = whk(&["publish-server", "--port", "0", "--allow-net", "127.0.0.0/8", "--public-key"]);
    command.arg(fixture("keys/public_key.pem")).env("RETRY_DELAYS", "10").env("MAX_RETRIES", "3");
    let server = Server::start(&mut command);
    publish_to(&server, &failing.url(), "{}");
    server.wait_for_metric("whk_jobs_dead_total", 1);
    assert_eq!(server.metric("whk_attempts_total"), 4);
}

#[test]
fn the_legacy_envelope_refuses_a_payload_that_is_too_large() {
    let server = Server::publish_locally(&["--envelope", "rsa-oaep"]);
    let over = publish(&server, &format!(r#"{{"url":"http://127.0.0.1/","payload":{}}}"#, text_of(400)));
    assert_eq!(over.status, 413);
    assert!(over.problem().contains("--envelope jwe"), "{}", over.problem());
}
