//! Publishing to tenants: each subscriber gets the event once, sealed with its own key.

use std::collections::{BTreeSet, HashSet};
use std::thread;

use serde_json::json;

use crate::support::customer::{opens_with, verifies_with};
use crate::support::{Answer, FAILS, NOWHERE, OK, RawCustomer, Request, Server, fixture, message_ids, post};

#[test]
fn an_event_reaches_each_subscriber_sealed_with_its_own_key() {
    let (acme, other) = (RawCustomer::answering(OK), RawCustomer::answering(OK));
    let server = Server::tenants(&[]);
    let api = server.api();
    let first = api.subscribe("Acme", &acme.url(), &["invoice.*"]);
    let second = api.subscribe_with("Other", "keys/other_public_key.pem", &other.url(), &["*"]);
    api.subscribe("Neither", NOWHERE, &["user.created", "invoice"]);
    let answer = api.publish("invoice.paid", json!({"amount": 42}));
    let published = answer.json();
    assert_eq!(answer.status, 202);
    let messages = published["messages"].as_array().unwrap();
    let reached: BTreeSet<_> = messages.iter().map(|message| message["endpoint"].as_str().unwrap()).collect();
    assert_eq!(reached, BTreeSet::from([first.endpoint.as_str(), second.endpoint.as_str()]));

    for (customer, key, wrong_key, tenant) in [
        (&acme, "keys/private_key.pem", "keys/other_private_key.pem", &first),
        (&other, "keys/other_private_key.pem", "keys/private_key.pem", &second),
    ] {
        let request = customer.request();
        let message = messages.iter().find(|message| message["tenant"] == *tenant.id).unwrap();
        assert_eq!(request.headers["webhook-id"], message["id"].as_str().unwrap());
        assert!(opens_with(wrong_key, &request).is_none());
        let opened = opens_with(key, &request).unwrap();
        assert_eq!(opened["id"], published["event_id"]);
        assert_eq!((&opened["type"], &opened["data"]), (&json!("invoice.paid"), &json!({"amount": 42})));
        let secret = std::fs::read_to_string(fixture("keys/signing_secret.txt")).unwrap();
        assert!(verifies_with(&secret, &request));
    }
    let nobody = api.publish("nobody.wants.this.but.other", json!(null));
    assert_eq!(message_ids(&nobody).len(), 1, "the one with *");
    let to_one = api.post("/publish", json!({"type": "x", "payload": 1, "tenant": "Acme"}));
    assert_eq!(
        (to_one.status, message_ids(&to_one).len()),
        (202, 0),
        "an event without subscribers is accepted"
    );
    let by_id = api.post("/publish", json!({"type": "invoice.sent", "payload": 1, "tenant": first.id}));
    assert_eq!(message_ids(&by_id).len(), 1);
    let unknown = api.post("/publish", json!({"type": "x", "payload": 1, "tenant": "Nobody"}));
    assert_eq!((unknown.status, unknown.problem().as_str()), (404, "no such tenant"));
    // A misspelt `tenant` must not publish the event to all tenants.
    for member in ["tenat", "target", "Tenant"] {
        let answer = api.post("/publish", json!({"type": "invoice.paid", "payload": 1, member: "Acme"}));
        assert_eq!((answer.status, answer.problem().contains("nothing else")), (400, true), "{member}");
    }
}

#[test]
fn endpoints_of_one_tenant_get_the_same_sealed_body_and_distinct_ids() {
    let customer = RawCustomer::answering(OK);
    let server = Server::tenants(&[]);
    let api = server.api();
    let tenant = api.subscribe("Acme", &customer.url(), &["*"]);
    for number in 0..4 {
        let url = format!("{}?{number}", customer.url());
        tenant.api.make("/tenants/me/endpoints", json!({"url": url, "events": ["invoice.*", "*"]}));
    }
    let ids = api.published("invoice.paid", json!({"a": 1}));
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 5);
    let requests: Vec<Request> = (0..5).map(|_| customer.request()).collect();
    let bodies: HashSet<&str> = requests.iter().map(|request| request.body.as_str()).collect();
    assert_eq!(bodies.len(), 1, "the same bytes");
    let received: HashSet<_> = requests.iter().map(|request| request.headers["webhook-id"].clone()).collect();
    assert_eq!(received, ids.into_iter().collect());
}

