//! Servers that share their tenants through Redis.

use std::path::Path;
use std::sync::{Arc, Barrier};
use std::thread;

use serde_json::json;

use crate::support::{
    Api, NOWHERE, OK, RawCustomer, Server, fixture, message_ids, redis_url, run, stderr, wait_until, whk,
};

/// A registry in Redis that no other test uses.
struct SharedRegistry {
    url: String,
    prefix: String,
    folder: tempfile::TempDir,
}

impl SharedRegistry {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // The folder's name is unique while it exists, so the prefix is unique too.
        let name = folder.path().file_name().unwrap().to_str().unwrap();
        let prefix = format!("e2e-{}-{}", std::process::id(), name.trim_start_matches('.'));
        let shared = Self { url: redis_url(), prefix, folder };
        std::fs::copy(fixture("registry/v1/secret.key"), shared.secret_key()).unwrap();
        shared
    }

    fn secret_key(&self) -> std::path::PathBuf {
        self.folder.path().join("secret.key")
    }

    fn flags<'a>(&'a self, what: &'a str) -> [&'a str; 6] {
        [what, "redis", "--redis-url", &self.url, "--redis-prefix", &self.prefix]
    }

    /// Starts a server with its registry in Redis and its queue in its own data dir.
    fn serve(&self) -> Server {
        self.serve_with("--registry")
    }

    fn serve_with(&self, what: &str) -> Server {
        let key = self.secret_key();
        Server::tenants(&[&self.flags(what)[..], &["--secret-key-file", key.to_str().unwrap()]].concat())
    }
}

fn provider_key_in(folder: &Path) -> Option<String> {
    std::fs::read_to_string(folder.join("provider_key.txt")).ok()
}

#[test]
fn servers_that_start_together_share_one_provider_key_and_all_tenants() {
    let shared = SharedRegistry::new();
    let begin = Arc::new(Barrier::new(3));
    let servers: Vec<Server> = thread::scope(|scope| {
        let starting: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    begin.wait();
                    shared.serve()
                })
            })
            .collect();
        starting.into_iter().map(|server| server.join().unwrap()).collect()
    });
    let keys: Vec<String> = servers.iter().filter_map(|server| provider_key_in(server.data_dir())).collect();
    assert_eq!(keys.len(), 1, "one server must have written the key");
    let apis: Vec<Api> =
        servers.iter().map(|server| Api { port: server.port, key: keys[0].clone() }).collect();
    for api in &apis {
        assert_eq!(api.get("/api-keys").json()["data"].as_array().unwrap().len(), 1);
    }
    let later = shared.serve();
    assert!(provider_key_in(later.data_dir()).is_none(), "the registry has a provider key already");

    // A change that one server acknowledged is known to the others at once.
    let customer = RawCustomer::answering(OK);
    for round in 0..10 {
        let (here, there) = (&apis[round % 3], &apis[(round + 1) % 3]);
        let tenant = here.subscribe(&format!("t{round}"), &customer.url(), &["invoice.*"]);
        let event = json!({"type": "invoice.paid", "payload": round, "tenant": format!("t{round}")});
        let published = there.post("/publish", event);
        assert_eq!((published.status, message_ids(&published).len()), (202, 1), "{published:?}");
        assert_eq!(customer.request().headers["webhook-id"], message_ids(&published)[0]);
        let own = Api { port: there.port, key: tenant.api.key.clone() };
        assert_eq!(own.get("/tenants/me").json()["id"], *tenant.id);
        let taken = there.post("/tenants", json!({"name": format!("t{round}")}));
        assert_eq!(taken.status, 409, "{taken:?}");
    }
}

#[test]
fn either_server_delivers_to_endpoints_created_on_the_other() {
    let shared = SharedRegistry::new();
    let servers = [shared.serve_with("--queue"), shared.serve_with("--queue")];
    let key = servers.iter().find_map(|server| provider_key_in(server.data_dir())).unwrap();
    let apis = servers.each_ref().map(|server| Api { port: server.port, key: key.clone() });
    let customer = RawCustomer::answering(OK);
    let mut expected = Vec::new();
    for round in 0..20 {
        let (here, there) = (&apis[round % 2], &apis[(round + 1) % 2]);
        here.subscribe(&format!("t{round}"), &customer.url(), &["invoice.*"]);
        let event = json!({"type": "invoice.paid", "payload": round, "tenant": format!("t{round}")});
        expected.extend(message_ids(&there.post("/publish", event)));
    }
    assert_eq!(expected.len(), 20);
    let mut received: Vec<String> =
        (0..20).map(|_| customer.request().headers["webhook-id"].clone()).collect();
    expected.sort();
    received.sort();
    assert_eq!(received, expected);
    let sum = |name: &str| servers.iter().map(|server| server.metric(name)).sum::<u64>();
    wait_until("20 deliveries", || sum("whk_jobs_delivered_total") == 20);
    assert_eq!((sum("whk_jobs_dropped_total"), sum("whk_jobs_dead_total")), (0, 0));
}

#[test]
fn a_key_revoked_on_one_server_is_refused_by_the_other() {
    let shared = SharedRegistry::new();
    let (one, other) = (shared.serve(), shared.serve());
    let provider = one.api();
    let tenant = provider.subscribe("Acme", NOWHERE, &["never"]);
    let own = Api { port: other.port, key: tenant.api.key.clone() };
    assert_eq!(own.publish("x", json!(1)).status, 202);
    let keys = provider.get(&format!("/tenants/{}/api-keys", tenant.id)).json();
    let key = keys["data"][0]["id"].as_str().unwrap();
    assert_eq!(provider.delete(&format!("/tenants/{}/api-keys/{key}", tenant.id)).status, 204);
    assert_eq!(own.get("/tenants/me").status, 401, "routes that manage tenants must refuse it at once");
    wait_until("a revoked key that is refused", || own.publish("x", json!(1)).status == 401);
}

#[test]
fn an_unusable_redis_or_secret_key_is_reported_with_the_remedy() {
    let shared = SharedRegistry::new();
    let server = shared.serve();
    let elsewhere = tempfile::tempdir().unwrap();
    let start = |flags: &[&str]| {
        let folder = ["publish-server", "--port", "0", "--data-dir", elsewhere.path().to_str().unwrap()];
        run(&[&folder[..], flags].concat())
    };
    let missing = start(&shared.flags("--registry"));
    assert_eq!(missing.status.code(), Some(66), "{missing:?}");
    assert!(stderr(&missing).contains("copy secret.key"), "{}", stderr(&missing));
    let wrong = elsewhere.path().join("wrong.key");
    std::fs::write(&wrong, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").unwrap();
    let wrong =
        start(&[&shared.flags("--registry")[..], &["--secret-key-file", wrong.to_str().unwrap()]].concat());
    assert_eq!(wrong.status.code(), Some(64), "{wrong:?}");
    assert!(stderr(&wrong).contains("--secret-key-file"), "{}", stderr(&wrong));
    let away = start(&["--registry", "redis", "--redis-url", "redis://user:s3cret@127.0.0.1:9"]);
    assert_eq!(away.status.code(), Some(69), "{away:?}");
    assert!(stderr(&away).contains("--redis-url") && !stderr(&away).contains("s3cret"), "{}", stderr(&away));
    drop(server);
}

#[test]
fn the_default_registry_is_in_the_data_dir() {
    let server = Server::tenants(&[]);
    assert!(server.data_dir().join("registry.db").exists());
    let mut command = whk(&["publish-server", "--help"]);
    let help = String::from_utf8(command.output().unwrap().stdout).unwrap();
    assert!(help.contains("--registry <"), "{help}");
}
