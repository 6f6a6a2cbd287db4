//! The server is killed again and again while events are published and a fifth of all attempts fail: whatever was
//! answered 202 arrives, what arrives twice was under way when it was killed, and ordered lanes stay in order.
//!
//! `scripts/torture.sh --rounds 100` does it for longer.

use std::cell::RefCell;
use std::thread;
use std::time::Duration;

use crate::support::load::{Dice, Flaky, Publishers, assert_in_order, count_repeated, missing, rounds};
use crate::support::{Redis, Server, fixture, own_port, wait_until, whk};

/// Attempts at once, so that no kill can bring more duplicates.
const IN_FLIGHT: usize = 16;

fn start(data_dir: &std::path::Path, port: u16, flags: &[&str]) -> Server {
    let mut command = whk(&["publish-server", "--log-format", "json", "--port", &port.to_string()]);
    command.arg("--data-dir").arg(data_dir).arg("--public-key").arg(fixture("keys/public_key.pem"));
    command.args(["--allow-net", "127.0.0.0/8", "--retry-delays", "20", "--max-retries", "1000"]);
    command.args(["--delivery-timeout", "2s", "--in-flight", &IN_FLIGHT.to_string()]).args(flags);
    Server::start(command)
}

/// What happens at a random moment of each round.
#[derive(Clone, Copy)]
enum Blow<'a> {
    /// The server is sent this signal, and started again.
    Server(&'a str),
    /// Its Redis is killed and started again.
    Redis(&'a RefCell<Redis>),
    /// Its Redis answers nobody for ten seconds.
    Pause(&'a Redis),
}

/// Deals a blow in each of `rounds`, and looks at what arrived in the end.
fn torture(flags: &[&str], ordered: bool, blow: Blow<'_>, rounds: usize) {
    let customer = Flaky::start();
    let folder = tempfile::tempdir().unwrap();
    let flags: Vec<&str> = flags.iter().copied().chain(ordered.then_some("--ordered")).collect();
    let port = own_port();
    let publishers = Publishers::start(customer.port, port);
    let mut dice = Dice(0xd1ce);
    let mut server = start(folder.path(), port, &flags);
    for _ in 0..rounds {
        thread::sleep(Duration::from_millis(20 + dice.roll(300)));
        match blow {
            Blow::Server(signal) => {
                server.signal(signal);
                let status = server.wait();
                assert!(signal == "KILL" || status.code() == Some(0), "{status}: {}", server.log());
                server = start(folder.path(), port, &flags);
            }
            Blow::Redis(redis) => redis.borrow_mut().kill_and_restart(),
            Blow::Pause(redis) => {
                redis.command("CLIENT PAUSE 10000 ALL");
                redis.command("PING");
            }
        }
    }
    thread::sleep(Duration::from_millis(200));
    let accepted = publishers.stop();
    let total: usize = accepted.values().map(Vec::len).sum();
    assert!(total > rounds, "next to nothing was published: {total}");
    wait_until("everything accepted", || missing(&accepted, &customer).is_empty());
    wait_until("an empty queue", || server.queued_jobs() == 0);
    assert_eq!(server.metric("whk_queue_jobs{state=\"dead\"}"), 0);
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());

    let taken = customer.taken();
    let twice = count_repeated(&taken);
    let what = match blow {
        Blow::Server(signal) => signal,
        Blow::Redis(_) => "Redis killed",
        Blow::Pause(_) => "Redis paused",
    };
    eprintln!("{flags:?}: {rounds} times {what}, {total} accepted, none lost, {twice} delivered twice");
    let in_flight = if what == "TERM" { 0 } else { rounds * IN_FLIGHT };
    assert!(twice <= in_flight, "{twice} twice, though {in_flight} were in flight");
    if ordered {
        assert_in_order(&accepted, &taken);
    }
}

#[test]
fn disk_survives_being_killed() {
    torture(&["--queue", "disk"], false, Blow::Server("KILL"), rounds());
}

#[test]
fn disk_survives_being_killed_and_keeps_order() {
    torture(&["--queue", "disk"], true, Blow::Server("KILL"), rounds());
}

#[test]
fn disk_goes_on_after_being_stopped_under_load() {
    torture(&["--queue", "disk"], true, Blow::Server("TERM"), 5);
}

/// Flags for a queue in that Redis, which no other test uses.
fn in_redis(redis: &Redis) -> Vec<String> {
    ["--queue", "redis", "--registry", "sqlite", "--redis-url", &redis.url()].map(str::to_owned).into()
}

fn torture_in_redis(ordered: bool, signal: &str, rounds: usize) {
    let redis = Redis::start();
    let flags = in_redis(&redis);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    torture(&flags, ordered, Blow::Server(signal), rounds);
}

#[test]
fn redis_survives_a_server_being_killed() {
    torture_in_redis(false, "KILL", rounds());
}

#[test]
fn redis_survives_a_server_being_killed_and_keeps_order() {
    torture_in_redis(true, "KILL", rounds());
}

#[test]
fn redis_goes_on_after_its_server_was_stopped_under_load() {
    torture_in_redis(true, "TERM", 5);
}

#[test]
fn a_redis_that_is_killed_under_load_loses_nothing() {
    let redis = Redis::start();
    let flags = in_redis(&redis);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    torture(&flags, true, Blow::Redis(&RefCell::new(redis)), (rounds() / 4).max(1));
}

#[test]
fn a_redis_that_pauses_for_ten_seconds_loses_nothing() {
    let redis = Redis::start();
    let flags = in_redis(&redis);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    torture(&flags, true, Blow::Pause(&redis), 1);
}
