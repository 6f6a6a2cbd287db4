use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;

use crate::support::{PATIENCE, RawCustomer, Server, publish_to, whk};

#[test]
fn sigterm_delivers_the_queued_jobs_and_exits_with_0() {
    let customer = Server::customer(&["--delay", "100ms"]);
    let mut server = Server::publish_locally(&["--queue", "memory", "--endpoint-in-flight", "4"]);
    for _ in 0..40 {
        publish_to(&server, &customer.url("/webhook"), "{}");
    }
    server.signal("TERM");
    customer.events(40);
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
    assert!(server.log().contains("no jobs are left"));
}

#[test]
fn idle_and_silent_connections_do_not_delay_the_shutdown() {
    let mut server = Server::publish_locally(&["--drain-timeout", "1h", "--idle-timeout", "1h"]);
    let connect = || TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    let (mut idle, silent) = (connect(), connect());
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    idle.read_exact(&mut [0; 15]).unwrap();
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
    drop((idle, silent));
}

#[test]
fn sigint_stops_a_customer_too() {
    let mut customer = Server::customer(&[]);
    customer.signal("INT");
    assert_eq!(customer.wait().code(), Some(0));
}

#[test]
fn jobs_that_are_left_after_the_drain_are_logged() {
    let hanging = RawCustomer::start(|_, _| thread::sleep(PATIENCE));
    let mut server = Server::publish_locally(&["--queue", "memory", "--drain-timeout", "500ms"]);
    let ids: Vec<String> = (0..3).map(|_| publish_to(&server, &hanging.url(), "{}")).collect();
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(1));
    for id in ids {
        assert!(server.log().contains(&id), "{id} isn't in {}", server.log());
    }
    assert!(server.log().contains("3 jobs"));
}

#[test]
fn a_second_signal_exits_at_once() {
    let hanging = RawCustomer::start(|_, _| thread::sleep(PATIENCE * 2));
    let mut server = Server::publish_locally(&["--drain-timeout", "1h"]);
    publish_to(&server, &hanging.url(), "{}");
    // A job that isn't leased yet stays on disk, and the drain would end before the second signal.
    server.wait_for_metric("whk_queue_jobs{state=\"leased\"}", 1);
    server.signal("TERM");
    server.wait_for_log("a second signal ends the process at once");
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(130));
}

#[test]
fn an_interrupted_send_prints_its_summary() {
    let customer = Server::customer(&[]);
    let server = Server::publish_locally(&[]);
    let mut send = whk(&["send", "--rate", "10", "--count", "100000", "--output", "json", "--server"]);
    send.arg(server.url("")).args(["--webhook-url", &customer.url("/webhook")]);
    let child =
        send.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    customer.events(3);
    let kill = std::process::Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert!(kill.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(summary["accepted"].as_u64().unwrap() >= 3);
}