#[test]
fn deliveries_follow_the_settings_of_the_endpoint() {
    let customer = RawCustomer::answering(OK);
    let server = Server::tenants(&[]);
    let api = server.api();
    let tenant = api.subscribe("Acme", NOWHERE, &["never"]);
    let new = json!({
        "url": customer.url(), "events": ["*"], "content_type": "application/json",
        "headers": {"Authorization": "Bearer of-theirs", "x-env": "test"},
    });
    let endpoint = tenant.api.make("/tenants/me/endpoints", new);
    assert_eq!(endpoint["header_names"], json!(["authorization", "x-env"]));
    assert!(!endpoint.to_string().contains("of-theirs"));
    api.published("x", json!(1));
    let request = customer.request();
    assert_eq!(request.headers["authorization"], "Bearer of-theirs");
    assert_eq!(request.headers["x-env"], "test");
    assert_eq!(request.headers["content-type"], "application/json");
    assert!(opens_with("keys/private_key.pem", &request).is_some());

    let path = format!("/tenants/me/endpoints/{}", endpoint["id"].as_str().unwrap());
    assert_eq!(tenant.api.patch(&path, json!({"envelope": "rsa-oaep", "headers": {}})).status, 200);
    api.published("x", json!({"a": 1}));
    let request = customer.request();
    assert!(request.body.starts_with('"') && !request.headers.contains_key("x-env"), "{request:?}");
    let too_large = api.publish("x", json!("x".repeat(600)));
    assert_eq!(too_large.status, 413, "{too_large:?}");
    api.subscribe("Other", NOWHERE, &["*"]);
    let partly = api.publish("x", json!("x".repeat(600)));
    assert_eq!((partly.status, message_ids(&partly).len()), (202, 1));
    assert_eq!(partly.json()["refused"][0]["reason"], "too_large_for_envelope");
    assert_eq!(partly.json()["refused"][0]["endpoint"], endpoint["id"]);

    let test = tenant.api.make(&format!("{path}/test"), json!(null));
    assert_eq!(customer.request().headers["webhook-id"], test["messages"][0]["id"].as_str().unwrap());
}

#[test]
fn a_repeated_publish_returns_the_same_ids_and_is_delivered_once() {
    let customer = RawCustomer::answering(OK);
    let server = Server::tenants(&[]);
    let api = server.api();
    let tenant = api.subscribe("Acme", &customer.url(), &["*"]);
    let event = json!({"type": "invoice.paid", "payload": {"a": 1}});
    let publish = |api: &crate::support::Api, key: &str, event: &serde_json::Value| {
        api.call("POST", "/publish", &[("idempotency-key", key)], event)
    };
    let first = publish(&api, "order-1", &event);
    let again: Vec<Answer> = thread::scope(|scope| {
        let sending: Vec<_> = (0..8).map(|_| scope.spawn(|| publish(&api, "order-1", &event))).collect();
        sending.into_iter().map(|sent| sent.join().unwrap()).collect()
    });
    for answer in &again {
        assert_eq!((answer.status, &answer.body), (202, &first.body));
    }
    let reused = publish(&api, "order-1", &json!({"type": "invoice.paid", "payload": {"a": 2}}));
    assert_eq!(reused.status, 409);
    assert!(reused.problem().contains("Idempotency-Key"), "{reused:?}");
    assert_eq!(publish(&api, "a b", &event).status, 400);
    let of_tenant = publish(&tenant.api, "order-1", &event);
    assert_ne!(message_ids(&of_tenant), message_ids(&first), "idempotency keys are per publisher");
    server.wait_for_metric("whk_jobs_delivered_total", 2);
    assert_eq!(server.metric("whk_jobs_published_total"), 2);

    // Eight concurrent requests, none of which was seen before.
    let many: HashSet<String> = thread::scope(|scope| {
        let sending: Vec<_> = (0..8).map(|_| scope.spawn(|| publish(&api, "order-2", &event).body)).collect();
        sending.into_iter().map(|sent| sent.join().unwrap()).collect()
    });
    assert_eq!(many.len(), 1, "{many:?}");
    assert_eq!(server.metric("whk_jobs_published_total"), 3);
}

