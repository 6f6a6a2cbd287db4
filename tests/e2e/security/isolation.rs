//! A tenant can neither read, detect nor change the data of another tenant.

use serde_json::{Value, json};

use crate::support::api::{UNKNOWN_ENDPOINT, UNKNOWN_MESSAGE, UNKNOWN_TENANT};
use crate::support::{Answer, Api, NOWHERE, OK, RawCustomer, Server, Tenant, fixture, get, wait_until};

/// Returns the method and path of every route of the API.
fn routes(server: &Server) -> Vec<(String, String)> {
    let paths = get(server.port, "/openapi.json").json()["paths"].as_object().unwrap().clone();
    let of_path = |(path, item): (&String, &Value)| {
        let methods: Vec<String> = item.as_object().unwrap().keys().map(|m| m.to_uppercase()).collect();
        methods.into_iter().map(|method| (method, path.clone())).collect::<Vec<_>>()
    };
    paths.iter().flat_map(of_path).collect()
}

/// Returns a valid body for a route.
fn body_for(method: &str, path: &str) -> Value {
    let key = || std::fs::read_to_string(fixture("keys/public_key.pem")).unwrap();
    match (method, path.rsplit('/').next().unwrap()) {
        ("POST", "public-keys") => json!({"public_key": key()}),
        ("POST", "endpoints") => json!({"url": NOWHERE, "events": ["*"]}),
        ("POST", "tenants") => json!({"name": "new"}),
        ("POST", "publish") => json!({"type": "x", "payload": 1}),
        ("POST", "replay" | "purge") => json!({"all": true}),
        ("POST" | "PATCH", _) => json!({}),
        _ => Value::Null,
    }
}

/// Makes a dead letter of a tenant and returns its id.
fn dead_letter_of(tenant: &Tenant) -> String {
    let id = tenant.api.published("x", json!(1)).remove(0);
    assert_eq!(tenant.api.patch(&tenant.endpoint_path(), json!({"enabled": false})).status, 200);
    let path = format!("/tenants/me/dead-letters/{id}");
    wait_until("a dead letter", || tenant.api.get(&path).status == 200);
    assert_eq!(tenant.api.patch(&tenant.endpoint_path(), json!({"enabled": true})).status, 200);
    id
}

#[test]
fn every_route_answers_for_another_tenants_ids_as_for_unknown_ones() {
    let server = Server::tenants(&[]);
    let api = server.api();
    let own = api.subscribe("Own", NOWHERE, &["*"]);
    let other = api.subscribe_with("Other", "keys/other_public_key.pem", NOWHERE, &["*"]);
    let kid = api.get(&format!("/tenants/{}/public-keys", other.id)).json()["data"][0]["kid"].clone();
    let key = api.get(&format!("/tenants/{}/api-keys", other.id)).json()["data"][0]["id"].clone();
    let dead = dead_letter_of(&other);
    let published = server.metric("whk_jobs_published_total");
    let fill = |path: &str, tenant: &str, endpoint: &str| {
        path.replace("{tenant}", tenant)
            .replace("{endpoint}", endpoint)
            .replace("{kid}", kid.as_str().unwrap())
            .replace("{key_id}", key.as_str().unwrap())
            .replace("{message_id}", &dead)
    };
    let call =
        |method: &str, path: &str, filled: &str| own.api.call(method, filled, &[], &body_for(method, path));
    let said = |answer: &Answer| {
        let mut headers = answer.headers.clone();
        headers.remove("date");
        (answer.status, headers, answer.body.clone())
    };
    let mut of_tenants = 0;
    for (method, path) in routes(&server).iter().filter(|(_, path)| path.contains("{tenant}")) {
        of_tenants += 1;
        let unknown = call(method, path, &fill(path, UNKNOWN_TENANT, UNKNOWN_ENDPOINT));
        for named in [other.id.as_str(), "Other"] {
            let theirs = call(method, path, &fill(path, named, &other.endpoint));
            assert_eq!(said(&theirs), said(&unknown), "{method} {path}");
        }
        assert!(matches!(unknown.status, 403 | 404), "{method} {path}: {unknown:?}");
        if path.contains("{kid}") {
            let theirs = call(method, path, &fill(path, "me", ""));
            let unknown =
                call(method, path, &path.replace("{tenant}", "me").replace("{kid}", &"x".repeat(43)));
            assert_eq!(said(&theirs), said(&unknown), "{method} {path}");
            assert_eq!(unknown.status, 404, "{method} {path}");
        }
        if path.contains("{message_id}") {
            let unknown =
                call(method, path, &path.replace("{tenant}", "me").replace("{message_id}", UNKNOWN_MESSAGE));
            let theirs = call(method, path, &fill(path, "me", ""));
            assert_eq!(said(&theirs), said(&unknown), "{method} {path}");
            assert_eq!(unknown.status, 404, "{method} {path}");
        }
        if path.contains("{endpoint}") {
            // The endpoint of another tenant, under the caller's own tenant.
            let unknown = call(method, path, &fill(path, "me", UNKNOWN_ENDPOINT));
            let theirs = call(method, path, &fill(path, "me", &other.endpoint));
            assert_eq!(said(&theirs), said(&unknown), "{method} {path}");
            assert_eq!(unknown.status, 404, "{method} {path}");
        }
    }
    assert_eq!(of_tenants, 21, "the number of routes with a tenant has changed");
    let left = api.get(&format!("/tenants/{}/dead-letters", other.id)).json();
    assert_eq!(left["data"][0]["id"], *dead, "the dead letter must be neither replayed nor purged");
    let elsewhere = json!({"type": "x", "payload": 1, "tenant": "Other"});
    let to_other = own.api.post("/publish", elsewhere);
    let to_unknown = own.api.post("/publish", json!({"type": "x", "payload": 1, "tenant": "Nobody"}));
    assert_eq!(said(&to_other), said(&to_unknown));
    assert_eq!(to_other.status, 404);
    assert_eq!(
        api.get(&format!("/tenants/{}/endpoints", other.id)).json()["data"].as_array().unwrap().len(),
        1
    );
    assert_eq!(server.metric("whk_jobs_published_total"), published);
}

