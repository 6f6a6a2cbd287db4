//! Dead letters over HTTP: listed, shown, replayed, purged; and the state of each message.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use whk::publish::DIRECT_TENANT;

use crate::support::api::{UNKNOWN_ENDPOINT, UNKNOWN_MESSAGE};
use crate::support::dead_letters::{
    failing_until_set, ids, listed, make_dead_letters, never_answering, state,
};
use crate::support::{FAILS, RawCustomer, Server, publish_to, wait_until};

const GONE: &str = "HTTP/1.1 410 Gone\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

#[test]
fn dead_letters_are_listed_shown_and_replayed_with_the_same_id() {
    let (customer, is_up) = failing_until_set();
    let server = Server::tenants(&["--max-retries", "1"]);
    let api = server.api();
    let acme = api.subscribe("Acme", &customer.url(), &["*"]);
    let id = make_dead_letters(&acme, 1).pop_first().unwrap();
    let sealed = customer.request().body;
    assert_eq!(customer.request().headers["webhook-id"], id);

    for (api, root) in [(&api, ""), (&api, "/tenants/Acme"), (&acme.api, "/tenants/me")] {
        let letters = listed(api, &format!("{root}/dead-letters"));
        let [letter] = letters.as_slice() else { panic!("{letters:?}") };
        assert_eq!((&letter["id"], &letter["tenant"]), (&json!(id), &json!(acme.id)));
        assert_eq!((&letter["endpoint"], &letter["attempt_count"]), (&json!(acme.endpoint), &json!(2)));
        assert_eq!((&letter["cause"], &letter["fault"]), (&json!("exhausted"), &json!("customer")));
        assert_eq!(letter["detail"], "retries exhausted: answered 500");
        assert_eq!(letter["bytes"], sealed.len());
        let shown = api.get(&format!("{root}/dead-letters/{id}"));
        assert!(
            shown.body.ends_with(&format!("\"body\":{sealed}}}")),
            "the body must be unchanged: {shown:?}"
        );
        let shown = shown.json();
        assert_eq!(shown["content_type"], "application/jose+json");
        assert_eq!(
            (shown["attempts"].as_array().unwrap().len(), &shown["attempts"][1]["status"]),
            (2, &json!(500))
        );
        let message = api.get(&format!("{root}/messages/{id}")).json();
        assert_eq!((&message["state"], &message["cause"]), (&json!("dead"), &json!("exhausted")));
        assert_eq!(
            (&message["attempts"], &message["published_at"]),
            (&shown["attempts"], &shown["published_at"])
        );
    }
    assert_eq!(server.metric("whk_jobs_dead_by_cause_total{cause=\"exhausted\"}"), 1);

    is_up.store(true, Ordering::SeqCst);
    let replayed = acme.api.make("/tenants/me/dead-letters/replay", json!({"message": id}));
    assert_eq!(
        (&replayed["matched"], &replayed["replayed"], &replayed["more"]),
        (&json!(1), &json!(1), &json!(false))
    );
    let again = customer.request();
    assert_eq!((&again.headers["webhook-id"], &again.body), (&id, &sealed));
    wait_until("the delivery", || state(&api, &id) == "delivered");
    let message = api.get(&format!("/messages/{id}")).json();
    assert_eq!(
        message["attempts"].as_array().unwrap().len(),
        1,
        "a replay starts a new list of attempts: {message}"
    );
    assert_eq!(message["attempts"][0]["status"], 200);
    assert_eq!((message.get("cause"), message.get("fault")), (None, None));
    assert_eq!(listed(&api, "/dead-letters"), Vec::<Value>::new());
    assert_eq!(api.get(&format!("/dead-letters/{id}")).status, 404);
    assert_eq!(server.metric("whk_jobs_replayed_total"), 1);
    assert_eq!(api.get(&format!("/messages/{UNKNOWN_MESSAGE}")).status, 404);
    assert_eq!(api.get("/messages/secret").problem(), "no such message");
}