#[test]
fn a_repeated_publish_returns_the_same_ids_after_a_restart() {
    let server = Server::tenants(&[]);
    let api = server.api();
    api.subscribe("Acme", NOWHERE, &["*"]);
    let event = json!({"type": "x", "payload": 1});
    let first = api.call("POST", "/publish", &[("idempotency-key", "k")], &event);
    let folder = server.keep_data();
    let again = Server::start(
        crate::support::whk(&["publish-server", "--port", "0", "--log-format", "json", "--data-dir"])
            .arg(folder.path()),
    );
    let api = crate::support::Api { port: again.port, key: api.key };
    let second = api.call("POST", "/publish", &[("idempotency-key", "k")], &event);
    assert_eq!(second.body, first.body, "the ids derive from the key and the endpoint");
}

#[test]
fn a_failed_publish_can_be_repeated() {
    let server =
        Server::tenants(&["--max-queue-size", "1", "--tenant-queued-jobs", "9", "--retry-delays", "3600000"]);
    let api = server.api();
    api.subscribe("Acme", NOWHERE, &["*"]);
    api.published("x", json!(1));
    let publish =
        || api.call("POST", "/publish", &[("idempotency-key", "k")], &json!({"type": "x", "payload": 1}));
    assert_eq!(publish().status, 503);
    assert_eq!(api.delete("/tenants/Acme").status, 200);
    server.wait_for_metric("whk_jobs_dropped_total", 1);
    assert_eq!(publish().status, 202);
}

#[test]
fn cloud_events_are_accepted_in_structured_and_binary_mode() {
    let customer = RawCustomer::answering(OK);
    let server = Server::tenants(&[]);
    let api = server.api();
    api.subscribe("Acme", &customer.url(), &["com.example.invoice.*"]);
    let structured = json!({
        "specversion": "1.0", "id": "1", "source": "/billing", "type": "com.example.invoice.paid",
        "datacontenttype": "application/json", "time": "2026-01-01T00:00:00Z", "data": {"n": 1},
    });
    let send = |event: &serde_json::Value| {
        api.call(
            "POST",
            "/publish",
            &[("content-type", "application/cloudevents+json; charset=utf-8")],
            event,
        )
    };
    let first = send(&structured);
    assert_eq!(first.status, 202, "{first:?}");
    let opened = opens_with("keys/private_key.pem", &customer.request()).unwrap();
    assert_eq!((&opened["type"], &opened["data"]), (&json!("com.example.invoice.paid"), &json!({"n": 1})));
    let binary = |id: &'static str, more: &[(&str, &str)]| {
        let headers = [
            ("content-type", "application/json"),
            ("ce-specversion", "1.0"),
            ("ce-id", id),
            ("ce-source", "/billing"),
            ("ce-type", "com.example.invoice.paid"),
        ];
        api.call("POST", "/publish", &[&headers, more].concat(), &json!({"n": 1}))
    };
    assert_eq!(
        binary("1", &[]).body,
        first.body,
        "the same source and id are the same event, in either mode"
    );
    let second = binary("2", &[("ce-tenant", "Acme")]);
    assert_ne!(second.body, first.body);
    assert_eq!(opens_with("keys/private_key.pem", &customer.request()).unwrap()["data"], json!({"n": 1}));
    assert_eq!(server.metric("whk_jobs_published_total"), 2);

    for (member, value, expected) in [
        ("specversion", json!("0.3"), "'specversion' must be 1.0"),
        ("id", json!(""), "'id' is required"),
        ("source", json!(null), "'source' is required"),
        ("type", json!("invoice paid"), "'type' must be names"),
        ("datacontenttype", json!("text/xml"), "'datacontenttype'"),
        ("data_base64", json!("e30="), "'data_base64'"),
    ] {
        let mut event = structured.clone();
        event[member] = value;
        let answer = send(&event);
        assert_eq!(answer.status, 400, "{member}");
        assert!(answer.problem().contains(expected), "{member}: {}", answer.problem());
    }
    let mut to_another = structured.clone();
    to_another["tenant"] = json!("Acme");
    assert_eq!(send(&to_another).status, 409, "the same source and id for another recipient is a conflict");
    let batch = api.call(
        "POST",
        "/publish",
        &[("content-type", "application/cloudevents-batch+json")],
        &json!([structured]),
    );
    assert_eq!(batch.status, 415);
}