#[test]
fn a_tenant_publishes_to_itself_alone() {
    let (own_customer, other_customer) = (RawCustomer::answering(OK), RawCustomer::answering(OK));
    let server = Server::tenants(&[]);
    let api = server.api();
    let own = api.subscribe("Own", &own_customer.url(), &["*"]);
    api.subscribe("Other", &other_customer.url(), &["*"]);
    assert_eq!(own.api.published("x", json!(1)).len(), 1);
    for named in ["me", "Own", own.id.as_str()] {
        let answer = own.api.post("/publish", json!({"type": "x", "payload": 1, "tenant": named}));
        assert_eq!(answer.status, 202, "{named}");
    }
    server.wait_for_metric("whk_jobs_delivered_total", 4);
    assert!(other_customer.got_nothing());
}

#[test]
fn every_route_is_closed_without_a_valid_key() {
    let server = Server::tenants(&[]);
    let api = server.api();
    let tenant = api.subscribe("Acme", NOWHERE, &["*"]);
    let revoked = api.make("/tenants/Acme/api-keys", json!({"description": "for a day"}));
    let revoked_api = api.with_key(revoked["key"].as_str().unwrap());
    assert_eq!(revoked_api.get("/tenants/me").status, 200);
    assert_eq!(
        api.delete(&format!("/tenants/Acme/api-keys/{}", revoked["id"].as_str().unwrap())).status,
        204
    );
    let open = ["/healthz", "/readyz", "/metrics", "/openapi.json"];
    for (method, path) in routes(&server).iter().filter(|(_, path)| !open.contains(&path.as_str())) {
        let filled = path.replace("{tenant}", &tenant.id).replace("{endpoint}", &tenant.endpoint);
        for closed in
            [&revoked_api, &api.with_key(""), &api.with_key("whk_tenant_"), &api.with_key(&"x".repeat(500))]
        {
            let answer = closed.call(method, &filled, &[], &body_for(method, path));
            assert_eq!(answer.status, 401, "{method} {path}");
            assert_eq!(answer.headers["www-authenticate"], "Bearer");
            answer.problem();
        }
        // A valid key in the URL is refused, with and without a valid key in the header.
        let in_query = format!("{filled}?api_key={}", tenant.api.key);
        let in_path = filled.replace("{key_id}", &tenant.api.key).replace("{kid}", &tenant.api.key);
        for url in [in_query.as_str(), in_path.as_str()] {
            for caller in [&api.with_key(""), &api].into_iter().filter(|_| url.contains(&tenant.api.key)) {
                let answer = caller.call(method, url, &[], &body_for(method, path));
                assert_eq!(answer.status, 400, "{method} {path}");
                assert!(answer.problem().contains("revoke it"), "{method} {path}");
            }
        }
    }
    let basic = |scheme: &str| {
        let head = format!(
            "GET /tenants HTTP/1.1\r\nhost: test\r\nconnection: close\r\nauthorization: {scheme} {}\r\n\r\n",
            api.key
        );
        crate::support::exchange(server.port, &head, b"").status
    };
    assert_eq!((basic("Basic"), basic("bearer")), (401, 200));
    assert!(!server.log().contains(&tenant.api.key) && !server.log().contains(&api.key));
}

