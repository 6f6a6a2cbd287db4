//! Keys, secrets and endpoints that change while jobs are queued.

use std::collections::HashSet;
use std::thread;

use serde_json::json;

use crate::support::customer::{opens_with, verifies_with};
use crate::support::{FAILS, OK, RawCustomer, Request, Server, fixture};

#[test]
fn a_public_key_rotates_while_a_thousand_jobs_are_queued() {
    let server = Server::tenants(&["--max-retries", "1000"]);
    let api = server.api();
    let customer = Server::customer(&[]);
    let (port, url) = (customer.port.to_string(), customer.url("/webhook"));
    drop(customer);
    let tenant = api.subscribe("Acme", &url, &["*"]);
    let mut published: Vec<String> = (0..1_000).flat_map(|n| api.published("x", json!({"n": n}))).collect();
    let new_key = std::fs::read_to_string(fixture("keys/other_public_key.pem")).unwrap();
    tenant.api.make("/tenants/me/public-keys", json!({"public_key": new_key}));
    let states: Vec<_> = tenant.api.get("/tenants/me/public-keys").json()["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| key["state"].clone())
        .collect();
    assert_eq!(states, ["retiring", "active"]);
    published.extend((0..20).flat_map(|n| api.published("x", json!({"n": n}))));

    let both = fixture("keys/other_private_key.pem");
    let customer = Server::customer(&["--port", &port, "--private-key", both.to_str().unwrap()]);
    let received: HashSet<String> = customer
        .events(published.len())
        .iter()
        .map(|event| event["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(received, published.into_iter().collect());
    server.wait_for_metric("whk_jobs_delivered_total", 1_020);
}

#[test]
fn after_a_rotation_events_are_sealed_with_the_new_key_only() {
    let customer = RawCustomer::answering(OK);
    let server = Server::tenants(&[]);
    let tenant = server.api().subscribe("Acme", &customer.url(), &["*"]);
    let new_key = std::fs::read_to_string(fixture("keys/other_public_key.pem")).unwrap();
    tenant.api.published("x", json!(1));
    assert!(opens_with("keys/private_key.pem", &customer.request()).is_some());
    tenant.api.make("/tenants/me/public-keys", json!({"public_key": new_key}));
    tenant.api.published("x", json!(1));
    let request = customer.request();
    assert!(opens_with("keys/private_key.pem", &request).is_none());
    assert!(opens_with("keys/other_private_key.pem", &request).is_some());
}

#[test]
fn both_secrets_verify_while_a_secret_rotates_under_load() {
    let customer = RawCustomer::answering(OK);
    let server = Server::tenants(&["--tenant-publish-rate", "100000"]);
    let api = server.api();
    let tenant = api.subscribe("Acme", &customer.url(), &["*"]);
    let old = std::fs::read_to_string(fixture("keys/signing_secret.txt")).unwrap();
    let (halfway, reached) = std::sync::mpsc::channel();
    let new = thread::scope(|scope| {
        let load = scope.spawn(|| {
            for n in 0..300 {
                api.published("x", json!({"n": n}));
                if n == 100 {
                    halfway.send(()).unwrap();
                }
            }
        });
        reached.recv().unwrap();
        let path = format!("{}/rotate-secret", tenant.endpoint_path());
        let rotated = tenant.api.make(&path, json!({"overlap_seconds": 3600}));
        assert_eq!(rotated["live_secrets"], 2);
        load.join().unwrap();
        rotated["secret"].as_str().unwrap().to_owned()
    });
    let requests: Vec<Request> = (0..300).map(|_| customer.request()).collect();
    assert!(
        requests.iter().all(|request| verifies_with(&old, request)),
        "the old secret verifies all deliveries"
    );
    let signatures = |request: &&Request| request.headers["webhook-signature"].split(' ').count();
    let with_both = requests.iter().filter(|request| signatures(request) == 2).count();
    assert!((1..300).contains(&with_both), "the rotation must happen under load: {with_both}");
    api.published("x", json!(1));
    let after = customer.request();
    assert!(verifies_with(&old, &after) && verifies_with(&new, &after));
    assert_eq!(after.headers["webhook-signature"].split(' ').count(), 2);
    // Without an overlap the old secrets end at once.
    let path = format!("{}/rotate-secret", tenant.endpoint_path());
    let newest = tenant.api.make(&path, json!({"overlap_seconds": 0}))["secret"].as_str().unwrap().to_owned();
    api.published("x", json!(1));
    let last = customer.request();
    assert!(verifies_with(&newest, &last) && !verifies_with(&old, &last) && !verifies_with(&new, &last));
}

#[test]
fn disabling_an_endpoint_stops_its_deliveries_and_no_others() {
    let (failing, healthy) = (RawCustomer::answering(FAILS), RawCustomer::answering(OK));
    let server = Server::tenants(&["--retry-delays", "3600000"]);
    let api = server.api();
    let tenant = api.subscribe("Acme", &failing.url(), &["*"]);
    api.subscribe("Other", &healthy.url(), &["*"]);
    (0..10).for_each(|n| drop(api.published("x", json!(n))));
    server.wait_for_metric("whk_jobs_delivered_total", 10);
    let disabled = tenant.api.patch(&tenant.endpoint_path(), json!({"enabled": false}));
    assert_eq!(disabled.json()["disabled_reason"], "by_tenant");
    server.wait_for_metric("whk_jobs_dead_total", 10);
    server.wait_for_log("the endpoint is disabled");
    assert_eq!(api.published("x", json!(1)).len(), 1, "only the other endpoint");
    let test = tenant.api.post(&format!("{}/test", tenant.endpoint_path()), json!(null));
    assert_eq!(test.status, 409);
    let enabled = tenant.api.patch(&tenant.endpoint_path(), json!({"enabled": true}));
    assert_eq!(enabled.json()["disabled_reason"], json!(null));
    assert_eq!(api.published("x", json!(1)).len(), 2);
}

#[test]
fn queued_jobs_go_to_the_new_url_of_an_endpoint_at_once() {
    let (failing, moved) = (RawCustomer::answering(FAILS), RawCustomer::answering(OK));
    let server = Server::tenants(&["--retry-delays", "3600000"]);
    let tenant = server.api().subscribe("Acme", &failing.url(), &["*"]);
    let ids: HashSet<String> = (0..10).flat_map(|n| tenant.api.published("x", json!(n))).collect();
    server.wait_for_metric("whk_retries_total", 5);
    assert_eq!(tenant.api.patch(&tenant.endpoint_path(), json!({"url": moved.url()})).status, 200);
    let received: HashSet<String> = (0..10).map(|_| moved.request().headers["webhook-id"].clone()).collect();
    assert_eq!(received, ids);
}

#[test]
fn an_endpoint_that_answers_410_is_disabled_with_the_reason() {
    let gone = RawCustomer::answering("HTTP/1.1 410 Gone\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    let server = Server::tenants(&[]);
    let tenant = server.api().subscribe("Acme", &gone.url(), &["*"]);
    tenant.api.published("x", json!(1));
    server.wait_for_metric("whk_jobs_dead_total", 1);
    let endpoint = tenant.api.get(&tenant.endpoint_path()).json();
    assert_eq!((&endpoint["enabled"], &endpoint["disabled_reason"]), (&json!(false), &json!("gone")));
    assert!(tenant.api.published("x", json!(1)).is_empty());
}

#[test]
fn a_410_from_an_old_url_does_not_disable_the_new_one() {
    use std::io::Write as _;
    let (asked, is_asked) = std::sync::mpsc::channel();
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let old = RawCustomer::start(move |stream, _| {
        asked.send(()).unwrap();
        wait.lock().unwrap().recv().unwrap();
        drop(stream.write_all(b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"));
    });
    let new = RawCustomer::answering(OK);
    let server = Server::tenants(&[]);
    let tenant = server.api().subscribe("Acme", &old.url(), &["*"]);
    let ids = tenant.api.published("x", json!(1));
    is_asked.recv().unwrap();
    assert_eq!(tenant.api.patch(&tenant.endpoint_path(), json!({"url": new.url()})).status, 200);
    go_on.send(()).unwrap();
    assert_eq!(new.request().headers["webhook-id"], ids[0]);
    assert_eq!(tenant.api.get(&tenant.endpoint_path()).json()["enabled"], true);
}

#[test]
fn a_deleted_tenants_jobs_are_dropped_and_counted() {
    let (failing, healthy) = (RawCustomer::answering(FAILS), RawCustomer::answering(OK));
    let server = Server::tenants(&["--retry-delays", "3600000"]);
    let api = server.api();
    let tenant = api.subscribe("Acme", &failing.url(), &["*"]);
    let other = api.subscribe("Other", &healthy.url(), &["*"]);
    (0..25).for_each(|n| drop(tenant.api.published("x", json!(n))));
    server.wait_for_metric("whk_retries_total", 5);
    let deleted = api.delete(&format!("/tenants/{}", tenant.id));
    assert_eq!((deleted.status, &deleted.json()["dropped_jobs"]), (200, &json!(25)));
    server.wait_for_metric("whk_jobs_dropped_total", 25);
    assert_eq!(server.metric("whk_queue_jobs{state=\"delayed\"}"), 0);
    assert_eq!(tenant.api.get("/tenants/me").status, 401, "the tenant's key is deleted with it");
    assert_eq!(other.api.published("x", json!(1)).len(), 1);
    healthy.request();
}
