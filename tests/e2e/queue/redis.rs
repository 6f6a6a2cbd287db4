//! `whk publish-server --queue redis`, with the Redis that all tests share.

use std::collections::HashSet;
use std::net::TcpListener;

use crate::support::services::named_redis_url;
use crate::support::{OK, RawCustomer, Server, fixture, publish_to, run, stderr};

/// Returns the file of the secret key, which servers with the same registry share.
fn secret_key() -> String {
    fixture("registry/v1/secret.key").to_str().unwrap().to_owned()
}

fn prefix() -> String {
    format!("e2e-{}", std::process::id())
}

#[test]
fn another_server_delivers_the_jobs_of_a_killed_server() {
    let url = named_redis_url();
    let prefix = format!("{}-killed", prefix());
    let key = secret_key();
    let flags =
        ["--queue", "redis", "--redis-url", &url, "--redis-prefix", &prefix, "--secret-key-file", &key];
    let server = Server::publish_locally(&flags);
    // The customer starts later, on this port.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let ids: HashSet<_> =
        (0..20).map(|_| publish_to(&server, &format!("http://127.0.0.1:{port}/webhook"), "{}")).collect();
    server.kill();
    let customer = Server::customer(&["--port", &port.to_string()]);
    // Leases of the killed server expire after its delivery timeout and half a minute; retries don't wait for that.
    let other = Server::publish_locally(&flags);
    let delivered: HashSet<_> =
        customer.events(20).iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(delivered.len(), ids.len());
    other.wait_for_metric("whk_jobs_delivered_total", 20);
}

#[test]
fn two_servers_share_the_jobs_that_one_accepted() {
    let url = named_redis_url();
    let prefix = format!("{}-shared", prefix());
    let key = secret_key();
    let flags =
        ["--queue", "redis", "--redis-url", &url, "--redis-prefix", &prefix, "--secret-key-file", &key];
    let (one, _other) = (Server::publish_locally(&flags), Server::publish_locally(&flags));
    let customer = RawCustomer::answering(OK);
    let ids: HashSet<_> = (0..20).map(|_| publish_to(&one, &customer.url(), "{}")).collect();
    let delivered: HashSet<_> = (0..20).map(|_| customer.request().headers["webhook-id"].clone()).collect();
    assert_eq!(delivered, ids);
    assert!(customer.got_nothing(), "each event must be delivered once");
}

#[test]
fn an_unreachable_redis_is_reported_without_its_password() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let url = format!("redis://:s3cret@127.0.0.1:{port}");
    let data_dir = folder.path().to_str().unwrap();
    let flags =
        ["publish-server", "--port", "0", "--data-dir", data_dir, "--queue", "redis", "--redis-url", &url];
    let output = run(&flags);
    assert_eq!(output.status.code(), Some(69), "{}", stderr(&output));
    let message = stderr(&output);
    assert!(message.contains("--redis-url") && !message.contains("s3cret"), "{message}");
    let output = run(&[&flags[..8], &["http://:s3cret@h"]].concat());
    assert_eq!(output.status.code(), Some(64), "{}", stderr(&output));
    assert!(!stderr(&output).contains("s3cret"));
}