#[test]
fn a_tenant_may_not_use_the_providers_routes() {
    let server = Server::tenants(&[]);
    let tenant = server.api().subscribe("Acme", NOWHERE, &["*"]);
    for (method, path) in [
        ("GET", "/tenants"),
        ("POST", "/tenants"),
        ("PATCH", "/tenants/me"),
        ("DELETE", "/tenants/me"),
        ("GET", "/api-keys"),
        ("POST", "/api-keys"),
        ("GET", "/tenants/me/api-keys"),
        ("POST", "/tenants/me/api-keys"),
        ("GET", "/dead-letters"),
        ("GET", &format!("/dead-letters/{UNKNOWN_MESSAGE}")),
        ("POST", "/dead-letters/replay"),
        ("POST", "/dead-letters/purge"),
        ("GET", &format!("/messages/{UNKNOWN_MESSAGE}")),
    ] {
        let answer = tenant.api.call(method, path, &[], &body_for(method, path));
        assert_eq!(answer.status, 403, "{method} {path}: {answer:?}");
        answer.problem();
    }
}

/// Creates a tenant with those limits and another without.
fn limited(server: &Server, limits: Value) -> (Api, Tenant, Tenant) {
    let api = server.api();
    let limited = api.subscribe("Limited", NOWHERE, &["*"]);
    let other = api.subscribe("Other", NOWHERE, &["*"]);
    assert_eq!(api.patch("/tenants/Limited", json!({"limits": limits})).status, 200);
    (api, limited, other)
}

#[test]
fn a_tenant_with_too_many_queued_jobs_gets_429_and_others_do_not() {
    let server = Server::tenants(&["--retry-delays", "3600000"]);
    let (api, tenant, other) = limited(&server, json!({"queued_jobs": 3}));
    (0..3).for_each(|n| drop(tenant.api.published("x", json!(n))));
    let full = tenant.api.publish("x", json!(1));
    assert_eq!(full.status, 429);
    assert!(full.problem().contains("queued jobs") && full.headers.contains_key("retry-after"), "{full:?}");
    assert_eq!(other.api.published("x", json!(1)).len(), 1);
    let to_all = api.publish("x", json!(1)).json();
    assert_eq!(to_all["messages"][0]["tenant"], *other.id);
    assert_eq!(to_all["refused"], json!([{"tenant": tenant.id, "reason": "queued_jobs"}]));
    let test = tenant.api.post(&format!("{}/test", tenant.endpoint_path()), json!(null));
    assert_eq!(test.status, 429);
    // Settled jobs make room for new ones.
    assert_eq!(tenant.api.patch(&tenant.endpoint_path(), json!({"enabled": false})).status, 200);
    server.wait_for_metric("whk_jobs_dead_total", 3);
    assert_eq!(tenant.api.patch(&tenant.endpoint_path(), json!({"enabled": true})).status, 200);
    assert_eq!(tenant.api.published("x", json!(1)).len(), 1);
}

#[test]
fn a_tenant_that_publishes_too_fast_gets_429_and_others_do_not() {
    let server = Server::tenants(&[]);
    let (api, tenant, other) = limited(&server, json!({"publishes_per_second": 2}));
    let many: Vec<Answer> = (0..30).map(|n| tenant.api.publish("x", json!(n))).collect();
    let refused =
        many.iter().find(|answer| answer.status == 429).expect("30 events must exceed two a second");
    assert!(refused.problem().contains("2 published events per second"), "{refused:?}");
    assert_eq!(refused.headers["retry-after"], "1");
    assert!(many[..2].iter().all(|answer| answer.status == 202));
    (0..30).for_each(|n| drop(other.api.published("x", json!(n))));
    assert_eq!(api.published("x", json!(1)).len(), 2, "an event that the provider publishes must not count");
}

