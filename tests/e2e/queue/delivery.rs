use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use crate::support::{
    OK, PATIENCE, RawCustomer, Server, fixture, post, publish, publish_to, run, stderr, whk,
};

#[test]
fn a_delivery_has_the_documented_headers_and_body() {
    let customer = RawCustomer::answering(OK);
    let server = Server::publish_locally(&[]);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let headers = [
        ("content-type", "application/json; charset=utf-8"),
        ("traceparent", &format!("00-{trace}-00f067aa0ba902b7-01")),
    ];
    let body = format!(r#"{{"url":"{}?a=1","payload":{{"card":"tiger"}}}}"#, customer.url());
    let published = post(server.port, "/publish", &headers, body.as_bytes());
    assert_eq!(published.status, 202);
    assert!(published.json()["event_id"].as_str().unwrap().starts_with("evt_"));

    let request = customer.request();
    assert_eq!(request.head, "POST /webhook?a=1 HTTP/1.1");
    let header = |name: &str| request.headers[name].as_str();
    assert_eq!(header("content-type"), "application/jose+json");
    assert_eq!(header("user-agent"), concat!("whk/", env!("CARGO_PKG_VERSION")));
    assert_eq!(header("webhook-id"), published.json()["messages"][0]["id"]);
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!(now.abs_diff(header("webhook-timestamp").parse().unwrap()) < 60);
    assert!(header("webhook-signature").starts_with("v1,"));
    assert!(header("traceparent").starts_with(&format!("00-{trace}-")));
    assert!(!header("traceparent").contains("00f067aa0ba902b7"), "each attempt has its own span");
    assert!(!request.body.contains("tiger"));
    let envelope: Value = serde_json::from_str(&request.body).unwrap();
    assert_eq!(envelope.as_object().unwrap().len(), 5);
}

#[test]
fn every_attempt_has_the_same_id_and_body() {
    let customer = RawCustomer::start(|stream, number| {
        let status = if number < 2 { "500 No" } else { "204 Yes" };
        drop(write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"));
    });
    let server = Server::publish_locally(&[]);
    publish_to(&server, &customer.url(), "{}");
    let attempts: Vec<_> = (0..3).map(|_| customer.request()).collect();
    let same: HashSet<_> =
        attempts.iter().map(|attempt| (&attempt.headers["webhook-id"], &attempt.body)).collect();
    assert_eq!(same.len(), 1);
    server.wait_for_metric("whk_jobs_delivered_total", 1);
    assert_eq!(server.metric("whk_retries_total"), 2);
}

#[test]
fn a_flaky_customer_gets_every_event_once() {
    let customer = Server::customer(&["--fail-rate", "0.2"]);
    let server = Server::publish_locally(&[]);
    let sent = send(&server, &[&customer.url("/webhook")], 200);
    assert!(sent.status.success(), "{}", stderr(&sent));
    let ids: HashSet<String> = customer.events(200).iter().map(|event| event["id"].to_string()).collect();
    assert_eq!(ids.len(), 200);
    server.wait_for_metric("whk_jobs_delivered_total", 200);
    assert!(server.metric("whk_retries_total") > 0);
    assert_eq!(server.metric("whk_jobs_dead_total"), 0);
    assert!(customer.kill().is_empty(), "an event was printed twice");
}

fn send(server: &Server, urls: &[&str], count: u64) -> std::process::Output {
    let mut command = whk(&["send", "--payload", r#"{"n":{{seq}}}"#, "--count", &count.to_string()]);
    command.args(["--concurrency", "1", "--server", &server.url("")]);
    for url in urls {
        command.args(["--webhook-url", url]);
    }
    command.output().unwrap()
}

#[test]
fn ordered_events_arrive_in_order_though_the_customer_fails() {
    let customer = Server::customer(&["--fail-rate", "0.3"]);
    let server = Server::publish_locally(&["--ordered", "--retry-delays", "5", "--retry-jitter", "1"]);
    assert!(send(&server, &[&customer.url("/webhook")], 60).status.success());
    let numbers: Vec<u64> =
        customer.events(60).iter().map(|event| event["data"]["n"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=60).collect::<Vec<_>>());
    assert!(server.metric("whk_retries_total") > 0);
}

/// Asserts that an attempt at a misbehaving customer is a failure, logged with `cause`, and that a second customer gets its
/// event meanwhile.
fn assert_counted_as_failure(
    cause: &str,
    misbehave: impl Fn(&mut std::net::TcpStream) + Send + Sync + 'static,
) {
    let good = Server::customer(&[]);
    let bad = RawCustomer::start(move |stream, _| misbehave(stream));
    let server = Server::publish_locally(&["--max-retries", "1", "--delivery-timeout", "1s"]);
    let id = publish_to(&server, &bad.url(), "{}");
    publish_to(&server, &good.url("/webhook"), "{}");
    good.events(1);
    server.wait_for_metric("whk_jobs_dead_total", 1);
    server.wait_for_metric("whk_jobs_delivered_total", 1);
    assert_eq!(server.metric("whk_attempts_total"), 3, "two at the bad customer, one at the good");
    server.wait_for_log("dead-lettered");
    let log = server.log();
    let dead = log.lines().find(|line| line.contains("dead-lettered")).unwrap();
    assert!(dead.contains(&id) && dead.contains(cause), "{dead}");
}

#[test]
fn a_response_that_stalls_is_a_failure() {
    assert_counted_as_failure("time limit", |stream| {
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345"));
        thread::sleep(PATIENCE);
    });
}

#[test]
fn no_response_is_a_failure() {
    assert_counted_as_failure("time limit", |_| thread::sleep(PATIENCE));
}

#[test]
fn a_closed_connection_is_a_failure() {
    assert_counted_as_failure("retries exhausted", |_| {});
}

#[test]
fn a_connection_closed_in_the_middle_of_the_response_is_a_failure() {
    assert_counted_as_failure("broke off", |stream| {
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345"));
    });
}

#[test]
fn an_endless_response_is_a_failure() {
    assert_counted_as_failure("65536 bytes", |stream| {
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"));
        while stream.write_all(b"3e8\r\n").and_then(|()| stream.write_all(&[b'x'; 1_000])).is_ok() {
            if stream.write_all(b"\r\n").is_err() {
                break;
            }
        }
    });
}

#[test]
fn a_response_of_a_gibibyte_is_a_failure_and_is_not_read() {
    let (sender, written) = std::sync::mpsc::channel();
    assert_counted_as_failure("65536 bytes", move |stream| {
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n"));
        let mebibyte = vec![b'x'; 1 << 20];
        let _ = sender.send((0..1_024).take_while(|_| stream.write_all(&mebibyte).is_ok()).count());
    });
    let written = written.recv_timeout(PATIENCE).unwrap();
    assert!(written < 64, "{written} MiB of the response were read");
}

#[test]
fn a_reset_connection_is_a_failure() {
    assert_counted_as_failure("reset", |stream| {
        // With a linger of zero, a close sends a reset.
        socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO)).unwrap();
    });
}

#[test]
fn a_refusal_counts_although_its_body_never_arrives() {
    let gone = RawCustomer::start(|stream, _| {
        drop(stream.write_all(b"HTTP/1.1 410 Gone\r\ncontent-length: 10\r\n\r\n"));
        thread::sleep(PATIENCE);
    });
    let server = Server::publish_locally(&[]);
    publish_to(&server, &gone.url(), "{}");
    server.wait_for_log("410 Gone");
}

#[test]
fn connections_are_reused() {
    let customer = RawCustomer::start(|stream, _| {
        for _ in 0..10 {
            if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_err() {
                break;
            }
            let mut request = [0; 65_536];
            if stream.read(&mut request).unwrap_or(0) == 0 {
                break;
            }
        }
    });
    let server = Server::publish_locally(&[]);
    for number in 1..=5 {
        publish_to(&server, &customer.url(), "{}");
        server.wait_for_metric("whk_jobs_delivered_total", number);
    }
    customer.request();
    assert!(customer.got_nothing(), "a second connection must not be opened");
}

#[test]
fn a_response_that_is_not_http_is_a_failure() {
    assert_counted_as_failure("retries exhausted", |stream| {
        drop(stream.write_all(b"220 smtp.example.com ESMTP\r\n"))
    });
}

#[test]
fn endless_headers_are_a_failure() {
    assert_counted_as_failure("retries exhausted", |stream| {
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\n"));
        while stream.write_all(b"x-padding: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n").is_ok()
        {
        }
    });
}

#[test]
fn a_redirect_is_a_failure_and_never_followed() {
    let inside = RawCustomer::answering(OK);
    let location = inside.url();
    let redirecting = RawCustomer::start(move |stream, _| {
        drop(write!(
            stream,
            "HTTP/1.1 307 Look\r\nlocation: {location}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        ));
    });
    let server = Server::publish_locally(&["--max-retries", "2"]);
    publish_to(&server, &redirecting.url(), "{}");
    server.wait_for_metric("whk_jobs_dead_total", 1);
    assert_eq!(server.metric("whk_attempts_total"), 3);
    assert!(inside.got_nothing());
    server.wait_for_log("answered 307");
}

#[test]
fn a_410_is_dead_lettered_without_a_retry() {
    let gone = RawCustomer::answering("HTTP/1.1 410 Gone\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    let server = Server::publish_locally(&[]);
    publish_to(&server, &gone.url(), "{}");
    server.wait_for_metric("whk_jobs_dead_total", 1);
    assert_eq!(server.metric("whk_attempts_total"), 1);
    server.wait_for_log("410 Gone");
}

#[test]
fn retry_after_is_obeyed_in_seconds_and_as_a_date() {
    assert_waits_for(|| "2".into());
    // A date has whole seconds, so up to one of the three is lost.
    assert_waits_for(|| httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(3)));
}

fn assert_waits_for(retry_after: fn() -> String) {
    let busy = RawCustomer::start(move |stream, number| {
        let refusal = format!("503 Busy\r\nretry-after: {}", retry_after());
        let answer = if number == 0 { refusal.as_str() } else { "200 OK" };
        drop(write!(stream, "HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"));
    });
    let server = Server::publish_locally(&[]);
    publish_to(&server, &busy.url(), "{}");
    busy.request();
    let first = Instant::now();
    busy.request();
    assert!(first.elapsed() >= Duration::from_millis(1_500), "the retry came too early");
}

#[test]
fn hanging_endpoints_do_not_delay_a_healthy_one() {
    let healthy = Server::customer(&[]);
    let hanging = RawCustomer::start(|_, _| thread::sleep(PATIENCE * 2));
    let server = Server::publish_locally(&["--in-flight", "16"]);
    publish_to(&server, &healthy.url("/webhook"), "{}");
    healthy.events(1);
    for endpoint in 0..30 {
        for _ in 0..4 {
            publish_to(&server, &format!("{}?{endpoint}", hanging.url()), "{}");
        }
    }
    for _ in 0..20 {
        publish_to(&server, &healthy.url("/webhook"), "{}");
    }
    healthy.events(20);
    server.wait_for_metric("whk_jobs_delivered_total", 21);
    assert_eq!(server.metric("whk_retries_total"), 0, "no attempt at a hanging endpoint may have ended yet");
}

#[test]
fn a_customer_that_was_killed_gets_every_event_after_its_restart() {
    let customer = Server::customer(&["--delay", "5ms"]);
    let server = Server::publish_locally(&["--max-retries", "1000"]);
    let url = customer.url("/webhook");
    let port = customer.port.to_string();
    let publish_50 = || (0..50).map(|_| publish_to(&server, &url, "{}")).collect::<Vec<_>>();
    let mut published = publish_50();
    let mut received = customer.events(10);
    received.extend(customer.kill());
    published.extend(publish_50());
    let again = Server::customer(&["--port", &port]);
    server.wait_for_metric("whk_jobs_delivered_total", 100);
    received.extend(again.kill());
    let received: HashSet<String> =
        received.iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(received, published.into_iter().collect());
}

#[test]
fn every_envelope_and_key_format_works_end_to_end() {
    for (key, envelope) in [
        ("keys/public_key.pem", "jwe"),
        ("keys/public_key.jwk.json", "jwe"),
        ("keys/public_key.scripts.pem", "rsa-oaep"),
    ] {
        let customer = Server::customer(&[]);
        let key = fixture(key);
        let server =
            Server::publish_locally(&["--public-key", key.to_str().unwrap(), "--envelope", envelope]);
        let id = publish_to(&server, &customer.url("/webhook"), r#"{"n":18446744073709551615,"x":1.10}"#);
        let line = customer.line();
        assert!(
            line.contains(r#""data":{"n":18446744073709551615,"x":1.10}"#),
            "the payload must be unchanged: {line}"
        );
        assert!(line.contains(&id), "{line}");
    }
}

#[test]
fn a_payload_with_line_breaks_is_printed_on_one_line() {
    let customer = Server::customer(&[]);
    let server = Server::publish_locally(&["--key-reuse", "1"]);
    publish(
        &server,
        &format!("{{\"url\":\"{}\",\"payload\":{{\r\n\"a\":\n\"b\\n\"}}}}", customer.url("/webhook")),
    );
    assert_eq!(customer.events(1)[0]["data"]["a"], "b\n");
}

#[test]
fn an_event_type_of_any_characters_arrives() {
    let customer = Server::customer(&[]);
    let server = Server::publish_locally(&[]);
    let body = format!(r#"{{"url":"{}","type":"a\"b\\é/","payload":1}}"#, customer.url("/webhook"));
    assert_eq!(publish(&server, &body).status, 202);
    assert_eq!(customer.events(1)[0]["type"], "a\"b\\é/");
}

#[test]
fn customer_help_names_its_flags() {
    let help = String::from_utf8(run(&["customer", "--help"]).stdout).unwrap();
    assert!(help.contains("--forward") && help.contains("--fail-rate"));
}
