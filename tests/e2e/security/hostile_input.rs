//! Hostile publishers: private addresses, slow clients, large bodies, and secrets that must not be logged.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use crate::support::{RawCustomer, Server, exchange, publish, publish_to, read_answer};

const MIB: usize = 1 << 20;

#[test]
fn private_and_metadata_addresses_are_refused_in_every_notation() {
    let server = Server::publish(&["--allow-net", "192.0.2.0/24"]);
    for host in [
        "127.0.0.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "10.0.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "0xa9fea9fe",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "0.0.0.0",
    ] {
        let answer = publish(&server, &format!(r#"{{"url":"http://{host}/","payload":{{}}}}"#));
        assert_eq!(answer.status, 400, "{host}");
        assert!(answer.problem().contains("--allow-net"), "{host}: {}", answer.problem());
    }
    let strict = Server::publish(&[]);
    let answer = publish(&strict, r#"{"url":"http://example.com/","payload":{}}"#);
    assert!(answer.problem().contains("https"), "{}", answer.problem());
}

#[test]
fn a_name_that_resolves_to_loopback_is_dead_lettered_without_a_connection() {
    let customer = RawCustomer::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let server = Server::publish(&["--allow-net", "192.0.2.0/24"]);
    publish_to(&server, &format!("http://localhost:{}/webhook", customer.port), "{}");
    publish_to(&server, &format!("https://localhost:{}/webhook", customer.port), "{}");
    server.wait_for_metric("whk_jobs_dead_total", 2);
    assert!(customer.got_nothing());
    server.wait_for_log("isn't a public address");
    assert!(server.log().contains("isn't a public address"), "{}", server.log());
}

#[test]
fn a_slow_body_times_out_and_delays_no_other_request() {
    let server = Server::publish_locally(&["--request-timeout", "2s"]);
    let mut slow = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    let head = "POST /publish HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n";
    slow.write_all(head.as_bytes()).unwrap();
    let dribble = std::thread::spawn(move || {
        for _ in 0..8 {
            if slow.write_all(b" ").is_err() {
                break;
            }
            std::thread::sleep(Duration::from_secs(1));
        }
        slow.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        read_answer(&mut slow)
    });
    let quick = publish(&server, r#"{"url":"http://127.0.0.1:1/","payload":{}}"#);
    assert_eq!(quick.status, 202);
    let answer = dribble.join().unwrap();
    assert_eq!(answer.status, 408);
    assert!(answer.problem().contains("2 s"), "{}", answer.problem());
}

#[test]
fn silent_connections_are_closed_to_make_room_for_others() {
    let server = Server::publish_locally(&["--max-connections", "2", "--idle-timeout", "500ms"]);
    let silent: Vec<_> = [b"".as_slice(), b"PRI * HT", b"POST /publish HTTP/1.1\r\nhost: "]
        .into_iter()
        .map(|beginning| {
            let mut stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
            stream.write_all(beginning).unwrap();
            stream
        })
        .collect();
    let mut late = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    // Without the flag hyper's own limit of 30 s would apply, which is too late.
    late.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    late.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    late.read_exact(&mut [0; 15]).expect("a turn");
    drop(silent);
}

#[test]
fn memory_for_bodies_that_are_being_received_is_bounded() {
    // The smallest budget is 256 MiB: three bodies of 100 MiB are one too many.
    let size = (100 * MIB).to_string();
    let server = Server::publish_locally(&["--max-payload-size", &size]);
    let begun: Vec<_> = (0..2)
        .map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
            let head =
                "POST /publish HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: ";
            stream.write_all(format!("{head}{size}\r\nexpect: 100-continue\r\n\r\n").as_bytes()).unwrap();
            // The server sends 100 Continue once it has reserved memory for the body.
            stream.read_exact(&mut [0; 25]).unwrap();
            stream
        })
        .collect();
    let head = "POST /publish HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\nconnection: close\r\n";
    let refused = exchange(server.port, &format!("{head}content-length: {size}\r\n\r\n"), b"");
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!(publish(&server, r#"{"url":"http://127.0.0.1:1/","payload":{}}"#).status, 202);
    drop(begun);
}

#[test]
fn no_payload_or_token_is_logged_or_returned() {
    let server = Server::publish_locally(&["--log", "trace", "--max-retries", "1"]);
    let secret = "tiger-in-the-tank";
    publish(&server, &format!(r#"{{"url":"http://127.0.0.1:1/{secret}?t={secret}","payload":"{secret}"}}"#));
    server.wait_for_metric("whk_jobs_dead_total", 1);
    for body in [format!(r#"{{"url":"{secret}","payload":1}}"#), format!(r#"{{"url":7,"x":"{secret}"#)] {
        let answer = publish(&server, &body);
        assert_eq!(answer.status, 400);
        assert!(!answer.body.contains(secret), "{}", answer.body);
    }
    server.wait_for_log("dead-lettered");
    let telling: Vec<String> =
        server.log().lines().filter(|l| l.contains(secret)).map(str::to_owned).collect();
    assert!(telling.is_empty(), "{telling:?}");
}
