//! `--queue redis` through the binary: against the server in WHK_TEST_REDIS, which `scripts/test.sh` starts.

use std::collections::HashSet;
use std::net::TcpListener;

use crate::support::services::named_redis_url;
use crate::support::{OK, RawCustomer, Server, fixture, publish_to, run, stderr};

/// The one that servers with the same registry share.
fn secret_key() -> String {
    fixture("registry/v1/secret.key").to_str().unwrap().to_owned()
}

fn prefix() -> String {
    format!("e2e-{}", std::process::id())
}

#[test]
fn what_a_killed_server_took_another_delivers() {
    let url = named_redis_url();
    let prefix = format!("{}-killed", prefix());
    let key = secret_key();
    let flags =
        ["--queue", "redis", "--redis-url", &url, "--redis-prefix", &prefix, "--secret-key-file", &key];
    let server = Server::publish_locally(&flags);
    // Nobody is there yet.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let ids: HashSet<_> =
        (0..20).map(|_| publish_to(&server, &format!("http://127.0.0.1:{port}/webhook"), "{}")).collect();
    server.kill();
    let customer = Server::customer(&["--port", &port.to_string()]);
    // Leases of the killed one run out after its delivery timeout and half a minute; retries don't wait for that.
    let other = Server::publish_locally(&flags);
    let delivered: HashSet<_> =
        customer.events(20).iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(delivered.len(), ids.len());
    other.wait_for_metric("whk_jobs_delivered_total", 20);
}

#[test]
fn two_servers_deliver_what_one_of_them_took() {
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
    assert!(customer.got_nothing(), "each once");
}

#[test]
fn a_redis_that_is_not_there_is_told_without_its_password() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let url = format!("redis://:s3cret@127.0.0.1:{port}");
    let data_dir = folder.path().to_str().unwrap();
    let flags =
        ["publish-server", "--port", "0", "--data-dir", data_dir, "--queue", "redis", "--redis-url", &url];
    let output = run(&flags);
    assert_eq!(output.status.code(), Some(69), "{}", stderr(&output));
    let told = stderr(&output);
    assert!(told.contains("--redis-url") && !told.contains("s3cret"), "{told}");
    let output = run(&[&flags[..8], &["http://:s3cret@h"]].concat());
    assert_eq!(output.status.code(), Some(64), "{}", stderr(&output));
    assert!(!stderr(&output).contains("s3cret"));
}