#[test]
fn an_ordered_endpoint_waits_for_its_first_event() {
    use std::io::Write as _;
    use std::sync::atomic::{AtomicBool, Ordering};
    let up = std::sync::Arc::new(AtomicBool::new(false));
    let switch = std::sync::Arc::clone(&up);
    let customer = RawCustomer::start(move |stream, _| {
        let answer = if switch.load(Ordering::Relaxed) { OK } else { FAILS };
        drop(stream.write_all(answer.as_bytes()));
    });
    let server = Server::tenants(&["--max-retries", "1000"]);
    let api = server.api();
    let tenant = api.subscribe("Acme", NOWHERE, &["never"]);
    tenant
        .api
        .make("/tenants/me/endpoints", json!({"url": customer.url(), "events": ["*"], "ordered": true}));
    let ids: Vec<String> = (0..20).flat_map(|n| api.published("x", json!(n))).collect();
    let first = customer.request();
    assert_eq!(first.headers["webhook-id"], ids[0]);
    up.store(true, Ordering::Relaxed);
    let mut order = vec![ids[0].clone()];
    while order.len() < ids.len() {
        let id = customer.request().headers["webhook-id"].clone();
        if order.last() != Some(&id) {
            order.push(id);
        }
    }
    assert_eq!(order, ids);
}

#[test]
fn direct_mode_needs_a_public_key_and_works_beside_tenants() {
    let server = Server::tenants(&[]);
    let body = json!({"url": NOWHERE, "payload": 1});
    let off = server.api().post("/publish", body.clone());
    assert_eq!((off.status, off.problem().contains("--public-key")), (400, true));
    let json_type = [("content-type", "application/json")];
    let stranger = post(server.port, "/publish", &json_type, body.to_string().as_bytes());
    assert_eq!(stranger.status, 401);

    let server = Server::publish_locally(&[]);
    let stranger = |body: serde_json::Value| {
        post(server.port, "/publish", &json_type, body.to_string().as_bytes()).status
    };
    assert_eq!(stranger(body), 202);
    assert_eq!(stranger(json!({"type": "x", "payload": 1})), 401);
    let customer = RawCustomer::answering(OK);
    let tenant = server.api().subscribe("Acme", &customer.url(), &["*"]);
    assert_eq!(tenant.api.published("x", json!(1)).len(), 1);
    customer.request();
}

#[test]
fn a_fan_out_that_exceeds_the_queue_is_refused_as_a_whole() {
    let server =
        Server::tenants(&["--max-queue-size", "5", "--tenant-queued-jobs", "9", "--retry-delays", "3600000"]);
    let api = server.api();
    for number in 0..3 {
        api.subscribe(&format!("t{number}"), NOWHERE, &["*"]);
    }
    assert_eq!(api.published("x", json!(1)).len(), 3);
    let refused = api.publish("x", json!(1));
    assert_eq!((refused.status, refused.headers["retry-after"].as_str()), (503, "1"));
    assert_eq!(server.metric("whk_jobs_published_total"), 3);
    for number in 3..6 {
        api.subscribe(&format!("t{number}"), NOWHERE, &["*"]);
    }
    let never = api.publish("x", json!(1));
    assert_eq!(never.status, 413, "an event that exceeds an empty queue must not be retried: {never:?}");
    assert!(never.problem().contains("--max-queue-size"));
    assert_eq!(server.metric("whk_jobs_published_total"), 3);
}
