//! `whk dlq`: dead letters on the command line.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::api::UNKNOWN_MESSAGE;
use crate::support::dead_letters::{failing_until_set, ids, listed, make_dead_letters};
use crate::support::{FAILS, OK, RawCustomer, Server, stderr, wait_until, whk};

/// Returns the command `whk` with the server's address and the provider's key.
fn command(server: &Server, arguments: &[&str]) -> Command {
    let mut command = whk(arguments);
    command.args(["--server", &server.url(""), "--data-dir"]).arg(server.data_dir());
    command
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Runs the command, which must succeed, and returns its text output.
fn text(server: &Server, arguments: &[&str]) -> String {
    let output = command(server, arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    out(&output)
}

/// Runs the command, which must succeed, and returns its JSON output.
fn json_of(server: &Server, arguments: &[&str]) -> Value {
    serde_json::from_str(&text(server, &[arguments, &["--output", "json"]].concat())).unwrap()
}

/// Runs the command and returns its exit code and stderr.
fn failed(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap();
    (output.status.code().unwrap(), stderr(&output))
}

#[test]
fn dlq_prints_text_and_json() {
    let (customer, is_up) = failing_until_set();
    let server = Server::tenants(&["--max-retries", "0"]);
    let api = server.api();
    let acme = api.subscribe("Acme & Söhne", &customer.url(), &["*"]);
    let published = make_dead_letters(&acme, 3);
    let id = published.first().unwrap().as_str();

    let listed = text(&server, &["dlq", "list", "--tenant", "Acme & Söhne", "--since", "2h"]);
    for part in ["message id", "dead since", id, &acme.endpoint, "exhausted", "answered 500"] {
        assert!(listed.contains(part), "{part}: {listed}");
    }
    assert_eq!(listed.lines().count(), 4);
    let some = text(&server, &["dlq", "list", "--limit", "2"]);
    assert!(some.contains("more than these 2"), "{some}");
    let some = json_of(&server, &["dlq", "list", "--limit", "2"]);
    assert_eq!((some["data"].as_array().unwrap().len(), some["next_cursor"].is_string()), (2, true));
    let all = json_of(&server, &["dlq", "list", "--cause", "exhausted,gone"]);
    assert_eq!(
        (ids(all["data"].as_array().unwrap()), &all["next_cursor"]),
        (published.clone(), &Value::Null)
    );
    assert!(text(&server, &["dlq", "list", "--fault", "system"]).contains("no dead letters match"));

    let shown = text(&server, &["dlq", "show", id]);
    for part in
        [id, &acme.id, "exhausted, the customer's fault", "attempt at", "answered 500", "encrypted bytes"]
    {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(json_of(&server, &["dlq", "show", id])["body"]["ciphertext"].is_string());
    assert!(text(&server, &["message", id]).contains("dead: exhausted"));

    // A customer sees its own dead letters with its own key.
    let of_customer = |arguments: &[&str]| {
        let mut command = command(&server, arguments);
        command.env("WHK_API_KEY", &acme.api.key);
        command
    };
    let own = of_customer(&["message", id, "--tenant", "me", "--output", "json"]).output().unwrap();
    assert_eq!(serde_json::from_str::<Value>(&out(&own)).unwrap()["state"], "dead");
    assert!(out(&of_customer(&["dlq", "list", "--tenant", "me"]).output().unwrap()).contains(id));
    assert_eq!(failed(&mut of_customer(&["dlq", "list"])).0, 77);
    assert_eq!(failed(&mut of_customer(&["message", id])).0, 77);

    let counted = json_of(&server, &["dlq", "replay", "--all", "--dry-run"]);
    assert_eq!(counted, json!({"matched": 3, "replayed": 0}));
    assert!(text(&server, &["dlq", "replay", id, "--dry-run"]).contains("1 dead letter would be replayed"));

    // A job that is dead-lettered again isn't replayed again.
    (0..3).for_each(|_| drop(customer.request()));
    assert_eq!(json_of(&server, &["dlq", "replay", "--all"]), json!({"matched": 3, "replayed": 3}));
    server.wait_for_metric("whk_jobs_dead_total", 6);
    (0..3).for_each(|_| drop(customer.request()));
    assert!(customer.got_nothing());
    wait_until("the dead letters of the replayed jobs", || self::listed(&api, "/dead-letters").len() == 3);

    is_up.store(true, Ordering::SeqCst);
    let start = Instant::now();
    let replayed = text(&server, &["dlq", "replay", "--tenant", "Acme & Söhne", "--rate", "5"]);
    assert!(
        start.elapsed() >= Duration::from_millis(400),
        "at 5 a second the third is due 0.4 s after the first"
    );
    assert!(replayed.contains("replayed 3 of 3"), "{replayed}");
    let received: BTreeSet<String> =
        (0..3).map(|_| customer.request().headers["webhook-id"].clone()).collect();
    assert_eq!(received, published);
    wait_until("the delivery", || text(&server, &["message", id]).contains("delivered"));
    assert_eq!(json_of(&server, &["dlq", "replay", "--all"]), json!({"matched": 0, "replayed": 0}));
}

/// Behaviour of the customer, which the test switches.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Fails,
    Holds,
    Takes,
}

#[test]
fn a_replay_waits_while_the_queue_is_full() {
    let mood = Arc::new((Mutex::new(Mood::Fails), Condvar::new()));
    let set = |to| {
        *mood.0.lock().unwrap() = to;
        mood.1.notify_all();
    };
    let customer = {
        let mood = Arc::clone(&mood);
        RawCustomer::start(move |stream, _| {
            let now = mood.1.wait_while(mood.0.lock().unwrap(), |now| *now == Mood::Holds).unwrap();
            let answer = if *now == Mood::Takes { OK } else { FAILS };
            drop(stream.write_all(answer.as_bytes()));
        })
    };
    let server = Server::tenants(&["--max-retries", "0", "--max-queue-size", "2"]);
    let acme = server.api().subscribe("Acme", &customer.url(), &["*"]);
    let published: BTreeSet<String> = (0..5).flat_map(|_| make_dead_letters(&acme, 1)).collect();
    (0..5).for_each(|_| drop(customer.request()));
    set(Mood::Holds);
    let mut replay = command(&server, &["dlq", "replay", "--all"]);
    let replaying = replay.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    server.wait_for_metric("whk_jobs_replayed_total", 2);
    let full = server.api().post("/dead-letters/replay", json!({"all": true}));
    assert_eq!(full.status, 503, "{full:?}");
    set(Mood::Takes);
    let output = replaying.wait_with_output().unwrap();
    assert_eq!((out(&output).as_str(), output.status.code()), ("replayed 5 of 5\n", Some(0)), "{output:?}");
    let received: BTreeSet<String> =
        (0..5).map(|_| customer.request().headers["webhook-id"].clone()).collect();
    assert_eq!(received, published);
}

#[test]
fn purge_asks_for_confirmation() {
    let down = RawCustomer::answering(FAILS);
    let server = Server::tenants(&["--max-retries", "0"]);
    let acme = server.api().subscribe("Acme", &down.url(), &["*"]);
    let published = make_dead_letters(&acme, 4);
    let id = published.first().unwrap().as_str();
    let (code, message) = failed(&mut command(&server, &["dlq", "purge", "--all"]));
    assert_eq!(
        (code, message.contains("Delete 4 dead letters") && message.contains("--yes")),
        (64, true),
        "{message}"
    );
    assert_eq!(json_of(&server, &["dlq", "purge", "--all", "--dry-run"]), json!({"matched": 4, "purged": 0}));
    assert_eq!(text(&server, &["dlq", "purge", id, "--yes"]), "purged 1 of 1\n");
    let limited = json_of(&server, &["dlq", "purge", "--endpoint", &acme.endpoint, "--limit", "2", "--yes"]);
    assert_eq!(limited, json!({"matched": 2, "purged": 2}));
    assert_eq!(
        json_of(&server, &["dlq", "purge", "--until", "2h", "--yes"]),
        json!({"matched": 0, "purged": 0})
    );
    assert_eq!(listed(&acme.api, "/tenants/me/dead-letters").len(), 1);
}

#[test]
fn each_failure_of_dlq_has_its_exit_code() {
    let (customer, is_up) = failing_until_set();
    let server = Server::tenants(&["--max-retries", "0"]);
    let acme = server.api().subscribe("Acme", &customer.url(), &["*"]);
    let published: Vec<String> = make_dead_letters(&acme, 3).into_iter().collect();
    for (arguments, expected, part) in [
        (vec!["dlq", "replay"], 64, "no dead letters are selected"),
        (vec!["dlq", "purge", "--tenant", "me"], 64, "--all"),
        (vec!["dlq", "replay", "--all", "--rate", "0"], 64, "--rate"),
        (vec!["dlq", "list", "--cause", "none"], 64, "--cause"),
        (vec!["dlq", "list", "--since", "yesterday"], 64, "--since"),
        (vec!["dlq", "show", "secret"], 64, "msg_"),
        (vec!["dlq", "show", UNKNOWN_MESSAGE], 1, "no such dead letter"),
        (vec!["dlq", "list", "--tenant", "Nobody"], 1, "no such tenant"),
        (vec!["message", UNKNOWN_MESSAGE], 1, "no such message"),
    ] {
        let (code, message) = failed(&mut command(&server, &arguments));
        assert_eq!((code, message.contains(part)), (expected, true), "{arguments:?}: {message}");
    }
    let nowhere = ["--server", "http://127.0.0.1:9"];
    for arguments in [["dlq", "list"].as_slice(), &["dlq", "replay", "--all"], &["message", UNKNOWN_MESSAGE]]
    {
        let mut unreachable = whk(&[arguments, &nowhere].concat());
        assert_eq!(failed(unreachable.env("WHK_API_KEY", "k")).0, 69, "{arguments:?}");
        let mut unknown_key = command(&server, arguments);
        assert_eq!(failed(unknown_key.env("WHK_API_KEY", "k")).0, 77, "{arguments:?}");
    }
    // Where one id is unknown the exit code is 1, and the others are replayed.
    is_up.store(true, Ordering::SeqCst);
    let output = command(&server, &["dlq", "replay", UNKNOWN_MESSAGE, &published[0]]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(UNKNOWN_MESSAGE) && out(&output).contains("1 of 1"), "{output:?}");
    server.wait_for_metric("whk_jobs_delivered_total", 1);

    // After a signal the current replay finishes, and the rest is counted.
    let mut slow = command(&server, &["dlq", "replay", "--all", "--rate", "0.001"]);
    let running = slow.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    server.wait_for_metric("whk_jobs_replayed_total", 2);
    let kill = Command::new("kill").args(["-INT", &running.id().to_string()]).status();
    assert!(kill.unwrap().success());
    let output = running.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert!(stderr(&output).contains("1 of 2 weren't replayed"), "{output:?}");
}