#[test]
fn filters_combine_and_each_dead_letter_is_on_one_page() {
    let (down, gone) = (RawCustomer::answering(FAILS), RawCustomer::answering(GONE));
    let server = Server::publish_locally(&["--max-retries", "0"]);
    let api = server.api();
    let (acme, other) =
        (api.subscribe("Acme", &down.url(), &["*"]), api.subscribe("Other", &gone.url(), &["*"]));
    let of_acme = make_dead_letters(&acme, 3);
    let of_other = make_dead_letters(&other, 1);
    let direct = publish_to(&server, &format!("{}?token=secret", down.url()), "1");
    wait_until("a dead letter", || state(&api, &direct) == "dead");
    let everything = listed(&api, "/dead-letters");
    let all = ids(&everything);
    assert_eq!(all.len(), 5);
    let died = |letter: &Value| letter["died_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert!(everything.is_sorted_by_key(died), "the oldest dead letter comes first");
    let last = died(&everything[4]);

    let none = BTreeSet::new();
    let of_direct = BTreeSet::from([direct.clone()]);
    let of_endpoints = &of_acme | &of_other;
    let not_gone = &of_acme | &of_direct;
    for (query, found) in [
        ("tenant=Acme".to_owned(), &of_acme),
        (format!("tenant={}", other.id), &of_other),
        (format!("endpoint={}", acme.endpoint), &of_acme),
        (format!("tenant=Other&endpoint={}", acme.endpoint), &none),
        ("cause=gone".into(), &of_other),
        ("cause=exhausted".into(), &not_gone),
        ("cause=exhausted&cause=gone,disabled".into(), &all),
        ("fault=customer".into(), &all),
        ("fault=system".into(), &none),
        ("fault=system&cause=gone".into(), &none),
        ("since=2020-01-01T00:00:00Z&until=2020-01-02T00:00:00Z".into(), &none),
        (format!("since={last}"), &of_direct),
        (format!("until={last}"), &of_endpoints),
        // A tenant that was deleted or never existed.
        ("tenant=ten_01980000000070008000000000000000".into(), &none),
    ] {
        assert_eq!(&ids(&listed(&api, &format!("/dead-letters?{query}"))), found, "{query}");
        // A dry run counts the same dead letters that a list shows.
        let conditions = query.split('&').filter_map(|pair| pair.split_once('='));
        let mut body = json!({"dry_run": true});
        for (name, value) in conditions {
            match (name, body.get_mut("cause")) {
                ("cause", Some(causes)) => {
                    causes.as_array_mut().unwrap().extend(value.split(',').map(|cause| json!(cause)));
                }
                ("cause", None) => body["cause"] = value.split(',').collect(),
                _ => body[name] = json!(value),
            }
        }
        assert_eq!(api.make("/dead-letters/purge", body)["matched"], found.len(), "{query}");
    }
    assert_eq!(
        ids(&listed(&acme.api, "/tenants/me/dead-letters")),
        of_acme,
        "dead letters of direct mode belong to no tenant"
    );

    let mut paged = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = api.get(&format!("/dead-letters?limit=2{cursor}")).json();
        paged.extend(page["data"].as_array().unwrap().clone());
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(paged, everything);

    let shown = api.get(&format!("/dead-letters/{direct}")).body;
    assert!(shown.contains(&format!("\"origin\":\"http://127.0.0.1:{}\"", down.port)), "{shown}");
    assert!(shown.contains(&format!("\"target\":\"{DIRECT_TENANT}\"")), "{shown}");
    let message = api.get(&format!("/messages/{direct}")).body;
    assert!(
        ![shown, message, server.log()].iter().any(|text| text.contains("secret")),
        "the URL's query must be hidden"
    );
    for (query, expected) in
        [("cause=none", "'cause'"), ("tenant=Nobody", "no such tenant"), ("limit=0", "'limit'")]
    {
        let refused = api.get(&format!("/dead-letters?{query}"));
        assert!(matches!(refused.status, 400 | 404) && refused.problem().contains(expected), "{refused:?}");
    }
}

#[test]
fn replay_and_purge_need_a_condition_or_all() {
    let server = Server::tenants(&["--max-retries", "0"]);
    let down = RawCustomer::answering(FAILS);
    let api = server.api();
    let acme = api.subscribe("Acme", &down.url(), &["*"]);
    make_dead_letters(&acme, 5);
    let dead = || listed(&api, "/dead-letters").len();
    for (api, root) in [(&api, "/dead-letters"), (&acme.api, "/tenants/me/dead-letters")] {
        for act in ["replay", "purge"] {
            let path = format!("{root}/{act}");
            for unconditional in [json!({}), json!({"limit": 1}), json!({"all": false})] {
                let refused = api.post(&path, unconditional);
                assert_eq!(
                    (refused.status, refused.problem().contains("\"all\": true")),
                    (400, true),
                    "{path}"
                );
            }
            for wrong in [
                json!({"cause": []}),
                json!({"all": true, "limit": 0}),
                json!({"all": true, "limit": 1001}),
                json!({"all": true, "causes": ["gone"]}),
                json!({"all": null}),
                json!({"since": "yesterday"}),
            ] {
                assert_eq!(api.post(&path, wrong.clone()).status, 400, "{path}: {wrong}");
            }
            let counted = api.make(&path, json!({"dry_run": true, "limit": 2}));
            assert_eq!((&counted["matched"], &counted["more"]), (&json!(5), &json!(true)), "{path}");
            let counted = api.make(&path, json!({"message": UNKNOWN_MESSAGE}));
            assert_eq!((&counted["matched"], &counted["more"]), (&json!(0), &json!(false)), "{path}");
        }
    }
    assert_eq!((dead(), server.metric("whk_jobs_replayed_total")), (5, 0));

    // A repeated request with the same idempotency key has no further effect.
    let once = || {
        api.call(
            "POST",
            "/dead-letters/purge",
            &[("idempotency-key", "k")],
            &json!({"all": true, "limit": 2}),
        )
    };
    let purged = once().json();
    assert_eq!((&purged["purged"], &purged["more"], dead()), (&json!(2), &json!(true), 3));
    assert_eq!((once().json(), dead()), (purged, 3));
    let rest = acme.api.make("/tenants/me/dead-letters/purge", json!({"fault": "customer"}));
    assert_eq!((&rest["purged"], &rest["more"], dead()), (&json!(3), &json!(false), 0));
    assert_eq!(server.metric("whk_dead_letters_purged_total"), 5);
}

#[test]
fn a_replay_leaves_the_dead_letters_that_exceed_a_limit() {
    let (down, hangs) = (RawCustomer::answering(FAILS), never_answering());
    let server = Server::tenants(&["--max-retries", "0", "--max-queue-size", "2"]);
    let api = server.api();
    let acme = api.subscribe("Acme", &down.url(), &["*"]);
    for _ in 0..5 {
        make_dead_letters(&acme, 1);
    }
    // From now on queued jobs stay queued, because the customer never answers.
    assert_eq!(acme.api.patch(&acme.endpoint_path(), json!({"url": hangs.url()})).status, 200);
    assert_eq!(api.patch("/tenants/Acme", json!({"limits": {"queued_jobs": 1}})).status, 200);
    let replay = || acme.api.post("/tenants/me/dead-letters/replay", json!({"all": true}));
    let first = replay().json();
    assert_eq!(
        (&first["replayed"], &first["more"]),
        (&json!(1), &json!(true)),
        "the tenant's limit of queued jobs"
    );
    let full = replay();
    assert_eq!((full.status, full.problem().contains("queued jobs")), (429, true), "{full:?}");
    let of_all = || api.post("/dead-letters/replay", json!({"all": true}));
    let first = of_all().json();
    assert_eq!((&first["replayed"], &first["more"]), (&json!(1), &json!(true)), "the limit of the queue");
    let full = of_all();
    assert_eq!((full.status, full.problem().contains("the queue is full")), (503, true), "{full:?}");
    assert!(full.headers.contains_key("retry-after"));
    assert_eq!(listed(&api, "/dead-letters").len(), 3);
}

#[test]
fn a_tenant_can_not_replay_or_purge_dead_letters_of_another() {
    let down = RawCustomer::answering(FAILS);
    let server = Server::tenants(&["--max-retries", "0"]);
    let api = server.api();
    let (own, other) =
        (api.subscribe("Own", &down.url(), &["*"]), api.subscribe("Other", &down.url(), &["*"]));
    let (of_own, of_other) = (make_dead_letters(&own, 2), make_dead_letters(&other, 2));
    let theirs = of_other.first().unwrap();
    for act in ["replay", "purge"] {
        let path = format!("/tenants/me/dead-letters/{act}");
        for dry_run in [true, false] {
            for (member, theirs, unknown) in [
                ("message", theirs.as_str(), UNKNOWN_MESSAGE),
                ("endpoint", &other.endpoint, UNKNOWN_ENDPOINT),
            ] {
                let said = |id: &str| {
                    let mut said = own.api.make(&path, json!({member: id, "dry_run": dry_run}));
                    said["until"].take();
                    said
                };
                assert_eq!(said(theirs), said(unknown), "{path}: {member}");
                assert_eq!(said(theirs)["matched"], 0, "{path}: {member}");
            }
        }
        for named in ["Other", other.id.as_str(), "Nobody"] {
            let refused = own.api.post(&path, json!({"tenant": named}));
            assert_eq!((refused.status, refused.problem().as_str()), (404, "no such tenant"), "{named}");
        }
    }
    for named in ["Other", other.id.as_str(), "Nobody"] {
        let refused = own.api.get(&format!("/tenants/me/dead-letters?tenant={named}"));
        assert_eq!((refused.status, refused.problem().as_str()), (404, "no such tenant"), "{named}");
    }
    assert_eq!(listed(&own.api, &format!("/tenants/me/dead-letters?endpoint={}", other.endpoint)).len(), 0);
    assert_eq!(ids(&listed(&own.api, "/tenants/me/dead-letters?tenant=me")), of_own);
    // With the provider's key, a tenant's route reaches that tenant alone as well.
    let refused = api.post("/tenants/Own/dead-letters/purge", json!({"tenant": "Other"}));
    assert_eq!(refused.status, 404, "{refused:?}");
    let purged = own.api.make("/tenants/me/dead-letters/purge", json!({"all": true}));
    assert_eq!(purged["purged"], 2);
    assert_eq!(ids(&listed(&api, "/dead-letters")), of_other);
}

#[test]
fn dead_letters_are_purged_after_their_retention() {
    let down = RawCustomer::answering(FAILS);
    let server = Server::tenants(&["--max-retries", "0", "--dead-letter-retention", "1s"]);
    let acme = server.api().subscribe("Acme", &down.url(), &["*"]);
    let id = acme.api.published("x", json!(1)).remove(0);
    server.wait_for_metric("whk_jobs_dead_total", 1);
    server.wait_for_metric("whk_dead_letters_purged_total", 1);
    assert_eq!(acme.api.get(&format!("/tenants/me/dead-letters/{id}")).status, 404);
    assert!(server.log().contains("--dead-letter-retention"));
}
