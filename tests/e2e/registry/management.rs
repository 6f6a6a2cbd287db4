//! Managing tenants over HTTP, with the registry in the data dir.

use std::collections::HashSet;
use std::path::Path;
use std::thread;

use serde_json::{Value, json};

use crate::support::{Api, NOWHERE, Server, run, stderr, whk};

fn serve_from(folder: &Path) -> Server {
    let mut command = whk(&["publish-server", "--port", "0", "--log-format", "json", "--data-dir"]);
    Server::start(command.arg(folder).args(["--allow-net", "127.0.0.0/8"]))
}

#[test]
fn the_first_start_creates_a_provider_key_and_later_starts_keep_it() {
    let server = Server::tenants(&[]);
    let key = server.api().key;
    server.wait_for_log("provider_key.txt");
    assert!(!server.log().contains(&key));
    server.api().subscribe("Acme", NOWHERE, &["*"]);
    let folder = server.keep_data();
    let again = serve_from(folder.path());
    let api = Api { port: again.port, key: key.clone() };
    assert_eq!(api.get("/tenants/Acme").status, 200, "the tenant must survive kill -9");
    assert!(!again.log().contains("wrote a new API key"));
    drop(again);
    let mut command = whk(&["publish-server", "--port", "0", "--log-format", "json", "--new-provider-key"]);
    let rotated = Server::start(command.arg("--data-dir").arg(folder.path()));
    let new = std::fs::read_to_string(folder.path().join("provider_key.txt")).unwrap();
    assert_ne!(new, key);
    let status = |key| Api { port: rotated.port, key }.get("/tenants").status;
    assert_eq!((status(new), status(key)), (200, 401), "the old key must be revoked");
}

#[test]
fn acknowledged_changes_survive_kill_9() {
    let server = Server::tenants(&[]);
    let api = server.api();
    let made: Vec<String> = thread::scope(|scope| {
        let making: Vec<_> = (0..4)
            .map(|part| {
                let api = &api;
                scope.spawn(move || {
                    let name = |n: usize| format!("tenant {part}.{n}");
                    let made = (0..25).map(|n| api.make("/tenants", json!({"name": name(n)}))["id"].clone());
                    made.map(|id| id.as_str().unwrap().to_owned()).collect::<Vec<_>>()
                })
            })
            .collect();
        making.into_iter().flat_map(|made| made.join().unwrap()).collect()
    });
    let folder = server.keep_data();
    let again = serve_from(folder.path());
    let api = Api { port: again.port, key: api.key };
    for id in made {
        assert_eq!(api.get(&format!("/tenants/{id}")).status, 200, "{id}");
    }
}

#[test]
fn an_unusable_data_dir_is_named_with_the_remedy() {
    let server = Server::tenants(&[]);
    let in_use = run(&["publish-server", "--port", "0", "--data-dir", server.data_dir().to_str().unwrap()]);
    assert_eq!(in_use.status.code(), Some(69));
    assert!(stderr(&in_use).contains("in use by another whk"), "{}", stderr(&in_use));
    // Not even root can create a folder there.
    let read_only = run(&["publish-server", "--port", "0", "--data-dir", "/sys/whk"]);
    assert_eq!(read_only.status.code(), Some(77), "{read_only:?}");
    assert!(stderr(&read_only).contains("--data-dir"), "{}", stderr(&read_only));
    let folder = server.keep_data();
    let database = rusqlite::Connection::open(folder.path().join("registry.db")).unwrap();
    database.execute_batch("PRAGMA user_version = 99").unwrap();
    drop(database);
    let newer = run(&["publish-server", "--port", "0", "--data-dir", folder.path().to_str().unwrap()]);
    assert_eq!(newer.status.code(), Some(64));
    assert!(stderr(&newer).contains("upgrade"), "{}", stderr(&newer));
}