#[test]
fn the_number_of_a_tenants_endpoints_is_limited() {
    let server = Server::tenants(&["--tenant-endpoints", "2"]);
    let (api, tenant, other) = limited(&server, json!({"endpoints": 1}));
    let more = json!({"url": NOWHERE, "events": ["*"]});
    let refused = tenant.api.post("/tenants/me/endpoints", more.clone());
    assert_eq!(
        (refused.status, refused.problem().as_str()),
        (429, "the limit is reached: 1 endpoints (delete one, or ask the provider for more)")
    );
    other.api.make("/tenants/me/endpoints", more.clone());
    assert_eq!(
        other.api.post("/tenants/me/endpoints", more.clone()).status,
        429,
        "the server's default limit must apply"
    );
    assert_eq!(
        api.patch("/tenants/Limited", json!({"limits": {}})).status,
        200,
        "an absent limit stays unchanged"
    );
    assert_eq!(tenant.api.post("/tenants/me/endpoints", more.clone()).status, 429);
    let shown = tenant.api.get("/tenants/me").json();
    assert_eq!(
        (&shown["effective_limits"]["endpoints"], &shown["usage"]["endpoints"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(api.patch("/tenants/Limited", json!({"limits": {"endpoints": null}})).status, 200);
    tenant.api.make("/tenants/me/endpoints", more);
}

#[test]
fn the_bytes_of_a_tenants_queued_jobs_are_limited() {
    let server = Server::tenants(&["--retry-delays", "3600000", "--tenant-queued-bytes", "200000"]);
    let (api, tenant, other) = limited(&server, json!({}));
    let large = json!("x".repeat(60_000));
    (0..2).for_each(|_| drop(tenant.api.published("x", large.clone())));
    let full = tenant.api.publish("x", large.clone());
    assert_eq!((full.status, full.problem().contains("bytes")), (429, true), "{full:?}");
    assert_eq!(tenant.api.published("x", json!(1)).len(), 1, "a small event must fit");
    let to_all = api.publish("x", large).json();
    assert_eq!(to_all["refused"], json!([{"tenant": tenant.id, "reason": "queued_bytes"}]));
    assert_eq!(to_all["messages"][0]["tenant"], *other.id);
}

#[test]
fn a_tenant_can_not_enable_an_endpoint_that_the_provider_disabled() {
    let server = Server::tenants(&[]);
    let api = server.api();
    let tenant = api.subscribe("Acme", NOWHERE, &["*"]);
    let switch = |api: &Api, enabled: bool| api.patch(&tenant.endpoint_path(), json!({"enabled": enabled}));
    assert_eq!(switch(&tenant.api, false).json()["disabled_reason"], "by_tenant");
    assert_eq!(
        switch(&api, false).json()["disabled_reason"],
        "by_provider",
        "the provider's reason must replace the tenant's"
    );
    assert_eq!(switch(&tenant.api, false).json()["disabled_reason"], "by_provider");
    let refused = switch(&tenant.api, true);
    assert_eq!((refused.status, refused.problem().contains("provider")), (409, true));
    assert_eq!(switch(&api, true).json()["enabled"], true);
    assert_eq!(switch(&tenant.api, false).json()["disabled_reason"], "by_tenant");
    assert_eq!(switch(&tenant.api, true).status, 200);
}

#[test]
fn direct_mode_does_not_use_up_a_tenants_quota() {
    let server = Server::publish_locally(&["--retry-delays", "3600000"]);
    let (_, tenant, _) = limited(&server, json!({"queued_jobs": 2}));
    for _ in 0..5 {
        let body = json!({"url": NOWHERE, "payload": 1, "target": tenant.id}).to_string();
        assert_eq!(crate::support::publish(&server, &body).status, 202);
    }
    assert_eq!(tenant.api.published("x", json!(1)).len(), 1);
    let deleted = server.api().delete(&format!("/tenants/{}", tenant.id)).json();
    assert_eq!(deleted["dropped_jobs"], 1);
}
