//! The server is killed again and again while events are published and a fifth of all attempts fail. Every event that was
//! answered 202 must arrive. Only attempts that a kill interrupted may be repeated. Ordered lanes must stay in order.
//!
//! `scripts/torture.sh --rounds 100` runs it for longer.

use std::cell::RefCell;
use std::thread;
use std::time::Duration;

use crate::support::load::{
    FixedRandom, FlakyCustomer, Publishers, assert_in_order, count_repeated, missing, rounds,
};
use crate::support::{Redis, Server, fixture, own_port, wait_until, whk};

/// Concurrent attempts: the maximum number of repeated deliveries per kill.
const IN_FLIGHT: usize = 16;

fn start(data_dir: &std::path::Path, port: u16, flags: &[&str]) -> Server {
    let mut command = whk(&["publish-server", "--log-format", "json", "--port", &port.to_string()]);
    command.arg("--data-dir").arg(data_dir).arg("--public-key").arg(fixture("keys/public_key.pem"));
    command.args(["--allow-net", "127.0.0.0/8", "--retry-delays", "20", "--max-retries", "1000"]);
    command.args(["--delivery-timeout", "2s", "--in-flight", &IN_FLIGHT.to_string()]).args(flags);
    Server::start(command)
}

/// An interruption at a random moment of each round.
#[derive(Clone, Copy)]
enum Interruption<'a> {
    /// Sends the server this signal and starts it again.
    Server(&'a str),
    /// Kills Redis and starts it again.
    Redis(&'a RefCell<Redis>),
    /// Makes Redis answer no command for ten seconds.
    Pause(&'a Redis),
}

/// Interrupts the server or Redis once per round, then checks the events that arrived.
fn torture(flags: &[&str], ordered: bool, interruption: Interruption<'_>, rounds: usize) {
    let customer = FlakyCustomer::start();
    let folder = tempfile::tempdir().unwrap();
    let flags: Vec<&str> = flags.iter().copied().chain(ordered.then_some("--ordered")).collect();
    let port = own_port();
    let publishers = Publishers::start(customer.port, port);
    let mut random = FixedRandom(0xd1ce);
    let mut server = start(folder.path(), port, &flags);
    for _ in 0..rounds {
        thread::sleep(Duration::from_millis(20 + random.below(300)));
        match interruption {
            Interruption::Server(signal) => {
                server.signal(signal);
                let status = server.wait();
                assert!(signal == "KILL" || status.code() == Some(0), "{status}: {}", server.log());
                server = start(folder.path(), port, &flags);
            }
            Interruption::Redis(redis) => redis.borrow_mut().kill_and_restart(),
            Interruption::Pause(redis) => {
                redis.command("CLIENT PAUSE 10000 ALL");
                redis.command("PING");
            }
        }
    }
    thread::sleep(Duration::from_millis(200));
    let accepted = publishers.stop();
    let total: usize = accepted.values().map(Vec::len).sum();
    assert!(total > rounds, "too few events were published: {total}");
    wait_until("all accepted events", || missing(&accepted, &customer).is_empty());
    wait_until("an empty queue", || server.queued_jobs() == 0);
    assert_eq!(server.metric("whk_queue_jobs{state=\"dead\"}"), 0);
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());

    let taken = customer.taken();
    let twice = count_repeated(&taken);
    let what = match interruption {
        Interruption::Server(signal) => signal,
        Interruption::Redis(_) => "Redis killed",
        Interruption::Pause(_) => "Redis paused",
    };
    eprintln!("{flags:?}: {rounds} times {what}, {total} accepted, none lost, {twice} delivered twice");
    let in_flight = if what == "TERM" { 0 } else { rounds * IN_FLIGHT };
    assert!(twice <= in_flight, "{twice} delivered twice, but at most {in_flight} were in flight");
    if ordered {
        assert_in_order(&accepted, &taken);
    }
}

#[test]
fn disk_loses_nothing_when_the_server_is_killed() {
    torture(&["--queue", "disk"], false, Interruption::Server("KILL"), rounds());
}

#[test]
fn disk_keeps_order_when_the_server_is_killed() {
    torture(&["--queue", "disk"], true, Interruption::Server("KILL"), rounds());
}

#[test]
fn disk_loses_nothing_when_the_server_is_stopped_under_load() {
    torture(&["--queue", "disk"], true, Interruption::Server("TERM"), 5);
}

/// Returns the flags for a queue in that Redis, with a registry of its own.
fn in_redis(redis: &Redis) -> Vec<String> {
    ["--queue", "redis", "--registry", "sqlite", "--redis-url", &redis.url()].map(str::to_owned).into()
}

fn torture_in_redis(ordered: bool, signal: &str, rounds: usize) {
    let redis = Redis::start();
    let flags = in_redis(&redis);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    torture(&flags, ordered, Interruption::Server(signal), rounds);
}

#[test]
fn redis_loses_nothing_when_a_server_is_killed() {
    torture_in_redis(false, "KILL", rounds());
}

#[test]
fn redis_keeps_order_when_a_server_is_killed() {
    torture_in_redis(true, "KILL", rounds());
}

#[test]
fn redis_loses_nothing_when_a_server_is_stopped_under_load() {
    torture_in_redis(true, "TERM", 5);
}

#[test]
fn redis_loses_nothing_when_redis_is_killed_under_load() {
    let redis = Redis::start();
    let flags = in_redis(&redis);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    torture(&flags, true, Interruption::Redis(&RefCell::new(redis)), (rounds() / 4).max(1));
}

#[test]
fn redis_loses_nothing_when_redis_pauses_for_ten_seconds() {
    let redis = Redis::start();
    let flags = in_redis(&redis);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    torture(&flags, true, Interruption::Pause(&redis), 1);
}