#[test]
fn a_full_disk_refuses_changes_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    // A write beyond the limit sends SIGXFSZ, which would end the process. A full disk sends no signal, so it is ignored.
    let mut command = std::process::Command::new("sh");
    command.args(["-c", r#"trap "" XFSZ; exec "$0" "$@""#, env!("CARGO_BIN_EXE_whk"), "publish-server"]);
    command.args(["--port", "0", "--log-format", "json", "--data-dir"]).arg(folder.path());
    let mut server = Server::start(command);
    let key = std::fs::read_to_string(folder.path().join("provider_key.txt")).unwrap();
    let api = Api { port: server.port, key };
    api.make("/tenants", json!({"name": "before"}));
    // No file of the process can grow any more, as on a disk without a free byte.
    server.limit_file_size(Some(0));
    let refused = api.post("/tenants", json!({"name": "during"}));
    assert_eq!((refused.status, refused.headers.contains_key("retry-after")), (503, true), "{refused:?}");
    assert!(refused.problem().contains("wasn't made"));
    assert_eq!(api.get("/tenants/during").status, 404);
    assert_eq!(api.get("/tenants/before").status, 200, "existing tenants must be readable");
    server.limit_file_size(None);
    api.make("/tenants", json!({"name": "during"}));
    server.signal("KILL");
    server.wait();
    let again = serve_from(folder.path());
    let api = Api { port: again.port, key: api.key };
    for name in ["before", "during"] {
        assert_eq!(api.get(&format!("/tenants/{name}")).status, 200, "{name}");
    }
}

#[test]
fn of_two_changes_to_the_same_version_one_is_refused() {
    let server = Server::tenants(&[]);
    let api = server.api();
    let tenant = api.subscribe("Acme", NOWHERE, &["*"]);
    for path in [format!("/tenants/{}", tenant.id), tenant.endpoint_path()] {
        let tag = api.get(&path).headers["etag"].clone();
        let member = if path.contains("endpoints") { "description" } else { "name" };
        let statuses: HashSet<u16> = thread::scope(|scope| {
            let change = |text: &'static str| {
                let (api, path, tag) = (&api, &path, &tag);
                scope.spawn(move || {
                    api.call("PATCH", path, &[("if-match", tag)], &json!({member: text})).status
                })
            };
            [change("one"), change("two")].into_iter().map(|changed| changed.join().unwrap()).collect()
        });
        assert_eq!(statuses, HashSet::from([200, 412]), "{path}");
        let now = api.get(&path).headers["etag"].clone();
        assert_ne!(now, tag);
        assert_eq!(api.call("PATCH", &path, &[("if-match", &now)], &json!({})).status, 200);
        assert_eq!(api.call("DELETE", &path, &[("if-match", &tag)], &Value::Null).status, 412);
        assert_eq!(api.call("PATCH", &path, &[("if-match", "*")], &json!({})).status, 200);
        assert_eq!(api.get(&path).headers["etag"], now, "an empty change must not make a version");
    }
}

#[test]
fn invalid_input_is_refused_with_the_member_and_changes_nothing() {
    let server = Server::tenants(&[]);
    let api = server.api();
    let tenant = api.subscribe("Acme", NOWHERE, &["*"]);
    for (name, expected) in [
        (json!(""), "'name'"),
        (json!("a\nb"), "control characters"),
        (json!("\u{202e}evil"), "direction marks"),
        (json!(" padded"), "white space"),
        (json!("ten_x"), "begin with `ten_`"),
        (json!(7), "'name'"),
        (json!("x".repeat(129)), "128"),
    ] {
        let answer = api.post("/tenants", json!({"name": name}));
        assert_eq!(answer.status, 400, "{name}");
        assert!(answer.problem().contains(expected), "{name}: {}", answer.problem());
    }
    let good = json!({"url": NOWHERE, "events": ["*"]});
    for (member, value, expected) in [
        ("url", json!("http://10.0.0.1/"), "--allow-net"),
        ("url", json!("ftp://example.com/"), "http or https"),
        ("url", json!("http://user:pw@127.0.0.1/"), "credentials"),
        ("events", json!([]), "1 to 64"),
        ("events", json!(["invoice paid"]), "'events' must be an event type"),
        ("events", json!(["Invoice..paid"]), "'events'"),
        ("events", json!(["*.paid"]), "'events'"),
        ("events", json!(["rechnung.bezählt"]), "'events'"),
        ("headers", json!({"x-a": "b\r\nwebhook-id: forged"}), "visible ASCII"),
        ("headers", json!({"x-a\r\nhost": "b"}), "letters, digits"),
        ("headers", json!({"Webhook-Signature": "v1,x"}), "set by whk"),
        ("headers", json!({"HOST": "x"}), "set by whk or by HTTP"),
        ("secret", json!("whsec_short"), "'secret'"),
        ("envelope", json!("none"), "'envelope'"),
        ("ordered", json!("yes"), "'ordered'"),
        ("descripton", json!("a typing error"), "descripton"),
    ] {
        let mut body = good.clone();
        body[member] = value.clone();
        let answer = tenant.api.post("/tenants/me/endpoints", body);
        assert_eq!(answer.status, 400, "{member} {value}");
        assert!(answer.problem().contains(expected), "{member} {value}: {}", answer.problem());
    }
    for (key, expected) in [
        ("", "empty"),
        ("no key", "'public_key' holds no PEM"),
        ("private_key.pem", "private key where a public key belongs"),
        ("short_public_key.pem", "1024 bits"),
        ("ec_public_key.pem", "isn't RSA"),
    ] {
        let text = std::fs::read_to_string(crate::support::fixture(&format!("keys/{key}")));
        let answer =
            tenant.api.post("/tenants/me/public-keys", json!({"public_key": text.unwrap_or(key.into())}));
        assert_eq!(answer.status, 400, "{key}");
        assert!(answer.problem().contains(expected), "{key}: {}", answer.problem());
    }
    let large = json!({"name": "x".repeat(70_000)});
    assert_eq!(api.post("/tenants", large).status, 413);
    let text = api.call("POST", "/tenants", &[("content-type", "text/plain")], &json!({"name": "x"}));
    assert_eq!(text.status, 415);
    for query in ["limit=0", "limit=101", "limit=x", "cursor=x", "limit=1&limit=2", "page=2"] {
        assert_eq!(api.get(&format!("/tenants?{query}")).status, 400, "{query}");
    }
    assert_eq!(api.get("/tenants/%ff").status, 400);
    assert_eq!(api.get("/tenants").json()["data"].as_array().unwrap().len(), 1);
    assert_eq!(api.get("/tenants/Acme/endpoints").json()["data"].as_array().unwrap().len(), 1);
}

#[test]
fn names_of_any_script_are_found_by_name_and_listed_by_page() {
    let server = Server::tenants(&[]);
    let api = server.api();
    let names = ["株式会社", "a/b?c#d", "..", "100 %", "👩‍💻"];
    for name in names {
        api.make("/tenants", json!({"name": name}));
        let encoded: String = name.bytes().map(|byte| format!("%{byte:02x}")).collect();
        assert_eq!(api.get(&format!("/tenants/{encoded}")).json()["name"], name);
    }
    let taken = api.post("/tenants", json!({"name": "100 %"}));
    assert_eq!(
        (taken.status, taken.problem().as_str()),
        (409, "another tenant has this name; choose another name")
    );
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = api.get(&format!("/tenants?limit=2{cursor}")).json();
        seen.extend(page["data"].as_array().unwrap().iter().map(|tenant| tenant["name"].clone()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, names);
}

#[test]
fn a_repeated_creation_returns_the_same_response() {
    let server = Server::tenants(&[]);
    let api = server.api();
    let create = |key: &str, name: &str| {
        api.call("POST", "/tenants", &[("idempotency-key", key)], &json!({"name": name}))
    };
    let first = create("k1", "Acme");
    let again = create("k1", "Acme");
    assert_eq!((again.status, &again.body), (201, &first.body));
    assert_eq!(again.headers["etag"], first.headers["etag"]);
    assert_eq!(create("k1", "Other").status, 409, "the same key with another request is a conflict");
    assert_eq!(create("k2", "Acme").status, 409, "another key is another request, and the name is taken");
    assert_eq!(create("k2", "Other").status, 201, "a failed request must not use up its key");
    assert_eq!(api.get("/tenants").json()["data"].as_array().unwrap().len(), 2);
    let key = || api.call("POST", "/tenants/Acme/api-keys", &[("idempotency-key", "k")], &json!({}));
    assert_eq!(key().body, key().body);
}

#[test]
fn operation_ids_are_unique() {
    let server = Server::tenants(&[]);
    let api = crate::support::get(server.port, "/openapi.json").json();
    let mut names = Vec::new();
    for item in api["paths"].as_object().unwrap().values() {
        names
            .extend(item.as_object().unwrap().values().map(|operation| operation["operationId"].to_string()));
    }
    assert!(names.len() > 20);
    assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len(), "{names:?}");
}
